"""Several methods on the same images: what they have in common, and what is left out and said."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from fedkvasir.errors import UserError
from fedkvasir.evaluation.groups import IMAGE, ROLES, Center, Runs, centers_of, images
from fedkvasir.evaluation.intervals import caution


def paired(methods: Mapping[str, Runs], scope: str) -> tuple[dict[str, list[Center]], np.ndarray, tuple[str, ...]]:
    """Methods on the test images of ``seen`` or ``unseen`` centers that all of them have.

    Returns each method's centers, with the groups that any method scores; (methods, groups) means of the groups that
    all score, over all centers; and notes on what is left out. A group of images without anything to find has a score
    only under a method that raises an alarm there. Raises UserError where no image is common to all.
    """
    tables, notes = _common_images(methods, scope)
    found = {name: centers_of(own, scope) for name, own in tables.items()}
    centers: dict[str, list[Center]] = {name: [] for name in methods}
    for name in next(iter(found.values())):
        scored = np.any([np.isfinite(own[name].group_means) for own in found.values()], axis=0)
        for method, own in found.items():
            centers[method].append(own[name].only(scored))
    means = np.stack([np.concatenate([center.group_means for center in own]) for own in centers.values()])
    by_all = np.isfinite(means).all(axis=0)
    if alone := int((~by_all).sum()):
        notes.append(
            f"groups without anything to find where only some methods raise an alarm, not in the test: {alone}"
        )
    notes += caution(next(iter(centers.values())))
    # Means over different numbers of runs differ in their last bits where the images' scores are the same.
    return centers, np.round(means[:, by_all], 12), tuple(notes)


def _common_images(methods: Mapping[str, Runs], scope: str) -> tuple[dict[str, list[pd.DataFrame]], list[str]]:
    tables = {name: [table[table["role"] == ROLES[scope]] for table in runs] for name, runs in methods.items()}
    held = {name: images(runs[0]) for name, runs in tables.items()}
    common = next(iter(held.values()))
    for own in held.values():
        common = common.intersection(own)
    if common.empty:
        counts = ", ".join(f"{name} {len(own)}" for name, own in held.items())
        raise UserError(
            f"no test image of {scope} centers in common ({counts}): compare runs with the same test images"
        )
    besides = {name: len(own) - len(common) for name, own in held.items()}
    kept = {
        name: [table[pd.MultiIndex.from_frame(table[IMAGE]).isin(common)] for table in runs]
        for name, runs in tables.items()
    }
    return kept, [f"images that only {name} has, left out: {count}" for name, count in besides.items() if count]
