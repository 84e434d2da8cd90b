"""The references of the HyperKvasir paper, which look at no picture: what any other result must beat.

Borgli et al., HyperKvasir, a comprehensive multi-class image and video dataset for gastrointestinal endoscopy,
Scientific Data 7, 283 (2020): random guessing and the majority class.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedkvasir.baselines.base import Method, Training
from fedkvasir.randomness import derive_seed


@dataclass(frozen=True)
class Guesses:
    """Every image's probabilities are drawn by the run's seed and its own name."""

    classes: int
    seed: int

    def probabilities(self, samples: Sequence[str], features: np.ndarray) -> np.ndarray:
        streams = (np.random.default_rng(derive_seed(self.seed, "guess", sample)) for sample in samples)
        return np.array([stream.dirichlet(np.ones(self.classes)) for stream in streams]).reshape(-1, self.classes)


@dataclass(frozen=True)
class Shares:
    """The same probabilities for every image: how often a hospital saw each class."""

    shares: np.ndarray

    def probabilities(self, samples: Sequence[str], features: np.ndarray) -> np.ndarray:
        return np.tile(self.shares, (len(samples), 1))


@dataclass(frozen=True)
class Random(Method):
    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "probabilities drawn uniformly for every image: each class is as likely to win"
    looks: ClassVar[bool] = False

    def fit(self, training: Training) -> Guesses:
        return Guesses(training.classes, training.seed)


@dataclass(frozen=True)
class Majority(Method):
    name: ClassVar[str] = "majority"
    summary: ClassVar[str] = "the class that the hospital saw most often; elsewhere the mean of the hospitals' shares"
    looks: ClassVar[bool] = False

    def fit(self, training: Training) -> Shares:
        return Shares(training.shares)
