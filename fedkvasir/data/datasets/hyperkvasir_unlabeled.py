"""HyperKvasir unlabeled-images: 99,417 images without a label from Baerum hospital, Norway."""

import os
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path, PureWindowsPath

import numpy as np
import pandas as pd

from fedkvasir.data.arff import Attribute, read_arff, read_header
from fedkvasir.data.catalog import IMAGE_SUFFIXES, Card, Catalog, Dataset, differences, make_catalog, missing
from fedkvasir.data.datasets import hyperkvasir_labeled
from fedkvasir.data.datasets.hyperkvasir_labeled import above, files_by_folder, odd_names
from fedkvasir.errors import UserError

NAME = "hyperkvasir-unlabeled"
REPOSITORY, EXPERIMENTS = "https://github.com/simula/hyper-kvasir", "clustering_experiments"
CLUSTER = "cluster"
"""What WEKA calls the attribute that it adds, in any case."""
NUMBERING = "instance_number"
"""WEKA counts the rows in an attribute of this name when it saves cluster assignments: no feature."""
CARD = Card(
    title="HyperKvasir, unlabeled images",
    source=hyperkvasir_labeled.CARD.source,
    citation=hyperkvasir_labeled.CARD.citation,
    license=hyperkvasir_labeled.CARD.license,
    obtain="Download the unlabeled images from https://datasets.simula.no/hyper-kvasir/ and unzip them so that the "
    f"data folder holds unlabeled-images/images; for features and clusters put the folder {EXPERIMENTS} of "
    f"{REPOSITORY} beside unlabeled-images.",
    centers="Baerum, Vestre Viken, Norway",
    groups="none published; near-duplicates are kept together",
    count=99417,
    counts={"images": 99417},
    quirks=(
        "no label at all: for prediction and pseudo-labels",
        "global features and cluster assignments are published as ARFF; the files' names and attributes are not known "
        "here, so they are found by what they hold: a name, numbers, and an attribute called cluster",
    ),
)


def _recognise(root: Path) -> bool:
    """By name; under another name, where UUID pictures in ``images`` are all that is there, but for ARFF files."""
    if not (root / "images").is_dir():
        return False
    if "unlabeled-images" in root.name.lower().replace("_", "-"):
        return True
    with os.scandir(root) as entries:
        if any(entry.name != "images" and entry.name[0] != "." and not _is_arff(entry.name) for entry in entries):
            return False
    with os.scandir(root / "images") as entries:
        first = next((entry.name for entry in entries if entry.name.lower().endswith(IMAGE_SUFFIXES)), "")
    return bool(first) and not odd_names([Path(first).stem])


def read(root: Path) -> Catalog:
    """List the images; what else is published with them are tables, :func:`features` and :func:`clusters`."""
    root = Path(root)
    folders, warnings = files_by_folder(NAME, root, IMAGE_SUFFIXES)
    names = folders.pop(root / "images", [])
    if not names:
        raise missing(NAME, CARD, root, "images/*.jpg")
    if folders:
        where = ", ".join(f"{folder.relative_to(root).as_posix()} {len(found)}" for folder, found in folders.items())
        warnings.append(f"{sum(map(len, folders.values()))} images left out, they lie outside images/: {where}")
    warnings += odd_names(Path(name).stem for name in names)
    rows = [{"sample": f"{NAME}/{Path(name).stem}", "center": "baerum", "image": f"images/{name}"} for name in names]
    return make_catalog(NAME, root, rows, warnings + differences(CARD, {"images": len(rows)}))


def _is_arff(name: str) -> bool:
    return name.lower().endswith(".arff") and name[0] != "."


def _cluster(attribute: Attribute) -> bool:
    return attribute.name.lower() == CLUSTER


def _feature(attribute: Attribute) -> bool:
    return attribute.kind == "numeric" and attribute.name.lower() not in (CLUSTER, NUMBERING)


def _text(attribute: Attribute) -> bool:
    return attribute.kind != "numeric" and not _cluster(attribute)


def _arff_files(root: Path) -> Iterator[list[Path]]:
    """ARFF files by place, the nearest first: in the root, one and two levels up, in a clone of the repository there;
    at each of them also anywhere in ``clustering_experiments``."""
    for base in (root, *above(root)):
        for folder in (base, *sorted(base.glob("hyper-kvasir*"))):
            for found in (folder.glob("*"), (folder / EXPERIMENTS).rglob("*")):
                yield sorted(path for path in found if _is_arff(path.name))


def _published(root: Path, wanted: Callable[[Attribute], bool], what: str) -> pd.DataFrame:
    """The wanted attributes out of the nearest ARFF files that have any, by sample id, sorted.

    Several files are joined by image. Raises UserError where there is none, where a value is missing, where a file
    names no images or one twice, and where two files disagree on the images or repeat an attribute.
    """
    for paths in _arff_files(root):
        if files := [path for path in paths if any(map(wanted, read_header(path)))]:
            return reduce(_join, [(path, _by_image(path, wanted)) for path in files])[1].sort_index()
    raise UserError(
        f"{NAME}: no ARFF file with {what} at {root} or beside it: put the folder {EXPERIMENTS} of {REPOSITORY} "
        f"beside {root.name}"
    )


def _by_image(path: Path, wanted: Callable[[Attribute], bool]) -> pd.DataFrame:
    attributes, table = read_header(path), read_arff(path)
    # A string names the image; where WEKA has made it a nominal, the first of those does.
    texts = sorted(filter(_text, attributes), key=lambda attribute: attribute.kind == "nominal")
    if not texts:
        raise UserError(f"{path} names no image: an attribute of type string is needed")
    names = texts[0].name
    table = table[[names, *(attribute.name for attribute in attributes if wanted(attribute))]]
    if lacking := table.columns[table.isna().any()].tolist():
        row = int(table[lacking[0]].isna().to_numpy().argmax()) + 1
        raise UserError(f"{path}: {lacking[0]} is missing in row {row} after @data")
    index = pd.Index([f"{NAME}/{PureWindowsPath(name).stem}" for name in table.pop(names)], name="sample")
    if index.has_duplicates:
        raise UserError(f"{path}: {index[index.duplicated()][0]} stands twice")
    return table.set_axis(index)


def _join(one: tuple[Path, pd.DataFrame], other: tuple[Path, pd.DataFrame]) -> tuple[Path, pd.DataFrame]:
    (path, left), (more, right) = one, other
    if both := sorted(set(left.columns) & set(right.columns)):
        raise UserError(f"{path} and {more} both hold the attribute {both[0]}: keep one of them")
    if odd := sorted(set(left.index) ^ set(right.index)):
        raise UserError(f"{path} and {more} name different images, e.g. {odd[0]}")
    return more, left.join(right)


def features(root: Path) -> pd.DataFrame:
    """The published global features, one row an image: the index is the sample id, one float32 column an attribute.

    Raises UserError that names the file and what is wrong in it.
    """
    return _published(Path(root), _feature, "features")


def clusters(root: Path) -> pd.DataFrame:
    """The published cluster assignments, one row an image: the index is the sample id, the column ``cluster``."""
    table = _published(Path(root), _cluster, "cluster assignments").set_axis([CLUSTER], axis=1)
    return table.astype(np.int64) if table[CLUSTER].dtype == np.float32 else table


DATASET = Dataset(NAME, CARD, (), _recognise, read, tables={"features": features, "clusters": clusters})
