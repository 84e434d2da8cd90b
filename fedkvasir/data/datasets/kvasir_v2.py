"""Kvasir v2: 8,000 images of eight classes from Baerum hospital, Norway; and what it shares with v1."""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd

from fedkvasir.data.catalog import (
    IMAGE_SUFFIXES,
    Card,
    Catalog,
    Dataset,
    differences,
    list_images,
    make_catalog,
    missing,
    strays,
)
from fedkvasir.errors import UserError

CLASSES = {
    "dyed-lifted-polyps": ("dyed-lifted-polyp", "dyed-and-lifted-polyp", "dyed-and-lifted-polyps"),
    "dyed-resection-margins": ("dyed-resection-margin",),
    "esophagitis": ("oesophagitis",),
    "normal-cecum": ("cecum", "normal-caecum"),
    "normal-pylorus": ("pylorus",),
    "normal-z-line": ("z-line",),
    "polyps": ("polyp",),
    "ulcerative-colitis": (),
}
"""Class (the folder's name in the zip) -> other spellings that copies and papers use."""
ALIASES = {alias: label for label, others in CLASSES.items() for alias in (label, *others)}
FEATURES = {"JCD": 168, "Tamura": 18, "ColorLayout": 33, "EdgeHistogram": 80, "AutoColorCorrelogram": 256, "PHOG": 630}
"""The global image features of the features zips and their lengths."""
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
RENDERED = re.compile(r"p\d+-\d+")
"""How the dataset ``synthetic`` names its images."""
V2_ABOVE = 500
"""v1 has 500 images in a class and v2 has 1,000."""

CARD = Card(
    title="Kvasir v2",
    source="https://datasets.simula.no/kvasir/",
    citation="Pogorelov et al., KVASIR: A Multi-Class Image Dataset for Computer Aided Gastrointestinal Disease "
    "Detection, MMSys 2017",
    license="research and education, no commercial use",
    obtain="Download kvasir-dataset-v2.zip from https://datasets.simula.no/kvasir/ and unzip it so that the data "
    "folder holds kvasir-dataset-v2/<class>/<name>.jpg.",
    centers="Baerum, Vestre Viken, Norway",
    groups="none published",
    count=8000,
    counts=dict.fromkeys(CLASSES, 1000),
    quirks=(
        "no official split and no patient ids",
        "720x576 to 1920x1072; a green picture of the scope's position in some images",
        "extends v1, and nearly all of its polyps are those of Kvasir-SEG and HyperKvasir, under other names: "
        "never put them on different sides of a split",
        "a renamed folder counts as v2 where a class has more than 500 images",
        "the features zip holds six lines a file, its documentation says eight",
    ),
)


def _folders(root: Path) -> dict[Path, str]:
    """The class folders directly under ``root``, and their classes."""
    names = sorted(entry.name for entry in os.scandir(root)) if root.is_dir() else []
    labels = {root / name: ALIASES.get(re.sub(r"[ _]+", "-", name.lower())) for name in names if "." not in name}
    return {path: label for path, label in labels.items() if label and path.is_dir()}


def version(root: Path) -> int | None:
    """1 or 2 where ``root`` holds the classes of Kvasir and images in them, else None.

    The folder's own name says which (``kvasir-dataset-v2``, ``kvasir-dataset``); after renaming, the number of images
    in the first class that has any: above 500 it is v2. Two classes may be missing, but not both of esophagitis and
    ulcerative-colitis, which a HyperKvasir in one folder lacks. Rendered hospitals have the same class folders.
    """
    folders = _folders(root)
    labels = set(folders.values())
    if len(labels) < 6 or not labels & {"esophagitis", "ulcerative-colitis"} or (root / "samples.csv").exists():
        return None
    listings = ([p.stem for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES] for folder in folders)
    images = next((stems for stems in listings if stems), [])
    if not images or RENDERED.fullmatch(images[0]):
        return None
    name = root.name.lower()
    if named := re.search(r"v([12])(?!\d)", name):
        return int(named[1])
    return 1 if name == "kvasir-dataset" or len(images) <= V2_ABOVE else 2


def _recognise(root: Path) -> bool:
    return version(root) == 2


