"""Camelyon17-WILDS: 455,954 patches of 50 lymph node slides from five Dutch hospitals, tumor in the middle or not."""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from fedkvasir.data.catalog import JUNK, Card, Catalog, Dataset, differences, make_catalog, missing
from fedkvasir.data.datasets.pcam import read_table, spread
from fedkvasir.errors import UserError

TRAIN_HOSPITALS, VAL_HOSPITAL, TEST_HOSPITAL = (0, 3, 4), 1, 2
"""By WILDS' own numbers from 0; its paper counts from 1 and calls the test hospital 5."""
MIXED_TO_TEST_SLIDE = 23
COLUMNS = ("patient", "node", "x_coord", "y_coord", "tumor", "slide", "center", "split")
CARD = Card(
    title="Camelyon17-WILDS",
    source="https://github.com/p-lambda/wilds",
    citation="Koh et al., WILDS: A Benchmark of in-the-Wild Distribution Shifts, ICML 2021; "
    "Bandi et al., From Detection of Individual Metastases to Classification of Lymph Node Status, IEEE TMI 2019",
    license="CC0",
    obtain="Install the Python package wilds and run get_dataset('camelyon17', download=True, root_dir='data'); "
    "the data folder then holds camelyon17_v1.0/metadata.csv and camelyon17_v1.0/patches.",
    centers="hospital-0 to hospital-4, the Netherlands, numbered as in metadata.csv (patient number // 20)",
    groups="patient (of one or more of the 50 slides, ten of each hospital)",
    count=455_954,
    counts={"patches": 455_954, "slides": 50, "train": 302_436, "id-val": 33_560, "val": 34_904, "test": 85_054},
    quirks=(
        "labelled tumor where the middle 32 x 32 pixels of 96 x 96 hold any",
        "official split: hospitals 0, 3 and 4 train, 1 validates, 2 tests",
        "a tenth of the patches of hospitals 0, 3 and 4 (id-val) is set aside at random, out of the training slides",
        "split mixed-to-test: as official, with slide 23 of the test hospital in train",
        "the paper numbers hospitals from 1 and calls the test hospital 5",
        "a patient can have several slides: groups are patients (the benchmark, which splits by hospital, needs none)",
    ),
)


def _recognise(root: Path) -> bool:
    return (root / "metadata.csv").is_file() and (root / "patches").is_dir()


def read(root: Path, *, patches_per_slide: int | None = None) -> Catalog:
    """List what ``metadata.csv`` names; each slide's folder is listed once, no file is looked at.

    patches_per_slide: at most so many of every slide, evenly spaced over its rows, instead of all 455,954.
    """
    root = Path(root)
    if not _recognise(root):
        raise missing("camelyon17-wilds", CARD, root, "metadata.csv and patches")
    table = _metadata(root / "metadata.csv")
    hospital = table["patient"] // 20
    warnings = []
    odd = (table["center"] != hospital) | (table["slide"] // 10 != hospital)
    if odd.any():
        warnings.append(
            f"{odd.sum()} rows of metadata.csv name a center or a slide that is not of hospital patient // 20, which "
            f"is taken, e.g. patient {table['patient'][odd].iloc[0]:03d}"
        )
    node = "patient_" + table["patient"].map("{:03d}".format) + "_node_" + table["node"].astype(str)
    name = "patch_" + node + "_x_" + table["x_coord"].astype(str) + "_y_" + table["y_coord"].astype(str)
    there = {folder: _patches(root / "patches" / folder) for folder in node.unique()}
    files = [there[folder].get(f"{stem}.png") for folder, stem in zip(node.tolist(), name.tolist(), strict=True)]
    table = table.assign(hospital=hospital, node=node, stem=name.str.removeprefix("patch_"), file=files)
    gone = table["file"].isna()
    if gone.any():
        where = f"{node[gone].iloc[0]}/{name[gone].iloc[0]}.png"
        warnings.append(f"{gone.sum()} patches of metadata.csv have no file and are left out, e.g. {where}")
    table = table[~gone]
    extra = sum(len(names) for names in there.values()) - table["file"].nunique()
    if extra:
        warnings.append(f"{extra} files in the folders of patches are not in metadata.csv and left out")
    folders = {entry.name for entry in os.scandir(root / "patches") if not entry.name.startswith(".")}
    unlisted = sorted(folders - set(there) - set(JUNK))
    if unlisted:
        warnings.append(f"{len(unlisted)} entries of patches are not in metadata.csv and left out, e.g. {unlisted[0]}")
    at = table["hospital"]
    part = np.select(
        [at == VAL_HOSPITAL, at == TEST_HOSPITAL, table["split"] == 1], ["val", "test", "id-val"], default="train"
    )
    counts = pd.Series(part).value_counts().to_dict()
    warnings += differences(CARD, {"patches": len(table), "slides": table["slide"].nunique()} | counts)
    table = table.assign(official=np.where(part == "id-val", "val", part))[spread(table["slide"], patches_per_slide)]
    mixed = table["official"].where(table["slide"] != MIXED_TO_TEST_SLIDE, "train")
    columns = table[["stem", "hospital", "patient", "node", "file", "tumor", "official"]]
    rows = [
        {
            "sample": f"camelyon17-wilds/{stem}",
            "center": f"hospital-{number}",
            "group": f"camelyon17-wilds/patient-{patient:03d}",
            "image": f"patches/{folder}/{file}",
            "label": "tumor" if tumor else "normal",
            "official_split": official,
        }
        for stem, number, patient, folder, file, tumor, official in columns.astype(object).itertuples(index=False)
    ]
    splits = {"mixed-to-test": {row["sample"]: split for row, split in zip(rows, mixed.tolist(), strict=True)}}
    return make_catalog("camelyon17-wilds", root, rows, warnings, ("normal", "tumor"), splits)


def _metadata(path: Path) -> pd.DataFrame:
    """The listing, all whole numbers. Raises UserError with the line where one is not."""
    table = read_table("camelyon17-wilds", path, COLUMNS)
    if table.empty:
        raise UserError(f"camelyon17-wilds: {path} lists no patch; download it again")
    table = table.apply(pd.to_numeric, errors="coerce")
    allowed = {"patient": range(100), "tumor": range(2), "split": range(2), "slide": range(50)}
    for column in COLUMNS:
        values = table[column]
        wrong = values.isna() | (values < 0) | (values % 1 != 0)
        if column in allowed:
            wrong |= ~values.isin(allowed[column])
        if wrong.any():
            line = int(np.argmax(wrong)) + 2
            bound = f" from 0 to {allowed[column][-1]}" if column in allowed else ""
            raise UserError(
                f"camelyon17-wilds: {path} line {line}: {column} is not a whole number{bound}; download it again"
            )
    return table.astype(int)


def _patches(folder: Path) -> dict[str, str]:
    """Names of the pictures in a slide's folder, by their lower-case spelling."""
    names = [entry.name for entry in os.scandir(folder)] if folder.is_dir() else []
    return {name.lower(): name for name in names if name.lower().endswith(".png") and not name.startswith(".")}


DATASET = Dataset("camelyon17-wilds", CARD, ("classification",), _recognise, read)
