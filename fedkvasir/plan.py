"""A scenario checked against the registries and the catalogs: who holds what, every split, what it will cost.

Names, roots and roles fail here before a pixel is read; pictures on both sides fail here before a step is trained.
"""

import hashlib
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from fedkvasir import scenario as scenarios
from fedkvasir.algorithms import build_algorithm
from fedkvasir.data import audit
from fedkvasir.data.augment import AUGMENTS
from fedkvasir.data.catalog import Catalog
from fedkvasir.data.datasets import find_dataset, find_root
from fedkvasir.data.loader import Samples, steps_per_epoch
from fedkvasir.data.split import split_center
from fedkvasir.data.store import Store, open_store
from fedkvasir.errors import UserError
from fedkvasir.files import write_atomic
from fedkvasir.losses import LOSSES
from fedkvasir.models import find_model
from fedkvasir.scenario import Center, Scenario, did_you_mean

Progress = Callable[[str, int, int], None]
"""(what, done, total)"""

COLUMNS = (
    "sample", "dataset", "center", "role", "split", "group", "label", "target", "row", "store", "width", "height",
)  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """Everything a run needs to know; the same on every machine but for ``store`` and ``device``.

    ``samples``: one row a sample with :data:`COLUMNS`, sorted by center, split, sample; ``target`` is the class index,
    ``store`` a folder, ``row`` the place in it, ``width`` and ``height`` the native size in pixels.
    """

    scenario: Scenario
    samples: pd.DataFrame
    classes: tuple[str, ...]
    catalogs: dict[str, str]
    """Scenario center -> sha256 of its dataset's listing."""
    data_sha256: str
    """Of all pixels used: a changed picture changes it."""
    device: str
    precision: str
    warnings: tuple[str, ...] = ()

    @cached_property
    def hash(self) -> str:
        """sha256 of everything that can change the numbers."""
        resolved = self.scenario.model_dump(mode="json", exclude={"name", "question", "resources"})
        del resolved["data"]["roots"]  # where files lie on this machine
        for center in resolved["data"]["centers"].values():
            del center["root"]
        weights = self.scenario.model.weights
        if weights and Path(weights).is_file():
            resolved["model"]["weights"] = hashlib.sha256(Path(weights).read_bytes()).hexdigest()
        threads = self.scenario.resources.threads_per_center
        identity = [resolved, threads, self.precision, self.catalogs]
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()

    @property
    def name(self) -> str:
        """The run's folder name."""
        return f"{self.scenario.name}-{self.hash[:8]}"

    @cached_property
    def centers(self) -> pd.DataFrame:
        """One row a center, by name: role and the number of train, val and test images."""
        counts = self.samples.groupby(["center", "split"]).size().unstack(fill_value=0)
        counts = counts.reindex(columns=["train", "val", "test"], fill_value=0)
        counts.insert(0, "role", self.samples.groupby("center")["role"].first())
        return counts

    @property
    def training_centers(self) -> list[str]:
        """Centers that train, sorted by name."""
        return list(self.centers.index[self.centers["train"] > 0])

    def part(self, center: str, split: str) -> Samples:
        """The samples of one split of one center."""
        own = self.samples[(self.samples["center"] == center) & (self.samples["split"] == split)]
        folder = self.samples.loc[self.samples["center"] == center, "store"].iloc[0]
        return Samples(own.reset_index(drop=True), Store(Path(folder)), self.scenario.task)

    def steps_per_round(self, center: str) -> int:
        """Optimiser steps of one center in one round."""
        training = self.scenario.training
        return training.epochs * steps_per_epoch(int(self.centers.loc[center, "train"]), training.batch_size)

    def save(self, folder: Path) -> None:
        """Write ``scenario.yaml``, ``plan.parquet`` and ``plan.json``."""
        write_atomic(folder / "scenario.yaml", self.scenario.dump())
        write_atomic(folder / "plan.parquet", self.samples.to_parquet())
        facts = {
            "hash": self.hash,
            "classes": self.classes,
            "catalogs": self.catalogs,
            "data_sha256": self.data_sha256,
            "device": self.device,
            "precision": self.precision,
            "warnings": self.warnings,
        }
        write_atomic(folder / "plan.json", json.dumps(facts, indent=1))

    @staticmethod
    def load(folder: Path) -> "Plan":
        """Read what :meth:`save` wrote."""
        facts = json.loads((folder / "plan.json").read_text())
        return Plan(
            scenarios.load(folder / "scenario.yaml"),
            pd.read_parquet(folder / "plan.parquet"),
            tuple(facts["classes"]),
            facts["catalogs"],
            facts["data_sha256"],
            facts["device"],
            facts["precision"],
            tuple(facts["warnings"]),
        )


