"""PCam (PatchCamelyon): 327,680 patches of lymph node slides from two Dutch hospitals, tumor in the middle or not."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fedkvasir.data.catalog import Card, Catalog, Dataset, differences, make_catalog, missing
from fedkvasir.errors import UserError
from fedkvasir.files import read_csv

PARTS = {"train": "train", "valid": "val", "test": "test"}
CARD = Card(
    title="PCam (PatchCamelyon)",
    source="https://github.com/basveeling/pcam",
    citation="Veeling et al., Rotation Equivariant CNNs for Digital Pathology, 2018 (arXiv 1806.03962); "
    "Ehteshami Bejnordi et al., JAMA 318(22), 2017 (Camelyon16)",
    license="CC0",
    obtain="Download the six camelyonpatch_level_2_split_*.h5.gz and the three *_meta.csv from "
    "https://zenodo.org/record/2546921 into one folder and unpack them with `gunzip -k *.h5.gz`.",
    centers="rumc (Radboud UMC, Nijmegen) and umcu (UMC Utrecht), the Netherlands, by slide number",
    groups="slide of Camelyon16 (216 in train, 54 in valid)",
    count=327_680,
    counts={"patches": 327_680, "train": 262_144, "valid": 32_768, "test": 32_768},
    quirks=(
        "labelled tumor where the middle 32 x 32 pixels of 96 x 96 hold any",
        "one downloader found valid and test files swapped on a mirror: labels and slide names are compared here",
        "MD5 sums are published of the .h5.gz, so the pictures can be checked only while those are kept",
    ),
)
MD5 = {
    "train_x.h5.gz": "1571f514728f59376b705fc836ff4b63",
    "train_y.h5.gz": "35c2d7259d906cfc8143347bb8e05be7",
    "valid_x.h5.gz": "d8c2d60d490dbd479f8199bdfa0cf6ec",
    "valid_y.h5.gz": "60a7035772fbdb7f34eb86d4420cf66a",
    "test_x.h5.gz": "d5b63470df7cfa627aeec8b9dc0c066e",
    "test_y.h5.gz": "2b85f58b927af9964a4c15b8f7e8f179",
    "train_meta.csv": "5a3dd671e465cfd74b5b822125e65b0a",
    "valid_meta.csv": "3455fd69135b66734e1008f3af684566",
    "test_meta.csv": "67589e00a4a37ec317f2d1932c7502ca",
}
"""The README's sums, by file name without :data:`PREFIX`."""
PREFIX = "camelyonpatch_level_2_split_"
UMCU_TEST_SLIDES = frozenset((
    1, 4, 8, 12, 14, 16, 18, 19, 22, 26, 28, 31, 33, 34, 37, 41, 42, 44, 46, 47, 48, 55, 58, 62, 63, 65, 66, 69, 71,
    73, 77, 78, 79, 80, 84, 86, 89, 92, 94, 95, 98, 99, 101, 102, 105, 109, 110, 113, 114, 116, 120, 122, 125, 127, 128,
))  # fmt: skip
"""FLamby's list for Camelyon16; the other test slides are from RUMC."""
LAST_SLIDES = {"normal": (100, 160), "tumor": (70, 111)}
"""Training slides: the last number from RUMC, the last from UMCU."""


def center_of(slide: str) -> str | None:
    """``rumc`` or ``umcu`` for a Camelyon16 slide such as ``camelyon16_train_tumor_001``; null if it is none."""
    found = re.fullmatch(r"camelyon16_(?:train_(normal|tumor)|test)_(\d{3})", slide)
    if not found:
        return None
    kind, number = found[1], int(found[2])
    if kind is None:
        return ("umcu" if number in UMCU_TEST_SLIDES else "rumc") if 1 <= number <= 130 else None
    rumc, umcu = LAST_SLIDES[kind]
    return None if not 1 <= number <= umcu else "rumc" if number <= rumc else "umcu"


