"""Several methods on the same images: what they have in common, and what is left out and said."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from fedkvasir.errors import UserError
from fedkvasir.evaluation.groups import IMAGE, ROLES, Center, Runs, centers_of, images
from fedkvasir.evaluation.intervals import caution


@dataclass(frozen=True)
class Side:
    """One method at the ``seen`` or ``unseen`` centers; what every comparison needs of it is made once."""

    tables: Runs
    scope: str

    @cached_property
    def images(self) -> pd.MultiIndex:
        return images(self.tables[0])

    @cached_property
    def centers(self) -> dict[str, Center]:
        return centers_of(self.tables, self.scope)

    def only(self, kept: pd.MultiIndex) -> "Side":
        """With some of its images; itself with all of them."""
        if len(kept) == len(self.images):
            return self
        return Side([table[pd.MultiIndex.from_frame(table[IMAGE]).isin(kept)] for table in self.tables], self.scope)


def sides(methods: Mapping[str, Runs], scope: str) -> dict[str, Side]:
    """Of records from :func:`~fedkvasir.evaluation.groups.tested`."""
    return {
        name: Side([table[table["role"] == ROLES[scope]] for table in runs], scope) for name, runs in methods.items()
    }


def paired(methods: Mapping[str, Side]) -> tuple[dict[str, list[Center]], np.ndarray, tuple[str, ...]]:
    """Methods on the test images that all of them have.

    Returns each method's centers, with the groups that any method scores; (methods, groups) means of the groups that
    all score, over all centers; and notes on what is left out. A group of images without anything to find has a score
    only under a method that raises an alarm there. Raises UserError where no image is common to all.

    The means are of as many trainings of every method as the one with fewest has, seeds and networks: even of two equal
    methods a single training is ahead of a mean of several in most groups, as misses are few and large.
    """
    common, notes = _common_images(methods)
    found = {name: side.only(common).centers for name, side in methods.items()}
    centers: dict[str, list[Center]] = {name: [] for name in methods}
    for name in next(iter(found.values())):
        scored = np.any([np.isfinite(own[name].group_means) for own in found.values()], axis=0)
        for method, own in found.items():
            centers[method].append(own[name].only(scored))
    runs = min(len(side.tables) for side in methods.values())
    fewest = [min(center.networks for center in own) for own in zip(*centers.values(), strict=True)]
    means = np.stack(
        [
            np.concatenate([center.means_of(runs, networks) for center, networks in zip(own, fewest, strict=True)])
            for own in centers.values()
        ]
    )
    notes += alike(methods, centers)
    by_all = np.isfinite(means).all(axis=0)
    if alone := int((~by_all).sum()):
        notes.append(
            f"groups without anything to find where only some methods raise an alarm, not in the test: {alone}"
        )
    notes += dict.fromkeys(text for own in centers.values() for text in caution(own))
    # Means over different numbers of runs differ in their last bits where the images' scores are the same.
    return centers, np.round(means[:, by_all], 12), tuple(notes)


def alike(methods: Mapping[str, Side], centers: Mapping[str, Sequence[Center]]) -> list[str]:
    """What is to be said of methods that were not trained as often as each other."""
    seeds, notes = [len(side.tables) for side in methods.values()], []
    if min(seeds) < max(seeds):
        notes.append(f"tested with as many seeds of every method as one has, {min(seeds)}")
    if any(len({center.networks for center in own}) > 1 for own in zip(*centers.values(), strict=True)):
        notes.append("of several networks, as of training alone, every group is tested with one, in turn")
    return notes


def _common_images(methods: Mapping[str, Side]) -> tuple[pd.MultiIndex, list[str]]:
    sides = list(methods.values())
    common = sides[0].images
    for side in sides[1:]:
        common = common.intersection(side.images)
    if common.empty:
        counts = ", ".join(f"{name} {len(side.images)}" for name, side in methods.items())
        raise UserError(
            f"no test image of {sides[0].scope} centers in common ({counts}): compare runs with the same test images"
        )
    besides = {name: len(side.images) - len(common) for name, side in methods.items()}
    return common, [f"images that only {name} has, left out: {count}" for name, count in besides.items() if count]
