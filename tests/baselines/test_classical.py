"""Classifiers and clusters on global features: against numpy, and each hospital for itself."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from fedkvasir.baselines import METHODS, evaluate_centers, fit_hospitals
from fedkvasir.baselines.base import Method, Training
from fedkvasir.baselines.classifiers import KNearest, LogisticRegression, RandomForest
from fedkvasir.baselines.clusters import Clusters, KMeans
from fedkvasir.baselines.features import Features, Published
from fedkvasir.baselines.references import Majority
from fedkvasir.evaluation.protocol import center_scores
from fedkvasir.plan import Plan
from tests.baselines.conftest import HOLDOUT, at, make_plan

CLASSICAL = [LogisticRegression(), RandomForest(trees=30), KNearest(), KMeans()]
each_method = pytest.mark.parametrize("method", CLASSICAL, ids=lambda method: method.name)
Draw = Callable[[Plan], Published]


def records(plan: Plan, method: Method, features: Features) -> pd.DataFrame:
    return evaluate_centers(plan, method, fit_hospitals(plan, method, features), features)


def standardised(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, scale = train.mean(axis=0), train.std(axis=0)
    return (train - mean) / scale, (test - mean) / scale


@each_method
def test_features_that_say_something_beat_the_majority(plan: Plan, published: Draw, method: Method) -> None:
    features = published(plan)
    found, reference = (records(plan, one, features) for one in (method, Majority()))
    for center in ("aalborg", "bergen"):
        f1, majority = (center_scores(at(rows, center))["macro_f1"] for rows in (found, reference))
        assert f1 > majority + 0.2


@each_method
def test_a_hospitals_classifier_knows_nothing_of_the_others(plan: Plan, published: Draw, method: Method) -> None:
    """Bergen's labels are turned about: aalborg's records are the same bits, bergen's and the holdout's are not."""
    features = published(plan)
    turned = plan.samples.copy()
    bergen = (turned["center"] == "bergen") & (turned["split"] == "train")
    turned.loc[bergen, "target"] = (turned.loc[bergen, "target"] + 1) % 3
    before, after = (records(one, method, features) for one in (plan, replace(plan, samples=turned)))
    changed = (before.filter(like="p_") != after.filter(like="p_")).any(axis=1)
    assert not changed[before["center"] == "aalborg"].any()
    assert changed[before["center"] == "bergen"].any() and changed[before["center"] == HOLDOUT].any()


@each_method
def test_the_same_seed_gives_the_same_bits_and_rows_sum_to_one(plan: Plan, published: Draw, method: Method) -> None:
    features = published(plan)
    one, two = (records(plan, method, features) for _ in range(2))
    pd.testing.assert_frame_equal(one, two, check_exact=True)
    np.testing.assert_allclose(one.filter(like="p_").sum(axis=1), 1)


@each_method
def test_a_holdout_gets_the_mean_of_the_hospitals_probabilities(plan: Plan, published: Draw, method: Method) -> None:
    features = published(plan)
    classifiers = fit_hospitals(plan, method, features)
    seen = features.of(plan.part(HOLDOUT, "test").table)
    one, two = (classifiers[center].probabilities([], seen) for center in ("aalborg", "bergen"))
    found = at(evaluate_centers(plan, method, classifiers, features), HOLDOUT).filter(like="p_")
    np.testing.assert_allclose(found, (one + two) / 2)


@each_method
@pytest.mark.parametrize("train", [(3, 0, 2), (0, 4, 0), (1, 1, 0)], ids=str)
def test_hospitals_with_few_images_and_without_some_classes(
    published: Draw, method: Method, train: tuple[int, ...]
) -> None:
    small = make_plan({"aalborg": {"train": train, "test": (2, 2, 2)}})
    found = records(small, method, published(small)).filter(like="p_").to_numpy()
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert (found[:, np.array(train) == 0] == 0).all()


def test_the_five_nearest_vote(plan: Plan, published: Draw) -> None:
    features = published(plan)
    found = at(records(plan, KNearest(), features), "bergen")
    train = plan.part("bergen", "train").table
    seen, asked = standardised(features.of(train), features.of(plan.part("bergen", "test").table))
    apart = ((asked[:, None] - seen[None]) ** 2).sum(axis=2)
    votes = train["target"].to_numpy()[apart.argsort(axis=1)[:, :5]]
    np.testing.assert_allclose(found.filter(like="p_"), np.stack([(votes == k).mean(axis=1) for k in range(3)], axis=1))


@pytest.mark.parametrize("clusters", [None, 1, 5])
def test_clusters_are_lloyds_and_named_by_their_members(plan: Plan, published: Draw, clusters: int | None) -> None:
    """Each centroid is the mean of the images nearest to it; an image gets the shares of its cluster's labels."""
    features, train = published(plan), plan.part("bergen", "train").table
    fitted = fit_hospitals(plan, KMeans(clusters), features)["bergen"]
    assert isinstance(fitted, Clusters)
    seen, asked = standardised(features.of(train), features.of(plan.part("bergen", "test").table))
    numbers = fitted.nearest(features.of(train))
    assert set(numbers) == set(range(clusters or 3))
    centroids = np.stack([seen[numbers == number].mean(axis=0) for number in range(clusters or 3)])
    nearest = ((seen[:, None] - centroids[None]) ** 2).sum(axis=2).argmin(axis=1)
    np.testing.assert_array_equal(nearest, numbers)
    shares = pd.crosstab(numbers, train["target"].to_numpy(), normalize="index").to_numpy()
    expected = shares[((asked[:, None] - centroids[None]) ** 2).sum(axis=2).argmin(axis=1)]
    found = at(records(plan, KMeans(clusters), features), "bergen").filter(like="p_")
    np.testing.assert_allclose(found, expected)


def test_every_method_that_looks_is_tested_here() -> None:
    assert {type(method) for method in CLASSICAL} == {method for method in METHODS.values() if method.looks}


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_equal_images_leave_no_cluster_without_an_answer() -> None:
    same = Training(np.ones((4, 2)), np.array([0, 0, 1, 2]), 3, "aalborg", 0)
    np.testing.assert_allclose(KMeans().fit(same).probabilities([], np.ones((1, 2))), [[0.5, 0.25, 0.25]])
