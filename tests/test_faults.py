"""Wrong labels on purpose: so many, always the same ones, for whoever trains on them."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from hypothesis import given
from hypothesis import strategies as st

from fedkvasir.data.loader import Samples
from fedkvasir.faults import mislabel
from fedkvasir.plan import make_plan
from fedkvasir.scenario import Scenario


def test_so_many_images_come_with_the_mask_of_another_and_more_of_them_include_these(
    faulty: Callable[..., Scenario],
) -> None:
    plan = make_plan(faulty("{kind: wrong-labels, center: alta, share: 0.5}"))
    wrong: list[set[int]] = []
    for share in (0.25, 0.5):
        samples = plan.part("alta", "train")
        noisy = mislabel(samples, faulty(f"{{kind: wrong-labels, center: alta, share: {share}}}"))
        everything = np.arange(len(samples))
        np.testing.assert_array_equal(noisy.images(everything), samples.images(everything))
        given, right = noisy.masks(everything), samples.masks(everything)
        assert all(any((mask == own).all() for own in right) for mask in given)
        own = noisy.mask_of  # type: ignore[attr-defined]
        wrong.append(set(np.flatnonzero(own != everything)))
        np.testing.assert_array_equal(given, right[own])
        assert len(wrong[-1]) == round(share * len(samples))
    assert wrong[0] < wrong[1]
    elsewhere = plan.part("bergen", "train")
    untouched = mislabel(elsewhere, plan.scenario).masks(np.arange(len(elsewhere)))
    np.testing.assert_array_equal(untouched, elsewhere.masks(np.arange(len(elsewhere))))


def test_pooled_images_are_mislabelled_as_they_are_at_their_hospitals(faulty: Callable[..., Scenario]) -> None:
    """So that training in one place is compared on the same labels."""
    plan = make_plan(faulty("{kind: wrong-labels, share: 0.4}"))
    pooled = mislabel(plan.part("pooled", "train"), plan.scenario)
    masks = dict(zip(pooled.table["sample"], pooled.masks(np.arange(len(pooled))), strict=True))
    for center in plan.training_centers:
        own = mislabel(plan.part(center, "train"), plan.scenario)
        for sample, mask in zip(own.table["sample"], own.masks(np.arange(len(own))), strict=True):
            np.testing.assert_array_equal(mask, masks[sample])


@given(st.sampled_from([0.1, 0.5, 1.0]), st.integers(2, 9), st.integers(2, 30))
def test_a_wrong_label_is_another_class(
    faulty: Callable[..., Scenario], share: float, classes: int, count: int
) -> None:
    table = pd.DataFrame({"sample": [f"s{n}" for n in range(count)], "center": "alta", "target": range(count)})
    samples = Samples(table.assign(target=table["target"] % classes), "classification", classes)
    noisy = mislabel(samples, faulty(f"{{kind: wrong-labels, share: {share}}}"))
    before, after = samples.table["target"], noisy.table["target"]
    assert (before != after).sum() == round(share * count)
    assert after.between(0, classes - 1).all()
