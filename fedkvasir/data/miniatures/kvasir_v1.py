"""Miniature of Kvasir v1."""

from pathlib import Path

from fedkvasir.data.miniatures.kvasir_v2 import write_classes, write_features


def render(out: Path, per_center: int) -> Path:
    """``kvasir-dataset`` with ``per_center`` images a class, and ``kvasir-dataset-features`` beside it."""
    root = out / "kvasir-dataset"
    write_classes(root, per_center)
    write_features(out / "kvasir-dataset-features", per_center)
    return root