def make_plan(scenario: Scenario, data_dir: Path | None = None, progress: Progress | None = None) -> Plan:
    """Check names, read catalogs, build stores, form groups, split, audit.

    Raises UserError at the first thing wrong; every check that needs no pixel comes before the first pixel is read.
    """
    check_names(scenario)
    device = _device(scenario)
    catalogs = {name: _read(scenario, center, data_dir, progress) for name, center in scenario.data.centers.items()}
    chosen = pd.concat([_choose(scenario, name, catalog) for name, catalog in catalogs.items()], ignore_index=True)
    _one_holder(scenario, chosen)
    by_root = {str(catalog.root): catalog for catalog in catalogs.values()}
    stores = {root: _open(scenario, catalog, progress) for root, catalog in by_root.items()}
    samples, skipped = _with_pixels(chosen, stores)
    thumbs = np.stack([stores[root].thumbs[row] for root, row in zip(samples["root"], samples["row"], strict=True)])
    pairs = audit.near_duplicates(list(samples["phash"]), thumbs)
    samples["group"] = audit.join_groups(list(samples["group"]), list(samples["sample"]), pairs)
    samples = pd.concat(
        [
            split_center(
                name, scenario.data.centers[name], samples[samples["source"] == name], scenario.data.split_seed
            )
            for name in scenario.data.centers
        ]
    )
    leaks = _refuse_leaks(scenario, samples, pairs)
    classes = ("polyp",) if scenario.task == "segmentation" else tuple(sorted(samples["label"].unique()))
    index = {name: number for number, name in enumerate(classes)}
    samples["target"] = [index.get(label, 0) for label in samples["label"]]
    samples["role"] = [scenario.data.centers[name].role for name in samples["source"]]
    samples["store"] = [str(stores[root].folder) for root in samples["root"]]
    samples = samples.sort_values(["center", "split", "sample"], ignore_index=True)
    listing = "\n".join(samples["sample"] + " " + samples["pixels_sha256"])
    plan = Plan(
        scenario,
        samples[list(COLUMNS)],
        classes,
        {name: catalog.hash for name, catalog in catalogs.items()},
        hashlib.sha256(listing.encode()).hexdigest(),
        device,
        "bfloat16" if device == "cuda" and scenario.training.amp else "float32",
        (
            *(f"{catalog.dataset}: {text}" for catalog in by_root.values() for text in catalog.warnings),
            *skipped,
            *leaks,
        ),
    )
    _refuse_empty(plan)
    return plan


def check_names(scenario: Scenario) -> None:
    """Every name in the scenario against its registry. Raises UserError with the key and the nearest spelling."""
    training = scenario.training
    for key, value, known in (
        ("training.loss", training.loss, [name for name, loss in LOSSES.items() if loss.task == scenario.task]),
        ("training.augment", training.augment, list(AUGMENTS)),
    ):
        if value not in known:
            near = did_you_mean(value, known)
            raise UserError(f"{key} = {value!r} is not known for {scenario.task}{near}; known: {', '.join(known)}")
    find_model(scenario.model, scenario.task)
    build_algorithm(scenario.algorithm).check(scenario)
    for name, center in scenario.data.centers.items():
        dataset = find_dataset(center.dataset)
        if scenario.task not in dataset.tasks:
            raise UserError(f"data.centers.{name}: {center.dataset} is for {', '.join(dataset.tasks)}")


def _device(scenario: Scenario) -> str:
    wanted, there = scenario.resources.device, torch.cuda.is_available()
    if wanted == "cuda" and not there:
        raise UserError("resources.device = cuda, but torch sees no GPU here; see `fedkvasir doctor`")
    return "cuda" if there and wanted != "cpu" else "cpu"


def _read(scenario: Scenario, center: Center, data_dir: Path | None, progress: Progress | None) -> Catalog:
    dataset, options = find_dataset(center.dataset), dict(scenario.data.options.get(center.dataset, {}))
    parameters = inspect.signature(dataset.prepare or dataset.read).parameters.values()
    allowed = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    for key in options:
        if key not in allowed:
            where = f"data.options.{center.dataset}.{key}"
            raise UserError(
                f"{where}: unknown option{did_you_mean(key, allowed)}; allowed: {', '.join(allowed) or 'none'}"
            )
    if dataset.prepare:
        return dataset.read(dataset.prepare(partial(progress, "rendering") if progress else None, **options))
    root = find_root(dataset, data_dir, center.root or scenario.data.roots.get(center.dataset))
    return dataset.read(root, **options)


