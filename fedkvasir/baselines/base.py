"""What every method shares: one hospital's training images in, something that gives probabilities out."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from fedkvasir.randomness import derive_seed


@dataclass(frozen=True)
class Training:
    """One hospital's own training images."""

    features: np.ndarray
    """(N, D) float64; D = 0 for a method that looks at no picture."""
    targets: np.ndarray
    """(N,) class indices."""
    classes: int
    center: str
    seed: int
    """The run's."""

    @property
    def shares(self) -> np.ndarray:
        """(K,) share of the images that each class has."""
        return np.bincount(self.targets, minlength=self.classes) / len(self.targets)

    @property
    def random_state(self) -> int:
        """The hospital's own seed, below 2^32."""
        return derive_seed(self.seed, "baseline", self.center) % 2**32


class Classifier(Protocol):
    """What a hospital has after fitting."""

    def probabilities(self, samples: Sequence[str], features: np.ndarray) -> np.ndarray:
        """(N,) names and (N, D) float64 -> (N, K) float64; every row sums to 1."""


@dataclass(frozen=True)
class Method(ABC):
    """A baseline; its fields are its parameters."""

    name: ClassVar[str]
    summary: ClassVar[str]
    looks: ClassVar[bool] = True
    """Does it look at the pictures' features? It needs scikit-learn then."""

    @abstractmethod
    def fit(self, training: Training) -> Classifier:
        """What the hospital has after looking at its own training images."""