def read_table(dataset: str, path: Path, columns: tuple[str, ...], text: tuple[str, ...] = ()) -> pd.DataFrame:
    """The ``columns`` of a CSV, those of ``text`` as strings. Raises UserError where it is none or lacks a column."""
    try:
        table = read_csv(path, dtype=dict.fromkeys(text, str))
    except (OSError, pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise UserError(f"{dataset}: {path} cannot be read as CSV ({str(error).strip()}); download it again") from error
    lacking = [column for column in columns if column not in table]
    if lacking:
        raise UserError(
            f"{dataset}: {path} has no column {', '.join(lacking)}, only {', '.join(map(str, table.columns))}; "
            f"it should hold {', '.join(columns)}, comma separated"
        )
    return table[list(columns)]


def spread(slides: pd.Series, per_slide: int | None) -> pd.Series:
    """True for at most ``per_slide`` rows of every slide, evenly spaced over its rows; null chooses all."""
    if per_slide is None:
        return pd.Series(True, index=slides.index)
    if per_slide < 1:
        raise UserError(f"patches_per_slide: at least 1, not {per_slide}")
    rows = slides.groupby(slides)
    rank, size = rows.cumcount(), rows.transform("size")
    return rank * per_slide // size > (rank - 1) * per_slide // size


def _recognise(root: Path) -> bool:
    return any(path.name.lower().endswith((".h5", ".h5.gz")) for path in root.glob(f"{PREFIX}*"))


@dataclass(frozen=True)
class _Part:
    """The three files of train, valid or test."""

    image: str
    tumor: np.ndarray
    """What ``y`` says, (N,) bool."""
    meta: pd.DataFrame


def read(root: Path, *, patches_per_slide: int | None = None) -> Catalog:
    """List the patches; labels and slides are read, pictures are not.

    patches_per_slide: at most so many of every slide, evenly spaced over its rows, instead of all 327,680.
    """
    root = Path(root)
    files = {path.name.lower().removeprefix(PREFIX): path for path in root.glob(f"{PREFIX}*")} if root.is_dir() else {}
    warnings, parts = [], {}
    for name in PARTS:
        if any(f"{name}_{end}" in files for end in ("x.h5", "y.h5", "x.h5.gz", "y.h5.gz")):
            parts[name] = _part(root, files, name)
    if not parts:
        raise missing("pcam", CARD, root, f"{PREFIX}train_x.h5 and the files that belong to it")
    _compare_labels(root, parts)
    table = pd.concat(
        [
            pd.DataFrame(
                {"part": name, "row": range(len(part.tumor)), "image": part.image, "tumor": part.tumor}
            ).assign(slide=part.meta["wsi"].astype(str))
            for name, part in parts.items()
        ],
        ignore_index=True,
    )
    counts = {"patches": len(table)} | {name: len(part.tumor) for name, part in parts.items()}
    warnings += differences(CARD, counts)
    table["center"] = table["slide"].map({slide: center_of(slide) for slide in table["slide"].unique()})
    odd = table["center"].isna()
    if odd.any():
        warnings.append(
            f"{odd.sum()} patches left out, their slides are none of Camelyon16's, e.g. {table['slide'][odd].iloc[0]}"
        )
    table = table[~odd]
    is_test = table["slide"].str.startswith("camelyon16_test")
    astray = is_test != (table["part"] == "test")
    table["official"] = table["part"].map(PARTS)
    table.loc[astray, "official"] = is_test[astray].map({True: "test", False: "val"})
    for name, count in table["part"][astray].value_counts().sort_index().items():
        kind, other = ("training", "valid") if name == "test" else ("test", "test")
        warnings.append(
            f"{count} patches in the {name} files are of {kind} slides and counted as {other}: files of valid and test "
            "may be swapped, as on a known mirror; check their MD5 sums"
        )
    table = table[spread(table["slide"], patches_per_slide)]
    rows = [
        {
            "sample": f"pcam/{part}-{row:06d}",
            "center": center,
            "group": f"pcam/{slide}",
            "image": image,
            "item": str(row),
            "label": "tumor" if tumor else "normal",
            "official_split": official,
        }
        for part, row, image, tumor, slide, center, official in table.astype(object).itertuples(index=False)
    ]
    return make_catalog("pcam", root, rows, warnings, classes=("normal", "tumor"))


def _part(root: Path, files: dict[str, Path], name: str) -> _Part:
    for end in ("x.h5", "y.h5", "meta.csv"):
        if f"{name}_{end}" in files:
            continue
        if f"{name}_{end}.gz" in files:
            packed = files[f"{name}_{end}.gz"]
            raise UserError(f"pcam: {packed} is packed; unpack with gunzip: `gunzip -k {packed.name}`")
        use = "; slides, and so hospitals and groups, are named there" if end == "meta.csv" else ""
        raise UserError(f"pcam: {root} holds no {PREFIX}{name}_{end}{use}. {CARD.obtain}")
    x, y, meta = (files[f"{name}_{end}"] for end in ("x.h5", "y.h5", "meta.csv"))
    slides = read_table("pcam", meta, ("center_tumor_patch", "wsi"))
    with _rows(y, "y") as rows:
        tumor = rows[:].ravel() > 0
    with _rows(x, "x") as rows:
        pictures = len(rows)
    if not pictures == len(tumor) == len(slides):
        raise UserError(
            f"pcam: in {root}, the {name} files disagree: x has {pictures} rows, y {len(tumor)}, meta {len(slides)}; "
            "download the one that is off again"
        )
    return _Part(x.name, tumor, slides)


@contextmanager
def _rows(path: Path, key: str) -> Iterator[Any]:
    """An HDF5 dataset, nothing of it read yet; what can be wrong with the file, as UserError."""
    import h5py  # slow to import, and only PCam needs it

    try:
        with h5py.File(path, "r") as file:
            if not getattr(file.get(key), "ndim", 0):
                raise UserError(f"pcam: {path} holds {', '.join(file) or 'nothing'} and no {key!r}; download it again")
            yield file[key]
    except OSError as error:
        raise UserError(f"pcam: {path} is not a whole HDF5 file ({error}); download it again") from error


def _compare_labels(root: Path, parts: dict[str, _Part]) -> None:
    """Raises UserError where ``y`` is not what the meta file of its part says, naming the part that it fits."""
    for name, part in parts.items():
        off = int(np.sum(part.tumor != _said(part)))
        if not off:
            continue
        fits = [o for o, other in parts.items() if o != name and np.array_equal(part.tumor, _said(other))]
        if fits:
            raise UserError(
                f"pcam: in {root}, the files of {name} and {fits[0]} are swapped: the labels in {name}_y.h5 are those "
                f"of {fits[0]}_meta.csv; swap their names back and check their MD5 sums"
            )
        raise UserError(
            f"pcam: in {root}, {name}_y.h5 and {name}_meta.csv disagree on {off} of {len(part.tumor)} labels; "
            "one is of another part or broken: download both again"
        )


def _said(part: _Part) -> np.ndarray:
    return part.meta["center_tumor_patch"].astype(str).str.lower().isin(("true", "1")).to_numpy()


def verify(root: Path) -> list[str]:
    """Compare the MD5 sums of the downloaded files that are still there (.h5.gz and meta CSV) with the README's."""
    wrong = []
    for name, published in MD5.items():
        path = root / f"{PREFIX}{name}"
        if not path.is_file():
            continue
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
        other = next((other for other, digest in MD5.items() if digest == found), None)
        if other is None:
            wrong.append(f"{path.name}: its MD5 sum is {found}, published is {published}: download it again")
        elif other != name:
            wrong.append(f"{path.name}: its MD5 sum is that of {PREFIX}{other}: the two files are swapped")
    return wrong


DATASET = Dataset("pcam", CARD, ("classification",), _recognise, read, verify=verify)
