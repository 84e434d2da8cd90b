"""A plan of hospitals whose images are elsewhere: what each says of itself, and what follows from that.

What a hospital says are counts, class names and hashes: no name of a file, a sample or a group.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from fedkvasir.ensembles import parse
from fedkvasir.errors import UserError
from fedkvasir.plan import COLUMNS, LEAK, NUMBERS, UNCHECKED, Plan, refuse_empty
from fedkvasir.pretrained import trained_on
from fedkvasir.scenario import Scenario

SPLITS = ("train", "val", "test")
MOST = 10_000_000
"""Images that a hospital may say it holds."""


def facts_of(plan: Plan, salt: str) -> dict[str, Any]:
    """What a hospital says of its own plan.

    ``train``, ``val``, ``test`` and ``train_groups``, ...: how many images and groups; ``classes``; ``counts``:
    training images of each of them; ``catalog_sha256``, ``pixels_sha256``; ``device``, ``precision``; ``warnings``: how
    many; ``rendered``: no picture of a patient; ``numbers``: as the plan's; ``train_hashes``, ``test_hashes``: salted
    hashes of the pixels that it trains or validates on, and is tested on, sorted, in which only the same picture at
    another hospital can be found.
    """
    (catalog,), (pixels,) = plan.catalogs.values(), plan.pixels.values()
    samples = plan.samples
    facts: dict[str, Any] = {}
    for split in SPLITS:
        own = samples[samples["split"] == split]
        facts |= {split: len(own), f"{split}_groups": int(own["group"].nunique())}
    counts = plan.class_counts
    facts |= {"classes": [*plan.classes], "counts": [counts[name] for name in plan.classes]}
    facts |= {"catalog_sha256": catalog, "pixels_sha256": pixels, "device": plan.device, "precision": plan.precision}
    facts |= {"warnings": len(plan.warnings), "rendered": plan.rendered, "numbers": plan.numbers}
    hashes = [hashlib.sha256(f"{salt} {own}".encode()).hexdigest() for own in samples["pixels_sha256"]]
    tested = samples["split"] == "test"
    facts["train_hashes"] = sorted(np.array(hashes)[~tested].tolist())
    facts["test_hashes"] = sorted(np.array(hashes)[tested].tolist())
    return facts


def plan_of_sites(scenario: Scenario, sites: Mapping[str, Mapping[str, Any]]) -> Plan:
    """The plan that the coordinator works with; its hash is that of a plan made from the images themselves.

    sites: hospital -> :func:`facts_of` its own plan. Near-duplicates at different hospitals cannot be found.
    Raises UserError for a fusion that is learned, where a hospital's fedkvasir gets other numbers, where masks differ
    in what they show, where a picture lies on both sides of train and test, and as :func:`fedkvasir.plan.make_plan`
    where a hospital has too little.
    """
    ensemble = parse(scenario.model, scenario.task)
    if ensemble and ensemble.fusion.name == "learned":
        raise UserError(
            "model.fusion = learned is fitted on half of a hospital's validation groups, and real hospitals do not "
            "tell how many images of which classes these hold; set model.fusion=mean or model.fusion=weighted"
        )
    for hospital, facts in sites.items():
        if facts.get("numbers") != NUMBERS:
            raise UserError(f"{hospital} has a fedkvasir that gets other numbers; install there what is installed here")
        counts = [*facts["counts"], *(facts[f"{split}{of}"] for split in SPLITS for of in ("", "_groups"))]
        valid = all(type(count) is int and 0 <= count <= MOST for count in counts)
        if not valid or sum(facts["counts"]) != facts["train"]:
            raise UserError(f"{hospital} says that it holds numbers of images that cannot be")
    classes = {tuple(facts["classes"]) for facts in sites.values()}
    if scenario.task == "segmentation" and len(classes) > 1:
        shown = " or ".join(", ".join(names) for names in sorted(classes))
        raise UserError(f"masks of the hospitals do not show the same: {shown}; train on one kind")
    named = {name for names in classes for name in names}
    names = next(iter(classes)) if scenario.task == "segmentation" else tuple(sorted(named))
    source_of = {hospital: scenario.data.hospitals.get(hospital, hospital) for hospital in sites}
    samples = pd.concat(
        [_rows(hospital, facts, split, names) for hospital, facts in sorted(sites.items()) for split in SPLITS],
        ignore_index=True,
    )
    centers = samples["center"].map(source_of).map(scenario.data.centers)
    samples["dataset"], samples["role"] = ([getattr(center, key) for center in centers] for key in ("dataset", "role"))
    plan = Plan(
        scenario,
        samples.assign(label=None, row=0, store="", width=0, height=0)[[*COLUMNS]],
        names,
        {source_of[hospital]: str(facts["catalog_sha256"]) for hospital, facts in sites.items()},
        {hospital: str(facts["pixels_sha256"]) for hospital, facts in sites.items()},
        " and ".join(sorted({str(facts["device"]) for facts in sites.values()})),
        " and ".join(sorted({str(facts["precision"]) for facts in sites.values()})),
        _warnings(scenario, sites),
        all(facts["rendered"] for facts in sites.values()),
    )
    refuse_empty(plan)
    plan = plan.as_trained()
    plan.loss()
    plan.stage("")
    return plan


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
    trained: dict[str, set[str]] = {}
    for hospital, facts in sites.items():
        for name in facts["train_hashes"]:
            trained.setdefault(name, set()).add(hospital)
    tested = [
        (name, first, second)
        for second, facts in sites.items()
        for name in facts["test_hashes"]
        for first in trained.get(name, set()) - {second}
    ]
    if tested:
        pairs = ", ".join(f"{first} and {second}" for first, second in sorted({pair[1:] for pair in tested})[:3])
        text = f"{len({pair[0] for pair in tested})} pictures lie on both sides of train and test, at {pairs}"
        if scenario.data.audit != "warn":
            raise UserError(f"{text}; one of them has to leave them out, or say data.audit=warn to run all the same")
        texts.append(LEAK + text)
    texts += [
        f"{UNCHECKED}model.weights: whether what trained {run} is tested here was not looked for"
        for run, _ in trained_on(scenario)
    ]
    near = "near-duplicates at different hospitals were not looked for: their pictures stay where they are"
    texts.append(UNCHECKED + near)
    return tuple(texts)
