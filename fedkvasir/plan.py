"""A scenario checked against the registries and the catalogs: who holds what, every split, what it will cost.

Names, roots and roles fail here before a pixel is read; pictures on both sides fail here before a step is trained.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fedkvasir import scenario as scenarios
from fedkvasir.data.formats import picture
from fedkvasir.data.hospitals import (
    Hospitals,
    Progress,
    classes_spelt_alike,
    gather,
    in_store,
    seen_before,
    unfound,
    unlearnt,
)
from fedkvasir.data.loader import Samples, batches_of
from fedkvasir.data.partition import deal
from fedkvasir.ensembles import members_of
from fedkvasir.ensembles import parse as parse_ensemble
from fedkvasir.errors import UserError, did_you_mean
from fedkvasir.files import read_json, read_table, write_atomic
from fedkvasir.gpu import choose_device, precision_on
from fedkvasir.metrics.endocv2021 import OFFICIAL
from fedkvasir.names import check_names, spelled_out
from fedkvasir.pretrained import refuse_other_classes, source_sha256, trained_on
from fedkvasir.randomness import derive_seed
from fedkvasir.scenario import LOCALS, POOLED, WHOLE, Model, Scenario, Training

if TYPE_CHECKING:
    from fedkvasir.losses import LossFunction

COLUMNS = (
    "sample", "dataset", "center", "role", "split", "group", "label", "target", "row", "store", "width", "height",
)  # fmt: skip
NUMBERS = 4
"""Goes up when the same scenario gets other numbers than before, so that what was run before is another run."""
FACTS = ("classes", "catalogs", "pixels", "device", "precision", "warnings", "rendered", "counted", "numbers")
"""What plan.json holds of a plan."""
LEAK = "LEAKAGE: "
UNCHECKED = "LEAKAGE NOT RULED OUT: "
"""Begin a warning of what was found on both sides of train and test, and of what could not be looked for."""


@dataclass(frozen=True)
class Plan:
    """Everything a run needs to know; the same on every machine but for ``store``, ``mask`` and ``device``.

    ``samples``: one row a sample with :data:`COLUMNS`, sorted by center, split, sample; ``target`` is the class index,
    ``store`` a folder, ``row`` the place in it, ``width`` and ``height`` the native size in pixels. Where it was made
    from the images there is ``pixels_sha256`` as well, and where the scenario asks for scoring ``endocv2021-official``
    ``mask``: the picture file, or an empty text.
    """

    scenario: Scenario
    samples: pd.DataFrame
    classes: tuple[str, ...]
    catalogs: dict[str, str]
    """Scenario center -> sha256 of its dataset's listing."""
    pixels: dict[str, str]
    """Hospital -> sha256 of all pixels that it holds here: a changed picture changes it, and a changed mask."""
    device: str
    precision: str
    warnings: tuple[str, ...] = ()
    rendered: bool = False
    """No picture of a patient among them."""
    counted: dict[str, int] | None = None
    """Training images of each class over all hospitals, where ``samples`` are those of one hospital alone."""
    numbers: int = NUMBERS
    """:data:`NUMBERS` of the fedkvasir that made it."""

    @property
    def data_sha256(self) -> str:
        """Of all pixels used, by all hospitals."""
        return hashlib.sha256(json.dumps(self.pixels, sort_keys=True).encode()).hexdigest()

    @cached_property
    def hash(self) -> str:
        """sha256 of everything that can change the numbers."""
        resolved = self.scenario.decisive()
        frozen = self.scenario.data.split_file
        if frozen:
            resolved["data"]["split_file"] = hashlib.sha256(Path(frozen).read_bytes()).hexdigest()
        for model in (resolved["model"], *resolved["model"].get("members", ())):
            if isinstance(model, dict) and "weights" in model:  # a member may be a name alone
                model["weights"] = source_sha256(model["weights"]) or model["weights"]
        threads = self.scenario.resources.threads_per_center
        identity = [self.numbers, resolved, threads, self.precision, self.catalogs]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @property
    def name(self) -> str:
        """The run's folder name."""
        return f"{self.scenario.name}-{self.hash[:8]}"

    @cached_property
    def centers(self) -> pd.DataFrame:
        """One row a center, by name: role and the number of images that it trains, validates and is tested on.

        Under ``federation.train: pooled`` one more center, ``pooled``, trains on what the hospitals hold.
        """
        held = self.holdings
        if self.scenario.federation.train != POOLED:
            return held
        pooled = pd.DataFrame({"role": "train", "train": held["train"].sum(), "val": 0, "test": 0}, index=[POOLED])
        return pd.concat([held.assign(train=0), pooled]).rename_axis("center").sort_index()

    @cached_property
    def holdings(self) -> pd.DataFrame:
        """One row a center, by name: role and the number of train, val and test images that it holds."""
        counts = self.samples.groupby(["center", "split"]).size().unstack(fill_value=0)
        counts = counts.reindex(columns=["train", "val", "test"], fill_value=0)
        counts.insert(0, "role", self.samples.groupby("center")["role"].first())
        return counts

    @property
    def training_centers(self) -> list[str]:
        """Centers that train, sorted by name."""
        return list(self.centers.index[self.centers["train"] > 0])

    def holders(self, role: str, split: str) -> list[str]:
        """Centers of a role with images of a split, sorted by name."""
        centers = self.centers
        return list(centers.index[(centers["role"] == role) & (centers[split] > 0)])

    @property
    def leaks(self) -> list[str]:
        """Warnings of what was found on both sides of train and test."""
        return [text.removeprefix(LEAK) for text in self.warnings if text.startswith(LEAK)]

    @property
    def unchecked(self) -> list[str]:
        """Warnings of what could not be looked for on both sides."""
        return [text.removeprefix(UNCHECKED) for text in self.warnings if text.startswith(UNCHECKED)]

    @property
    def cautions(self) -> list[str]:
        """All other warnings."""
        return [text for text in self.warnings if not text.startswith((LEAK, UNCHECKED))]

    @cached_property
    def weights(self) -> dict[str, float]:
        """How much every training center counts in a mean over them, by ``federation.weighting``."""
        by_samples = self.scenario.federation.weighting == "samples"
        counts = self.centers["train"]
        return {center: float(counts[center] if by_samples else 1) for center in self.training_centers}

    @property
    def class_counts(self) -> dict[str, int]:
        """Training images of each class over all hospitals (classification), in class order."""
        if self.counted is not None:
            return self.counted
        shown = self.samples.loc[self.samples["split"] == "train", "target"].value_counts()
        return {name: int(shown.get(number, 0)) for number, name in enumerate(self.classes)}

    def loss(self) -> "LossFunction":
        """What training minimises. Raises UserError where its class weights do not fit the classes."""
        from fedkvasir.losses import build_loss

        return build_loss(self.scenario.training.loss, self.scenario.task, self.class_counts)

    @cached_property
    def members(self) -> dict[str, "Plan"]:
        """The plans of an ensemble's members by name, in order; empty for one network.

        A member is trained as it would be without the others; only of two of the same architecture the second has
        a seed of its own. The members of an ensemble of locals are the hospitals' own models.
        """
        scenario, plans = self.scenario, dict[str, Plan]()
        if scenario.federation.train == LOCALS:
            return {hospital: self.alone(hospital) for hospital in sorted(scenario.data.hospitals)}
        models = members_of(scenario.model, scenario.task)
        for index, (name, model) in enumerate(models.items()):
            twins = [other.name for other in models.values()][:index].count(model.name)
            seed = derive_seed(scenario.seed, "twin", twins) if twins else scenario.seed
            own = {"name": name, "model": model, "seed": seed}
            plans[name] = replace(self, scenario=scenario.model_copy(update=own))
        return plans

    def alone(self, center: str) -> "Plan":
        """The plan in which this hospital alone trains and validates; all others are only tested, as holdouts.

        Raises UserError where no hospital of that name trains.
        """
        if center not in (known := sorted(self.scenario.data.hospitals)):
            raise UserError(
                f"federation.train = {center!r} is no hospital that trains{did_you_mean(center, known)}; "
                f"known: each, {POOLED}, {LOCALS}, {', '.join(known)}"
            )
        # A center that was cut into hospitals keeps their common test set: it is at home in each of them.
        home = {center, self.scenario.data.hospitals.get(center)}
        others = ~self.samples["center"].isin(home) & (self.samples["role"] == "train")
        samples = self.samples[~others | (self.samples["split"] == "test")]
        federation = self.scenario.federation.model_copy(update={"train": center})
        return replace(
            self,
            scenario=self.scenario.model_copy(update={"federation": federation}),
            samples=samples.assign(role=samples["role"].mask(others, "holdout")).reset_index(drop=True),
            counted=None,
        )

    def as_trained(self) -> "Plan":
        """What follows from ``federation.train``: itself, or :meth:`alone` where it names a hospital."""
        train = self.scenario.federation.train
        return self if train in WHOLE else self.alone(train)

    def stage(self, member: str) -> "Plan":
        """The plan of one member; for the empty name what is left to do once there are members, itself without any.

        A learned fusion is fitted on half of the training hospitals' validation images and scored on the others, which
        it has not seen; every other fusion is scored on all of them. Raises UserError where a hospital has no half.
        """
        scenario = self.scenario
        if not member and scenario.federation.train == LOCALS:
            hospitals = sorted(scenario.data.hospitals)
            members = {"members": [scenario.model] * len(hospitals), "labels": hospitals}
            model = Model.model_validate({"name": "ensemble", **members})
            federation = scenario.federation.model_copy(update={"train": "each"})
            own = {"model": model, "federation": federation}
            return replace(self, scenario=scenario.model_copy(update=own)).stage("")
        parsed = parse_ensemble(scenario.model, scenario.task)
        if member or parsed is None:
            return self.members[member] if member else self
        fusion, samples = parsed.fusion, self.samples[self.samples["split"] != "train"]
        fitted = samples[samples["split"] == "val"]
        if fusion.name == "learned":
            fitted = _half(fitted, scenario.data.split_seed)
            samples = samples.drop(fitted.index)
        training = Training(
            loss=scenario.training.loss,
            lr=fusion.lr,
            batch_size=scenario.training.batch_size,
            epochs=fusion.epochs,
            augment="none",
            amp=scenario.training.amp,
        )
        federation = scenario.federation.model_copy(
            update={"rounds": fusion.rounds if fusion.name == "learned" else 0, "fraction": 1.0}
        )
        evaluation = scenario.evaluation.model_copy(update={"select": "last"})
        own = {"training": training, "federation": federation, "evaluation": evaluation}
        return replace(
            self,
            scenario=scenario.model_copy(update={**own, "algorithm": scenarios.Algorithm(name="fedavg")}),
            samples=pd.concat([samples, fitted.assign(split="train")], ignore_index=True),
        )

    def joined(self, classes: tuple[str, ...], counted: dict[str, int]) -> "Plan":
        """A hospital's own plan with what is known of all together: the classes, and training images of each."""
        index = {name: number for number, name in enumerate(classes)}
        targets = [index.get(label, 0) for label in self.samples["label"]]
        return replace(self, classes=classes, counted=counted, samples=self.samples.assign(target=targets))

    def part(self, center: str, split: str) -> Samples:
        """The samples of one split of one center."""
        if center == POOLED:
            own = self.samples[self.samples["split"] == split]
        else:
            own = self.samples.iloc[self._places.get((center, split), [])]
        return Samples(own.reset_index(drop=True), self.scenario.task, len(self.classes))

    @cached_property
    def _places(self) -> dict[tuple[str, str], np.ndarray]:
        """(center, split) -> positions in ``samples``: a table of a thousand hospitals is searched once."""
        return self.samples.groupby(["center", "split"]).indices

    def batches_of_steps(self, center: str) -> list[int]:
        """How many batches each optimiser step of the center's epochs takes; pooled, those of one hospital after the
        other, so that equal steps are taken."""
        training, held = self.scenario.training, self.holdings["train"]
        own = held if center == POOLED else held[[center]]
        epochs = [batches_of(int(count), training.batch_size) for count in own]
        most = training.accumulate
        return [min(most, batches - before) for batches in epochs for before in range(0, batches, most)]

    def steps_per_round(self, center: str) -> int:
        """Optimiser steps of one center in one round."""
        return self.scenario.training.epochs * len(self.batches_of_steps(center))

    def save(self, folder: Path) -> None:
        """Write ``scenario.yaml``, ``plan.parquet`` and ``plan.json``."""
        write_atomic(folder / "scenario.yaml", self.scenario.dump())
        write_atomic(folder / "plan.parquet", self.samples.to_parquet())
        facts = {"hash": self.hash, "source_sha256": source_sha256(self.scenario.model.weights)}
        facts |= {name: getattr(self, name) for name in FACTS}
        write_atomic(folder / "plan.json", json.dumps(facts, indent=1))

    @staticmethod
    def load(folder: Path) -> "Plan":
        """Read what :meth:`save` wrote, with the hash of then: fedkvasir may be another since, a named file gone."""
        facts = {"numbers": 1, **read_json(folder / "plan.json")}  # of a run from before they were counted
        own: dict[str, Any] = {
            name: tuple(facts[name]) if name in ("classes", "warnings") else facts[name] for name in FACTS
        }
        plan = Plan(scenarios.load(folder / "scenario.yaml"), read_table(folder / "plan.parquet"), **own)
        plan.__dict__["hash"] = facts["hash"]
        return plan