def read_classes(dataset: str, card: Card, root: Path) -> Catalog:
    """List the class folders; a class may be spelled in any of the ways of :data:`CLASSES`."""
    folders = _folders(root)
    if not folders:
        raise missing(dataset, card, root, "folders named by class, e.g. polyps/*.jpg")
    rows = [
        {
            "sample": f"{dataset}/{label}/{stem}",
            "center": "baerum",
            "image": f"{folder.name}/{image.name}",
            "label": label,
        }
        for folder, label in folders.items()
        for stem, image in list_images(folder).items()
    ]
    warnings = strays(*folders)
    if foreign := sorted(
        p.name for p in root.iterdir() if p not in folders and not p.name.startswith(".") and p.is_dir()
    ):
        warnings.append(f"{len(foreign)} folders are no class of Kvasir and left out, e.g. {foreign[0]}")
    if odd := [row["sample"] for row in rows if not UUID.fullmatch(row["sample"].rsplit("/", 1)[1])]:
        warnings.append(f"{len(odd)} names are not UUIDs, e.g. {odd[0]}")
    labels = [row["label"] for row in rows]
    warnings += differences(card, {label: labels.count(label) for label in CLASSES})
    return make_catalog(dataset, root, rows, warnings, CLASSES)


def read(root: Path) -> Catalog:
    """List the class folders."""
    return read_classes("kvasir-v2", CARD, Path(root))


def _feature_files(root: Path, zipped: str) -> dict[Path, str]:
    """``.features`` files and their classes: in ``root``, else in the zip's folder near it, maybe doubled."""
    near = [base / zipped for base in (root, root.parent, root.parent.parent)]
    for place in (root, *(folder for base in near for folder in (base, base / zipped))):
        found = {
            path: label
            for folder, label in _folders(place).items()
            for path in sorted(folder.iterdir())
            if path.suffix == ".features" and not path.name.startswith(".")
        }
        if found:
            return found
    raise UserError(
        f"no features of Kvasir at {root} or beside it: unzip {zipped}.zip so that {zipped}/<class>/<name>.features "
        "lies beside the images"
    )


def _vector(path: Path) -> np.ndarray:
    """The features of one image in the order of :data:`FEATURES`: (1185,) float32."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file: unzip the features again") from error
    found: dict[str, np.ndarray] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        name, _, text = line.partition(":")
        name = name.strip()
        if name not in FEATURES or name in found:
            kind = "a second line of" if name in found else "no known feature but"
            raise UserError(f"{path} line {number} holds {kind} {name[:40]!r}: unzip the features again")
        try:
            found[name] = np.array(text.split(","), dtype=np.float32)
        except ValueError as error:
            raise UserError(f"{path} line {number}: {name} holds something that is not a number") from error
        if len(found[name]) != FEATURES[name]:
            raise UserError(f"{path} line {number}: {name} has {len(found[name])} values instead of {FEATURES[name]}")
    if lacking := [name for name in FEATURES if name not in found]:
        raise UserError(f"{path} ends at line {len(lines)} without {', '.join(lacking)}: unzip the features again")
    return np.concatenate([found[name] for name in FEATURES])


def feature_table(dataset: str, zipped: str, root: Path) -> pd.DataFrame:
    """One row an image, indexed by sample id, sorted; columns ``JCD_0`` ... ``PHOG_629``, float32."""
    files = _feature_files(Path(root), zipped)
    index = pd.Index([f"{dataset}/{label}/{path.stem}" for path, label in files.items()], name="sample")
    columns = [f"{name}_{number}" for name, length in FEATURES.items() for number in range(length)]
    return pd.DataFrame(np.stack([_vector(path) for path in files]), index, columns).sort_index()


def features(root: Path) -> pd.DataFrame:
    """The published global image features (LIRE) of ``kvasir-dataset-v2-features.zip``, one row an image.

    ``root`` is the dataset's root, with the unzipped features beside it, or the features' own folder. The index is the
    sample id; the columns are ``JCD_0`` ... ``PHOG_629``, float32. Raises UserError that names file and line.
    """
    return feature_table("kvasir-v2", "kvasir-dataset-v2-features", root)


DATASET = Dataset("kvasir-v2", CARD, ("classification",), _recognise, read, tables={"features": features})
