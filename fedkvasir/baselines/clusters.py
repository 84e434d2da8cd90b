"""k-means: clusters found without labels, then named by the labels of their members."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fedkvasir.baselines.base import Method, Training


@dataclass(frozen=True)
class Clusters:
    """Centroids in standardised features, and the classes of the training images around each."""

    pipeline: Any
    shares: np.ndarray
    """(clusters, K): how the members of a cluster are labelled."""

    def nearest(self, features: np.ndarray) -> np.ndarray:
        """(N, D) float64 -> (N,) number of the nearest cluster, from 0."""
        return self.pipeline.predict(features)

    def probabilities(self, samples: Sequence[str], features: np.ndarray) -> np.ndarray:
        return self.shares[self.nearest(features)]


@dataclass(frozen=True)
class KMeans(Method):
    name: ClassVar[str] = "k-means"
    summary: ClassVar[str] = "k-means; an image gets the label shares of the nearest cluster"

    clusters: int | None = None
    """null: as many as classes. At most one for each training image."""

    def fit(self, training: Training) -> Clusters:
        from sklearn.cluster import KMeans as Estimator
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        count = min(self.clusters or training.classes, len(training.targets))
        estimator = Estimator(count, n_init=10, random_state=training.random_state)
        pipeline = make_pipeline(StandardScaler(), estimator).fit(training.features)
        members = np.zeros((count, training.classes))
        np.add.at(members, (estimator.labels_, training.targets), 1)
        # Equal pictures can leave a cluster without a member; it is never the nearest.
        members[members.sum(axis=1) == 0] = training.shares
        return Clusters(pipeline, members / members.sum(axis=1, keepdims=True))
