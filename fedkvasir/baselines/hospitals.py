"""Center-wise: every hospital fits on its own training images, and no image leaves it."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pandas as pd

from fedkvasir.baselines.base import Classifier, Method, Training
from fedkvasir.baselines.features import Features
from fedkvasir.faults import mislabel
from fedkvasir.metrics.classification import PREFIX
from fedkvasir.plan import Plan


def fit_hospitals(plan: Plan, method: Method, features: Features) -> dict[str, Classifier]:
    """Every training hospital's own classifier, by name; of the scenario's faults, wrong labels are theirs as well."""
    with _threads(plan, method):
        return {center: method.fit(_training(plan, center, features)) for center in plan.training_centers}


def _training(plan: Plan, center: str, features: Features) -> Training:
    own = mislabel(plan.part(center, "train"), plan.scenario).table
    targets = own["target"].to_numpy(dtype=np.intp)
    return Training(features.of(own), targets, len(plan.classes), center, plan.scenario.seed)


def mean_probabilities(classifiers: Iterable[Classifier], samples: Sequence[str], features: np.ndarray) -> np.ndarray:
    """(N, K): the mean over classifiers, each counting the same."""
    return np.mean([classifier.probabilities(samples, features) for classifier in classifiers], axis=0)


def evaluate_centers(
    plan: Plan, method: Method, classifiers: dict[str, Classifier], features: Features
) -> pd.DataFrame:
    """One row a test image: center, role, split, sample, group, label, ``p_<class>``.

    A hospital that trains is tested with its own classifier; a holdout, and the common test set of hospitals that were
    cut out of one source, with the mean over all hospitals.
    """
    parts = []
    for center in plan.centers.index[plan.centers["test"] > 0]:
        own = plan.part(center, "test").table
        asked = [classifiers[center]] if center in classifiers else classifiers.values()
        with _threads(plan, method):
            probabilities = mean_probabilities(asked, own["sample"].tolist(), features.of(own))
        rows = own[["center", "role", "split", "sample", "group", "label"]]
        parts.append(rows.join(pd.DataFrame(probabilities, columns=[PREFIX + name for name in plan.classes])))
    return pd.concat(parts, ignore_index=True)


@contextmanager
def _threads(plan: Plan, method: Method) -> Iterator[None]:
    """As many threads as the scenario gives a center: with another number the last bits differ."""
    if not method.looks:
        yield
        return
    import sklearn.cluster  # noqa: F401  # loads the libraries that are held back here
    from threadpoolctl import threadpool_limits

    with threadpool_limits(plan.scenario.resources.threads_per_center):
        yield