def make_plan(
    scenario: Scenario, data_dir: Path | None = None, progress: Progress | None = None, only: str | None = None
) -> Plan:
    """Check names, read catalogs, build stores, form groups, split, audit.

    only: a hospital of which there is to be a plan without the others, made from its own images alone.
    Raises UserError at the first thing wrong; every check that needs no pixel comes before the first pixel is read.
    """
    from fedkvasir.batch_size import fix_batch_size
    from fedkvasir.training import check_compiler

    check_names(scenario)
    scenario = spelled_out(scenario)
    if scenario.training.compile:
        check_compiler()
    device = choose_device(scenario.resources.device, "resources.device =")
    held = gather(_of_one(scenario, only) if only else scenario, data_dir, progress)
    leaks = _refuse_leaks(scenario, held) + refuse_tested_before(scenario, held)
    leaks += _same_hospitals(held) if only is None else []
    samples = held.samples if only is None else held.samples[held.samples["center"] == only].reset_index(drop=True)
    index = {name: number for number, name in enumerate(held.classes)}
    samples["target"] = [index.get(label, 0) for label in samples["label"]]
    places = samples[["dataset", "root"]].itertuples(index=False)
    samples["store"] = [str(held.stores[dataset, root].folder) for dataset, root in places]
    columns = [*COLUMNS, "pixels_sha256"]
    if OFFICIAL in scenario.evaluation.scoring:
        columns.append("mask")
        samples["mask"] = [
            str(Path(root, mask).absolute())
            if isinstance(mask, str) and mask.lower().endswith(picture.SUFFIXES)
            else ""
            for root, mask in zip(samples["root"], samples["mask"], strict=True)
        ]
    warnings = [*held.warnings, *leaks]
    if only is None:
        warnings += [*unlearnt(scenario, samples), *unfound(scenario, samples)]
    if only is None and scenario.task == "classification":
        warnings += classes_spelt_alike(samples.groupby("source")["label"].unique())
    listed = samples[["sample", "pixels_sha256", "mask_sha256"]].agg(" ".join, axis=1).groupby(samples["center"])
    plan = Plan(
        scenario,
        samples[columns],
        classes=held.classes,
        catalogs={name: catalog.hash for name, catalog in held.catalogs.items()},
        pixels={str(center): hashlib.sha256("\n".join(lines).encode()).hexdigest() for center, lines in listed},
        device=device,
        precision=precision_on(device, scenario.training.amp),
        warnings=tuple(warnings),
        rendered=held.rendered,
    )
    if only:
        return plan
    return fix_batch_size(settled(plan))


