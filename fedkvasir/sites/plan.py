"""A plan of hospitals whose images are elsewhere: what each says of itself, and what follows from that.

What a hospital says are counts, class names and hashes: no name of a file, a sample or a group.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fedkvasir.data.hospitals import classes_spelt_alike
from fedkvasir.ensembles import parse
from fedkvasir.environment import computes_with
from fedkvasir.errors import UserError
from fedkvasir.evaluation.shared import MINIMUM
from fedkvasir.names import spelled_out
from fedkvasir.plan import COLUMNS, LEAK, NUMBERS, UNCHECKED, Plan, settled
from fedkvasir.pretrained import trained_on
from fedkvasir.scenario import POOLED, Scenario
from fedkvasir.sites.federation import SHA256, SiteKit

SPLITS = ("train", "val", "test")
VERSION = re.compile(r"[\w.+ -]{1,40}", re.ASCII)
MOST = 10_000_000
"""Images that a hospital may say it holds."""
THREADS = 256
"""More of them for one hospital end its process."""


def refuse_unfit(scenario: Scenario) -> None:
    """Raises UserError for a run that is for simulations alone, wherever it is met: at the coordinator's, at a
    hospital's door, and where a hospital looks beforehand."""
    if scenario.data.split_file:
        raise UserError("data.split_file names images, which stay at the hospitals: split by the centers' own keys")
    if scenario.federation.train == POOLED:
        raise UserError(f"{POOLED}: images of real hospitals stay where they are; take it out")
    if cut := next((name for name, center in scenario.data.centers.items() if center.partition), None):
        raise UserError(f"data.centers.{cut}.partition: a real hospital is one; give it a center of its own")
    if scenario.training.batch_size == "auto":
        raise UserError("training.batch_size = auto is tried out on one machine; give a number")
    if scenario.resources.threads_per_center > THREADS:
        raise UserError(f"resources.threads_per_center is above {THREADS}")
    ensemble = parse(scenario.model, scenario.task)
    if ensemble and ensemble.fusion.name == "learned":
        raise UserError(
            "model.fusion = learned is fitted on half of a hospital's validation groups, and real hospitals do not "
            "tell how many images of which classes these hold; set model.fusion=mean or model.fusion=weighted"
        )


def facts_of(plan: Plan, salt: str) -> dict[str, Any]:
    """What a hospital says of its own plan.

    ``train``, ``val``, ``test`` and ``train_groups``, ...: how many images and groups; ``classes``; ``counts``:
    training images of each of them; ``catalog_sha256``, ``pixels_sha256``; ``device``, ``precision``; ``warnings``: how
    many; ``rendered``: no picture of a patient; ``numbers``: as the plan's; ``versions``: :func:`computes_with`;
    ``train_hashes``, ...: salted hashes of the pixels, one an image, sorted, in which only the same picture can be
    found, here and at another hospital.
    """
    (catalog,), (pixels,) = plan.catalogs.values(), plan.pixels.values()
    samples = plan.samples
    facts: dict[str, Any] = {}
    for split in SPLITS:
        own = samples[samples["split"] == split]
        hashes = [hashlib.sha256(f"{salt} {one}".encode()).hexdigest() for one in own["pixels_sha256"]]
        facts |= {split: len(own), f"{split}_groups": int(own["group"].nunique()), f"{split}_hashes": sorted(hashes)}
    counts = plan.class_counts
    facts |= {"classes": [*plan.classes], "counts": [counts[name] for name in plan.classes]}
    facts |= {"catalog_sha256": catalog, "pixels_sha256": pixels, "device": plan.device, "precision": plan.precision}
    facts |= {"warnings": len(plan.warnings), "rendered": plan.rendered, "numbers": plan.numbers}
    return facts | {"versions": computes_with()}


