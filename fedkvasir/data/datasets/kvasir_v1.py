"""Kvasir v1: 4,000 images of eight classes from Baerum hospital, Norway."""

from dataclasses import replace
from pathlib import Path

import pandas as pd

from fedkvasir.data.catalog import Catalog, Dataset
from fedkvasir.data.datasets import kvasir_v2

CARD = replace(
    kvasir_v2.CARD,
    title="Kvasir v1",
    obtain="Download kvasir-dataset.zip from https://datasets.simula.no/kvasir/ and unzip it so that the data folder "
    "holds kvasir-dataset/<class>/<name>.jpg.",
    count=4000,
    counts=dict.fromkeys(kvasir_v2.CLASSES, 500),
    quirks=(
        "no official split and no patient ids",
        "720x576 to 1920x1072; a green picture of the scope's position in some images",
        "v2 extends it: never put the two on different sides of a split",
        "a renamed folder counts as v1 where its first class has at most 500 images",
        "the zip's own folder is called kvasir-dataset (from memory)",
    ),
)


def _recognise(root: Path) -> bool:
    return kvasir_v2.version(root) == 1


def read(root: Path) -> Catalog:
    """List the class folders."""
    return kvasir_v2.read_classes("kvasir-v1", CARD, Path(root))


def features(root: Path) -> pd.DataFrame:
    """The features of ``kvasir-dataset-features.zip``, as :func:`fedkvasir.data.datasets.kvasir_v2.features`."""
    return kvasir_v2.feature_table("kvasir-v1", "kvasir-dataset-features", root)


DATASET = Dataset("kvasir-v1", CARD, ("classification",), _recognise, read, tables={"features": features})
