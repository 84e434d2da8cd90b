"""Random and majority against what can be worked out by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fedkvasir.baselines import evaluate_centers, find_method, fit_hospitals
from fedkvasir.baselines.features import Nothing
from fedkvasir.evaluation.protocol import center_scores
from fedkvasir.faults import mislabel
from fedkvasir.metrics.classification import predicted
from fedkvasir.plan import Plan
from fedkvasir.scenario import Fault
from tests.baselines.conftest import CLASSES, COUNTS, HOLDOUT, at, make_plan

PROBABILITIES = [f"p_{name}" for name in CLASSES]


def records(plan: Plan, name: str) -> pd.DataFrame:
    method = find_method(name, "classification")
    return evaluate_centers(plan, method, fit_hospitals(plan, method, Nothing()), Nothing())


@pytest.mark.parametrize(("center", "majority"), [("aalborg", 0), ("bergen", 1)])
def test_majority_is_right_as_often_as_its_class_occurs(plan: Plan, center: str, majority: int) -> None:
    own = at(records(plan, "majority"), center)
    counts = COUNTS[center]["test"]
    share = counts[majority] / sum(counts)
    scores = center_scores(own)
    assert set(predicted(own)) == {CLASSES[majority]}
    assert scores["accuracy"] == pytest.approx(share)
    # Recall 1 and precision `share` for one class, 0 for the others: F1 = 2 share / (1 + share), over three classes.
    assert scores["macro_f1"] == pytest.approx(2 * share / (1 + share) / 3)
    assert scores["recall"] == pytest.approx(1 / 3) and scores["precision"] == pytest.approx(share / 3)


def test_at_a_holdout_the_hospitals_frequencies_vote(plan: Plan) -> None:
    """(0.6, 0.3, 0.1) and (0.2, 0.5, 0.3): neither hospital is right alone, together they say (0.4, 0.4, 0.2)."""
    own = at(records(plan, "majority"), HOLDOUT)
    np.testing.assert_allclose(own[PROBABILITIES], [[0.4, 0.4, 0.2]] * len(own))
    assert list(own["role"].unique()) == ["holdout"]


def test_hospitals_fit_on_the_labels_that_the_faults_leave_them(plan: Plan) -> None:
    """As networks do; whoever is tested is tested on the right ones."""
    fault = Fault(kind="wrong-labels", center="bergen", share=1.0)
    struck = replace(plan, scenario=plan.scenario.model_copy(update={"faults": (fault,)}))
    found, clean = records(struck, "majority"), records(plan, "majority")
    given = mislabel(plan.part("bergen", "train"), struck.scenario).table["target"]
    assert (given != plan.part("bergen", "train").table["target"]).all()
    np.testing.assert_allclose(at(found, "bergen")[PROBABILITIES].iloc[0], np.bincount(given, minlength=3) / len(given))
    pd.testing.assert_frame_equal(at(found, "aalborg"), at(clean, "aalborg"))
    assert found["label"].equals(clean["label"])


def test_the_common_test_set_of_a_divided_center_asks_all_hospitals() -> None:
    divided = make_plan({"a-1": {"train": (9, 1, 0)}, "a-2": {"train": (0, 3, 7)}, "a": {"test": (2, 2, 2)}})
    own = records(divided, "majority")
    assert set(own["center"]) == {"a"} and len(own) == 6
    np.testing.assert_allclose(own[PROBABILITIES], [[0.45, 0.2, 0.35]] * 6)


def test_random_gives_every_class_the_same_chance_and_depends_on_seed_and_sample_alone() -> None:
    many = make_plan({"aalborg": {"train": (1, 1, 1), "test": (2000, 500, 500)}})
    found = records(many, "random")
    values = found[PROBABILITIES].to_numpy()
    np.testing.assert_allclose(values.sum(axis=1), 1)
    wins = np.bincount(values.argmax(axis=1), minlength=3)
    assert abs(wins - 1000).max() < 4 * np.sqrt(3000 * (1 / 3) * (2 / 3))
    # Uniform on the simplex: each of three shares has mean 1/3 and variance 1/18.
    np.testing.assert_allclose(values.mean(axis=0), 1 / 3, atol=0.02)
    np.testing.assert_allclose(values.var(axis=0), 1 / 18, atol=0.005)
    few = many.samples[many.samples["split"] == "test"].iloc[::7].assign(center="bergen", role="holdout")
    elsewhere = pd.concat([few, many.samples[many.samples["split"] == "train"]], ignore_index=True)
    again = records(replace(many, samples=elsewhere), "random").set_index("sample")[PROBABILITIES]
    np.testing.assert_allclose(again, found.set_index("sample").loc[again.index, PROBABILITIES], rtol=1e-12)
    other = records(replace(many, scenario=many.scenario.model_copy(update={"seed": 1})), "random")
    assert (other[PROBABILITIES].to_numpy() != values).all()
