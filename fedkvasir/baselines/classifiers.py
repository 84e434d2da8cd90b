"""scikit-learn's classifiers on standardised global features. Every mean and scale is the hospital's own."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fedkvasir.baselines.base import Classifier, Method, Training
from fedkvasir.baselines.references import Shares


@dataclass(frozen=True)
class Fitted:
    """A scikit-learn pipeline; classes that the hospital never saw have probability 0."""

    pipeline: Any
    classes: int

    def probabilities(self, samples: Sequence[str], features: np.ndarray) -> np.ndarray:
        found = np.zeros((len(features), self.classes))
        found[:, self.pipeline.classes_] = self.pipeline.predict_proba(features)
        return found


@dataclass(frozen=True)
class ScikitLearn(Method):
    """A classifier of scikit-learn after standardisation."""

    @abstractmethod
    def estimator(self, training: Training) -> Any:
        """The classifier, not yet fitted."""

    def fit(self, training: Training) -> Classifier:
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        if training.shares.max() == 1:  # one class only: there is nothing to tell apart
            return Shares(training.shares)
        pipeline = make_pipeline(StandardScaler(), self.estimator(training))
        return Fitted(pipeline.fit(training.features, training.targets), training.classes)


@dataclass(frozen=True)
class LogisticRegression(ScikitLearn):
    name: ClassVar[str] = "logistic-regression"
    summary: ClassVar[str] = "multinomial logistic regression, L2"

    c: float = 1.0
    """Inverse of the penalty's strength."""
    iterations: int = 2000

    def estimator(self, training: Training) -> Any:
        from sklearn.linear_model import LogisticRegression as Estimator

        return Estimator(C=self.c, max_iter=self.iterations)


@dataclass(frozen=True)
class RandomForest(ScikitLearn):
    name: ClassVar[str] = "random-forest"
    summary: ClassVar[str] = "random forest"

    trees: int = 300

    def estimator(self, training: Training) -> Any:
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(self.trees, random_state=training.random_state)


@dataclass(frozen=True)
class KNearest(ScikitLearn):
    name: ClassVar[str] = "k-nearest"
    summary: ClassVar[str] = "the nearest training images vote"

    neighbors: int = 5
    """All images where a hospital has fewer."""

    def estimator(self, training: Training) -> Any:
        from sklearn.neighbors import KNeighborsClassifier

        return KNeighborsClassifier(min(self.neighbors, len(training.targets)))