def settled(plan: Plan) -> Plan:
    """A plan of all hospitals as it is trained. Raises UserError where it cannot be."""
    _refuse_empty(plan)
    refuse_other_classes(plan.scenario, plan.classes)
    plan = plan.as_trained()
    if plan.scenario.federation.train == LOCALS and len(plan.training_centers) < 2:
        raise UserError(f"federation.train = {LOCALS} needs two hospitals or more")
    plan.loss()
    plan.stage("")
    return plan


def _half(validation: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Half of every hospital's validation groups, for a fusion to be fitted on."""
    halves = [validation[:0]]
    for center, own in validation.groupby("center"):
        if own["group"].nunique() < 2:
            raise UserError(
                "model.fusion = learned is fitted on half of a hospital's validation groups and scored on the others: "
                f"{center} has one; set a larger val there, or fusion: mean"
            )
        part = deal(own["group"], (1, 1), seed, str(center), "fusion", strata=own["target"])
        halves.append(own[part == 0])
    return pd.concat(halves)


def _of_one(scenario: Scenario, hospital: str) -> Scenario:
    """The scenario without the centers that are not this hospital, nor what it is cut from."""
    source, centers = scenario.data.hospitals.get(hospital, hospital), scenario.data.centers
    if source not in centers:
        known = sorted({*scenario.data.hospitals, *scenario.data.holdouts})
        raise UserError(
            f"{hospital} is no hospital of the scenario{did_you_mean(hospital, known)}; it has {', '.join(known)}"
        )
    data = scenario.data.model_copy(update={"centers": {source: centers[source]}})
    return scenario.model_copy(update={"data": data})


def _refuse_leaks(scenario: Scenario, held: Hospitals) -> list[str]:
    """Raise UserError for a picture or group on both sides, or return it as warnings under ``data.audit: warn``."""
    found = held.leaks
    if found.empty:
        return []
    named = "; ".join(f"{row.train} = {row.test}" for row in found.head(3).itertuples())
    text = f"{len(found)} pictures or groups lie on both sides of train and test: {named}" + (
        "; ..." if len(found) > 3 else ""
    )
    if scenario.data.audit == "refuse":
        raise UserError(
            f"{text}; say data.audit=drop to leave them out of training, take one side out yourself, or say "
            "data.audit=warn to run all the same (`fedkvasir data audit` shows the pictures)"
        )
    return [LEAK + text]


def refuse_tested_before(scenario: Scenario, held: Hospitals) -> list[str]:
    """The same for pictures or groups tested here that ``model.weights`` was trained on, in its run or one before; a
    warning of those that validate here."""
    images, warnings = held.samples["split"].value_counts(), []
    for source, earlier in trained_on(scenario):
        if earlier is None:
            warnings.append(
                f"{UNCHECKED}model.weights: what {source} was trained on is not known; it may be tested here"
            )
            continue
        if gone := int((~in_store(earlier)).sum()):
            how = "re-encoded" if "pixels_sha256" in earlier else "under other names"
            warnings.append(
                f"{UNCHECKED}model.weights: {gone} of {len(earlier)} pictures that trained or chose the weights of "
                f"{source} are in the store no more; whether they are tested here {how} was not looked for"
            )
        if learnt := seen_before(held, "val", earlier[earlier["split"] == "train"]):
            warnings.append(
                f"model.weights: {learnt} of {images['val']} validation images, or others of their groups, trained the "
                f"weights of {source}: what is chosen by them is chosen by what was learnt by heart"
            )
        again = seen_before(held, "test", earlier)
        if not again:
            continue
        tested = f"{again} of {images['test']} pictures tested here, or others of their groups"
        text = f"{tested}, trained or chose the weights of {source}"
        if scenario.data.audit != "warn":
            raise UserError(
                f"model.weights: {text}; start from other weights, or say data.audit=warn to run all the same"
            )
        warnings.append(LEAK + text)
    return warnings


def _same_hospitals(held: Hospitals) -> list[str]:
    """A warning where a holdout is of a hospital that trains, as the datasets say."""
    homes = {}
    for source, own in held.samples.groupby("source"):
        catalog = held.catalogs[str(source)]
        names = catalog.table.loc[catalog.table["sample"].isin(own["sample"]), "center"]
        homes[source] = {*names} - {catalog.dataset}  # what a folder is called that names no center
    roles = held.samples.groupby("source")["role"].first()
    pairs = [(one, other) for one in roles.index[roles == "train"] for other in roles.index[roles == "holdout"]]
    return [
        f"{UNCHECKED}{one} trains and {other} is held out, and both are of {' and '.join(sorted(both))}, as their "
        "datasets say: one patient may be on both sides, and the holdout is no other hospital"
        for one, other in pairs
        if (both := homes[one] & homes[other])
    ]


def _refuse_empty(plan: Plan) -> None:
    """Raise UserError where a hospital has too little to train, or nobody has what is selected by or tested."""
    for hospital, name in plan.scenario.data.hospitals.items():
        train = int(plan.holdings["train"].get(hospital, 0))
        if train < 2:
            raise UserError(f"data.centers.{name}: {hospital} is left with {train} training image(s); it needs two")
    if plan.scenario.evaluation.select == "train-val" and not plan.centers["val"].sum():
        raise UserError("evaluation.select = train-val needs validation images: set val: 0.15 at the training centers")
    if not plan.centers["test"].sum():
        raise UserError("a run needs test images: set test: 0.2 at the training centers, or role: holdout at another")
    if plan.scenario.evaluation.select == "oracle" and not (plan.centers["role"] == "holdout").any():
        raise UserError("evaluation.select = oracle looks at a holdout; the scenario has none")