def too_few(plan: Plan, kit: SiteKit) -> str:
    """Why a hospital takes no part in a scenario, of which this is its own plan; empty where it does.

    Loss and scores of a whole split are told however small it is, and how small it is the scenario says: with a group
    or two in it they are single patients' figures, and weights that were trained on those are no better. A hospital
    takes part all the same where it has a list of what it runs, where figures of single images may leave, and with
    pictures of nobody.
    """
    if kit.approve is not None or kit.share == "per-image" or plan.rendered:
        return ""
    trained = plan.as_trained()
    # A fusion that is learned is scored on half of the validation images.
    if not (parts := _few(trained) or _few(trained.stage(""))):
        return ""
    return (
        f"of its {' and '.join(parts)} images at {kit.hospital} the scenario would have figures of fewer than "
        f"{MINIMUM} groups, so of single patients; make such a part larger or empty, or have the hospital put the "
        "scenario on its list, `approve` in site.yaml"
    )


def _few(plan: Plan) -> list[str]:
    groups = plan.samples.groupby("split")["group"].nunique()
    return [split for split in SPLITS if 0 < groups.get(split, 0) < MINIMUM]


def plan_of_sites(scenario: Scenario, sites: Mapping[str, Mapping[str, Any]]) -> Plan:
    """The plan that the coordinator works with; its hash is that of a plan made from the images themselves.

    sites: hospital -> :func:`facts_of` its own plan. Near-duplicates at different hospitals cannot be found.
    Raises UserError as :func:`refuse_unfit`, where a hospital's fedkvasir gets other numbers, where it tells other
    numbers of images than of hashes, where masks differ in what they show, where a picture lies at two hospitals, and
    as :func:`fedkvasir.plan.settled`.
    """
    refuse_unfit(scenario)
    for hospital, facts in sites.items():
        _refuse_impossible(hospital, facts)
    classes = {tuple(facts["classes"]) for facts in sites.values()}
    if scenario.task == "segmentation" and len(classes) > 1:
        shown = " or ".join(", ".join(names) for names in sorted(classes))
        raise UserError(f"masks of the hospitals do not show the same: {shown}; train on one kind")
    named = {name for names in classes for name in names}
    names = next(iter(classes)) if scenario.task == "segmentation" else tuple(sorted(named))
    samples = pd.concat(
        [_rows(hospital, facts, split, names) for hospital, facts in sorted(sites.items()) for split in SPLITS],
        ignore_index=True,
    )
    centers = samples["center"].map(scenario.data.centers)
    samples["dataset"], samples["role"] = ([getattr(center, key) for center in centers] for key in ("dataset", "role"))
    plan = Plan(
        spelled_out(scenario),
        samples.assign(label=None, row=0, store="", width=0, height=0)[[*COLUMNS]],
        classes=names,
        catalogs={hospital: str(facts["catalog_sha256"]) for hospital, facts in sites.items()},
        pixels={hospital: str(facts["pixels_sha256"]) for hospital, facts in sites.items()},
        device=" and ".join(sorted({str(facts["device"]) for facts in sites.values()})),
        precision=" and ".join(sorted({str(facts["precision"]) for facts in sites.values()})),
        warnings=_warnings(scenario, sites),
        rendered=all(facts["rendered"] for facts in sites.values()),
    )
    return settled(plan)


def _refuse_impossible(hospital: str, facts: Mapping[str, Any]) -> None:
    """Raises UserError where a hospital has another fedkvasir, or its counts and hashes disagree."""
    if facts.get("numbers") != NUMBERS:
        raise UserError(f"{hospital} has a fedkvasir that gets other numbers; install there what is installed here")
    if not {"val_hashes", "versions"} <= facts.keys():
        raise UserError(f"{hospital} has an older fedkvasir; install there what is installed here")
    counts = [*facts["counts"], *(facts[f"{split}{of}"] for split in SPLITS for of in ("", "_groups"))]
    versions = facts["versions"]
    known = isinstance(versions, dict) and all(isinstance(own, str) for own in versions.values())
    if not known or not all(map(VERSION.fullmatch, versions.values())):
        raise UserError(f"{hospital} tells versions that are none")
    valid = all(type(count) is int and 0 <= count <= MOST for count in counts)
    if not valid or sum(facts["counts"]) != facts["train"]:
        raise UserError(f"{hospital} says that it holds numbers of images that cannot be")
    for split in SPLITS:
        hashes, groups = facts[f"{split}_hashes"], facts[f"{split}_groups"]
        if not all(isinstance(own, str) and SHA256.fullmatch(own) for own in hashes):
            raise UserError(f"{hospital} tells hashes of its {split} images that are none")
        # A picture that a hospital has twice is told twice; both are of one group.
        if len(hashes) != facts[split] or len({*hashes}) < groups:
            raise UserError(
                f"{hospital} says that it holds {facts[split]} {split} images of {groups} groups, and tells "
                f"{len(hashes)} hashes of {len({*hashes})} pictures"
            )


