"""What a scenario's ``faults:`` draw, and the labels that they leave a hospital to train on.

Every draw is derived from the run's seed, the fault's place in the list, the center and the occasion, so that a run
that is repeated, or goes on after a stop, meets the same faults. What befalls messages is done by the hospital's app.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from fedkvasir.data.loader import Samples
from fedkvasir.randomness import derive_seed
from fedkvasir.scenario import Scenario


def stream(scenario: Scenario, index: int, center: str, *occasion: str | int) -> np.random.Generator:
    """What the fault at that place of the list is drawn from, at a center on an occasion (a round and an attempt, a
    sample)."""
    return np.random.default_rng(derive_seed(scenario.seed, "fault", index, center, *occasion))


def mislabel(samples: Samples, scenario: Scenario) -> Samples:
    """Training images with the scenario's wrong labels, the same in every round and for every method.

    A wrong mask is that of another training image of the same hospital, a wrong label another class.
    """
    table, wrong = samples.table, list(_wrong(samples.table, scenario))
    if not wrong:
        return samples
    if samples.task == "segmentation":
        mask_of = np.arange(len(table))
        for place, others, rng in wrong:
            mask_of[place] = rng.choice(others)
        return _Swapped(table, samples.task, samples.classes, mask_of=mask_of)
    targets = table["target"].to_numpy(copy=True)
    for place, _, rng in wrong:
        targets[place] = (targets[place] + rng.integers(1, max(samples.classes, 2))) % samples.classes
    return replace(samples, table=table.assign(target=targets))


@dataclass(frozen=True)
class _Swapped(Samples):
    """Samples of which some come with another's mask."""

    mask_of: np.ndarray = field(kw_only=True)
    """Position -> position of the mask that it comes with."""

    def masks(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        return super().masks(self.mask_of[np.asarray(positions)])


def _wrong(table: pd.DataFrame, scenario: Scenario) -> Iterator[tuple[int, np.ndarray, np.random.Generator]]:
    """(position of a mislabelled image, positions of its hospital's others, stream to draw from)."""
    for index, fault in enumerate(scenario.faults):
        if fault.kind != "wrong-labels":
            continue
        for center, own in table.groupby("center").indices.items():  # several where all images are in one place
            if fault.center in (None, center) and len(own) > 1:
                streams = [stream(scenario, index, str(center), sample) for sample in table["sample"].iloc[own]]
                order = np.argsort([own_stream.random() for own_stream in streams])
                for place in order[: round((fault.share or 0) * len(own))]:
                    yield own[place], np.delete(own, place), streams[place]
