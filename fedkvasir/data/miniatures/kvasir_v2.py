"""Miniature of Kvasir v2 and its features. It shares its pictures with that of v1, as the real v2 extends v1."""

import uuid
from pathlib import Path

import numpy as np

from fedkvasir.data.datasets.kvasir_v2 import CLASSES, FEATURES
from fedkvasir.data.miniatures import kvasir_seg
from fedkvasir.data.miniatures.paint import frame, save, write

SIZES = ((720, 576), (1280, 1024), (720, 576), (720, 576), (1920, 1072))
"""Width and height; the published range is 720x576 to 1920x1072."""


def name(number: int) -> str:
    """A random UUID (version 4) for picture ``number``, as all of Kvasir's and HyperKvasir's names are."""
    return str(uuid.UUID(bytes=np.random.default_rng([87, number]).bytes(16), version=4))


def write_classes(root: Path, per_class: int) -> None:
    """One folder a class. Whether v1 and v2 share names is not published; here they do."""
    for place, label in enumerate(CLASSES):
        for number in range(per_class):
            key = 10000 + 1000 * place + number
            size = SIZES[number % len(SIZES)]
            picture = (
                kvasir_seg.bordered(kvasir_seg.polyp(number)[0])
                if label == "polyps"
                else frame(*size, label, patient=key)[0]
            )
            save(picture, root / label / f"{name(key)}.jpg", quality=(75, 84, 92)[number % 3])
    write(root / ".DS_Store", "")
    write(root / "polyps" / ".DS_Store", "")


def drawn(place: int, key: int) -> list[float]:
    """The features of one image, around means that belong to the class at ``place`` in :data:`CLASSES`."""
    means = np.random.default_rng([88, place]).uniform(0, 10, sum(FEATURES.values()))
    return np.random.default_rng([89, key]).normal(means, 1).clip(0).round(3).tolist()


def write_features(root: Path, per_class: int) -> None:
    """One file an image, one line a feature."""
    for place, label in enumerate(CLASSES):
        for number in range(per_class):
            key = 10000 + 1000 * place + number
            values = iter(drawn(place, key))
            lines = [f"{feature}:{','.join(str(next(values)) for _ in range(n))}\n" for feature, n in FEATURES.items()]
            write(root / label / f"{name(key)}.features", "".join(lines))


def render(out: Path, per_center: int) -> Path:
    """``kvasir-dataset-v2`` with ``per_center`` images a class, and ``kvasir-dataset-v2-features`` beside it."""
    root = out / "kvasir-dataset-v2"
    write_classes(root, per_center)
    write_features(out / "kvasir-dataset-v2-features", per_center)
    return root