def _rows(hospital: str, facts: Mapping[str, Any], split: str, classes: Sequence[str]) -> pd.DataFrame:
    """As many rows as the hospital has images, in as many groups, none with a name of its own; training images with
    as many of each class."""
    groups = max(int(facts[f"{split}_groups"]), 1)
    numbers = range(int(facts[split]))
    shown = [classes.index(name) for name in facts["classes"]]
    return pd.DataFrame(
        {
            "sample": [f"{hospital}/{split}/{number}" for number in numbers],
            "group": [f"{hospital}/{split}/{number % groups}" for number in numbers],
            "center": hospital,
            "split": split,
            "target": np.repeat(shown, facts["counts"]) if split == "train" else 0,
        }
    )


def _warnings(scenario: Scenario, sites: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    texts = [
        f"{hospital}: {facts['warnings']} warning(s) about its data, in its own log"
        for hospital, facts in sorted(sites.items())
        if facts["warnings"]
    ]
    if scenario.task == "classification":
        texts += classes_spelt_alike({hospital: facts["classes"] for hospital, facts in sorted(sites.items())})
    here = computes_with()
    for hospital, facts in sorted(sites.items()):
        theirs = {name: facts["versions"].get(name, "none") for name in here}
        if differs := [f"{name} {own}, not {here[name]}" for name, own in theirs.items() if own != here[name]]:
            texts.append(f"{hospital} computes with {'; '.join(differs)}: the last digits of its numbers may differ")
    shared = _shared(sites)
    leaks = shared[(shared["split_x"] != "test") & (shared["split_y"] == "test")]
    others = shared[(shared["center_x"] < shared["center_y"]) & ~shared["hash"].isin(leaks["hash"])]
    for found, begin, where in (
        (leaks, LEAK, "lie on both sides of train and test, at"),
        (others, "", "lie at two hospitals,"),
    ):
        if found.empty:
            continue
        pairs = sorted({*zip(found["center_x"], found["center_y"], strict=True)})
        named = ", ".join(f"{first} and {second}" for first, second in pairs[:3])
        text = f"{found['hash'].nunique()} pictures {where} {named}"
        if scenario.data.audit != "warn":
            raise UserError(f"{text}; one of them has to leave them out, or say data.audit=warn to run all the same")
        texts.append(begin + text)
    texts += [
        f"{UNCHECKED}model.weights: whether what trained {run} is tested here was not looked for"
        for run, _ in trained_on(scenario)
    ]
    near = "near-duplicates at different hospitals were not looked for: their pictures stay where they are"
    texts.append(UNCHECKED + near)
    return tuple(texts)


def _shared(sites: Mapping[str, Mapping[str, Any]]) -> pd.DataFrame:
    """Every picture at two hospitals, a row a pair of places: hash, center_x, split_x, center_y, split_y."""
    held = pd.DataFrame(
        [
            (own, hospital, split)
            for hospital, facts in sites.items()
            for split in SPLITS
            for own in {*facts[f"{split}_hashes"]}
        ],
        columns=["hash", "center", "split"],
    )
    held = held[held["hash"].duplicated(keep=False)]
    pairs = held.merge(held, on="hash")
    return pairs[pairs["center_x"] != pairs["center_y"]]