def _choose(scenario: Scenario, name: str, catalog: Catalog) -> pd.DataFrame:
    """The rows of a catalog that a scenario center takes; ``row`` is their place in the store."""
    center, here = scenario.data.centers[name], f"data.centers.{name}"
    table = catalog.table.assign(row=range(len(catalog.table)), source=name, root=str(catalog.root))
    if center.center is not None:
        known = sorted(table["center"].dropna().unique())
        table = table[table["center"] == center.center]
        if table.empty:
            near = did_you_mean(center.center, known)
            raise UserError(
                f"{here}: {center.dataset} has no center {center.center!r}{near}; it has {', '.join(known)}"
            )
    if scenario.task == "segmentation":
        table = table[table["mask"].notna() | table["empty"]]
    else:
        table = table[table["label"].notna()]
    if table.empty:
        raise UserError(f"{here}: no image with a {'mask' if scenario.task == 'segmentation' else 'label'}")
    return table


def _one_holder(scenario: Scenario, chosen: pd.DataFrame) -> None:
    twice = chosen[chosen.duplicated("sample", keep=False)]
    if twice.empty:
        return
    named = [f"{name} ({scenario.data.centers[name].role})" for name in twice["source"].unique()[:2]]
    raise UserError(
        f"data.centers: {' and '.join(named)} hold the same {twice['sample'].nunique()} samples, "
        f"e.g. {twice['sample'].iloc[0]}; a picture belongs to one center"
    )


def _open(scenario: Scenario, catalog: Catalog, progress: Progress | None) -> Store:
    watch = partial(progress, f"decoding {catalog.dataset}") if progress else None
    return open_store(catalog, scenario.data.image_size, scenario.data.skip_unreadable, watch)


def _with_pixels(chosen: pd.DataFrame, stores: dict[str, Store]) -> tuple[pd.DataFrame, list[str]]:
    """``chosen`` with size, hashes and errors out of the stores, unreadable samples left out and named."""
    parts = []
    for root, own in chosen.groupby("root", sort=False):
        facts = stores[str(root)].table.iloc[own["row"]][["width", "height", "pixels_sha256", "phash", "error"]]
        parts.append(own.assign(**{column: facts[column].to_numpy() for column in facts}))
    samples = pd.concat(parts, ignore_index=True)
    bad = samples[samples["error"].notna()]
    warnings = [
        f"{source}: {len(own)} samples left out, they cannot be used: {own['error'].iloc[0]}"
        for source, own in bad.groupby("source")
    ]
    return samples[samples["error"].isna()].reset_index(drop=True), warnings


def _refuse_leaks(scenario: Scenario, samples: pd.DataFrame, pairs: list[tuple[int, int]]) -> list[str]:
    """Raise UserError for a picture or group on both sides, or return it as warnings under ``data.audit: warn``."""
    place = {old: new for new, old in enumerate(samples.index)}
    known = [(place[i], place[j]) for i, j in pairs if i in place and j in place]
    found = audit.leaks(samples, known)
    if found.empty:
        return []
    named = "; ".join(f"{row.train} = {row.test}" for row in found.head(3).itertuples())
    text = f"{len(found)} pictures or groups lie on both sides of train and test: {named}" + (
        "; ..." if len(found) > 3 else ""
    )
    if scenario.data.audit == "refuse":
        raise UserError(f"{text}; take one side out, or say data.audit=warn to run all the same")
    return [f"LEAKAGE: {text}"]


def _refuse_empty(plan: Plan) -> None:
    for name, center in plan.scenario.data.centers.items():
        if center.role == "holdout":
            continue
        own = [name] if center.partition is None else [f"{name}-{n + 1}" for n in range(len(center.partition.weights))]
        for hospital in own:
            train = int(plan.centers["train"].get(hospital, 0))
            if train < 2:
                raise UserError(f"data.centers.{name}: {hospital} is left with {train} training image(s); it needs two")
    if plan.scenario.evaluation.select == "train-val" and not plan.centers["val"].sum():
        raise UserError("evaluation.select = train-val needs validation images: set val: 0.15 at the training centers")
    if plan.scenario.evaluation.select == "oracle" and not (plan.centers["role"] == "holdout").any():
        raise UserError("evaluation.select = oracle looks at a holdout; the scenario has none")
