"""VerSe'19 and '20: CT scans of the spine with every vertebra outlined and named, cut into 2-D slices."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from fedkvasir.data.catalog import Card, Catalog, Dataset, differences, make_catalog, missing, pair, readable
from fedkvasir.data.formats import nifti
from fedkvasir.errors import UserError

CARD = Card(
    title="VerSe'19 and VerSe'20",
    source="https://github.com/anjany/verse",
    citation="Sekuboyina et al., VerSe: A Vertebrae Labelling and Segmentation Benchmark for Multi-detector CT Images, "
    "2020 (arXiv 2001.09193); Loeffler et al., A Vertebral Segmentation Dataset with Fracture Grading, Radiology: AI, "
    "2020",
    license="CC BY-SA 4.0; the sub-gl scans CC BY-NC-ND, as a copy of them says",
    obtain="Download the subject-based data from https://osf.io/jtfa5/ ('19) or https://osf.io/4skx2/ ('20) and unpack "
    "training, validation and test side by side, each with its folders rawdata and derivatives.",
    centers="scanner maker (Manufacturer in _ct.json), else the study year: verse19 or verse20",
    groups="subject (the split- series of sub-verse401 and its like are one subject)",
    counts={"scans": 374, "train": 141, "val": 120, "test": 113},
    quirks=(
        "slices are turned by the header's affine: sagittal has the head up and the front of the body on the left",
        "a slice without a vertebra stays, with an empty mask; vertebrae cut by the scan's border are not outlined",
        "labels: 1-7 C1-C7, 8-19 T1-T12, 20-25 L1-L6, 26 sacrum, 27 coccyx (unused), 28 T13",
        "many patients are in '19 and '20: a scan found twice is read once",
        "published counts are of '19 and '20 together",
    ),
)
SPLITS = ("train", "val", "test")
"""Each is in the name of its part's folder."""
LABELS = ("binary", "vertebrae")
VERTEBRAE = (
    *(f"C{n}" for n in range(1, 8)), *(f"T{n}" for n in range(1, 13)), *(f"L{n}" for n in range(1, 7)),
    "sacrum", "coccyx", "T13",
)  # fmt: skip
"""What the labels 1 to 28 mean."""


def read(root: Path, *, plane: str = "sagittal", every: int = 8, labels: str = "binary") -> Catalog:
    """List slices of all scans that have a mask; of the volumes only the headers are read.

    plane: sagittal, coronal or axial. every: distance of slices, in voxels across the plane, the first half of that
    from the border. labels: ``binary`` (vertebra or not) or ``vertebrae`` (1 to 28).
    """
    root = Path(root).absolute()  # names tell years and splits, and "." has none
    for option, value, allowed in (("plane", plane, nifti.PLANES), ("labels", labels, LABELS)):
        if value not in allowed:
            raise UserError(f"verse: {option} is {value!r}; allowed: {', '.join(allowed)}")
    if every < 1:
        raise UserError(f"verse: every is {every}; it is a number of voxels, at least 1")
    parts = _parts(root)
    if not parts:
        raise missing("verse", CARD, root, "rawdata/sub-*/*_ct.nii.gz and derivatives/sub-*/*_seg-vert_msk.nii.gz")
    scans: dict[str, tuple[Path, Path, Path]] = {}
    warnings, twice = [], []
    for part in parts:
        images, more = _files(part / "rawdata", "_ct.nii", "CT")
        masks, other = _files(part / "derivatives", "_seg-vert_msk.nii", "mask")
        both, orphans = pair(images, masks, part)
        warnings += [*more, *other, *orphans]
        twice += [stem for stem, _, _ in both if stem in scans]
        scans = {stem: (part, image, mask) for stem, image, mask in both} | scans
    if twice:
        warnings.append(f"{len(twice)} scans lie in two parts and are read once, e.g. {min(twice)}")
    if not scans:
        raise missing("verse", CARD, root, "a CT with its mask")
    makers = {stem: _maker(image) for stem, (_, image, _) in scans.items()}
    centers = {stem: makers[stem] or _year(part, root) for stem, (part, _, _) in scans.items()}
    nameless = sorted(stem for stem, maker in makers.items() if not maker)
    if nameless:
        used = ", ".join(sorted({centers[stem] for stem in nameless}))
        warnings.append(
            f"{len(nameless)} scans name no maker in a _ct.json; their center is {used}, e.g. {nameless[0]}"
        )
    official = {stem: _official(part) for stem, (part, _, _) in scans.items()}
    counts = {name: list(official.values()).count(name) for name in SPLITS}
    warnings += differences(CARD, {"scans": len(scans)} | counts)
    warnings += _torn("center", centers) + _torn("official split", official)
    axis = nifti.PLANES.index(plane)
    ending = ":labels" if labels == "vertebrae" else ""
    rows = []
    for stem, (_, image, mask) in scans.items():
        voxels = _extent(image, mask)[axis]
        for number in range(min(every, voxels) // 2, voxels, every):
            rows.append(
                {
                    "sample": f"verse/{stem}/{plane}-{number:04d}",
                    "center": centers[stem],
                    "group": f"verse/{_subject(stem)}",
                    "image": image.relative_to(root).as_posix(),
                    "item": f"{plane}:{number}",
                    "mask": mask.relative_to(root).as_posix(),
                    "mask_item": f"{plane}:{number}{ending}",
                    "official_split": official[stem],
                }
            )
    named = VERTEBRAE if labels == "vertebrae" else ("vertebra",)
    return make_catalog("verse", root, rows, warnings, mask_classes=named)


def centroids(root: Path) -> pd.DataFrame:
    """The centres of all vertebrae, out of the ``_ctd.json`` files, one row each.

    Columns: ``scan`` (as in ``verse/<scan>/...`` of the samples), ``label`` (1 to 28), ``x``, ``y``, ``z`` in voxels of
    the stored volume, ``direction`` of those three axes (``PIR``: they run to posterior, inferior, right).
    """
    rows: dict[tuple[str, int], dict[str, Any]] = {}
    for part in _parts(Path(root)):
        for path in sorted((part / "derivatives").glob("sub-*/sub-*_ctd.json")):
            scan = path.name.split("_seg-")[0]
            try:
                head, *points = json.loads(path.read_text(encoding="utf-8"))
                direction = "".join(head["direction"])
                for point in points:
                    label, place = int(point["label"]), {axis.lower(): float(point[axis]) for axis in "XYZ"}
                    rows.setdefault((scan, label), {"scan": scan, "label": label, **place, "direction": direction})
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise UserError(
                    f"verse: {path} is not a list of a direction and vertebrae with label, X, Y, Z; download it again"
                ) from error
    return pd.DataFrame(list(rows.values()), columns=["scan", "label", "x", "y", "z", "direction"])


def _recognise(root: Path) -> bool:
    """One part, or a folder of several: training, validation and test side by side."""
    return _is_part(root) or len(_parts(root)) > 1


def _is_part(folder: Path) -> bool:
    return (folder / "derivatives").is_dir() and any((folder / "rawdata").glob("sub-*"))


def _parts(root: Path) -> list[Path]:
    """Folders with rawdata and derivatives: the root, or those directly in it, which may be doubled."""
    if _is_part(root):
        return [root]
    children = sorted(root.iterdir()) if root.is_dir() else []
    visible = [child for child in children if not child.name.startswith(".") and readable(child)]
    return [place for child in visible for place in (child, child / child.name) if _is_part(place)]


def _files(folder: Path, ending: str, kind: str) -> tuple[dict[str, Path], list[str]]:
    """NIfTI files of the subjects by scan, such as ``sub-verse401_split-verse201``, and what else lies there."""
    found: dict[str, Path] = {}
    empty, odd = [], []
    for subject in sorted(folder.glob("sub-*")):
        names = sorted(path for path in subject.glob("*") if not path.name.startswith("."))
        volumes = [path for path in names if path.name.lower().endswith(nifti.SUFFIXES)]
        fitting = [path for path in volumes if re.fullmatch(rf"sub-.+{ending}(\.gz)?", path.name.lower())]
        odd += [path for path in volumes if path not in fitting]
        for path in fitting:
            stem = path.name[: path.name.lower().rindex(ending)]
            if stem in found:
                raise UserError(f"verse: {subject} holds {found[stem].name} and {path.name}: keep one of the two")
            found[stem] = path
        if not fitting:
            empty.append(subject)
    warnings = []
    if empty:
        warnings.append(f"{len(empty)} subjects without a {kind} under {folder}, e.g. {empty[0].name}")
    if odd:
        warnings.append(
            f"{len(odd)} NIfTI files under {folder} are not named *{ending}.gz, left out, e.g. {odd[0].name}"
        )
    return found, warnings


def _subject(stem: str) -> str:
    return stem.split("_")[0]


def _maker(image: Path) -> str | None:
    """The scanner's maker in lower case, ``ge-medical-systems``; null where the file beside the CT does not say."""
    facts = image.with_name(re.sub(r"\.nii(\.gz)?$", ".json", image.name, flags=re.IGNORECASE))
    try:
        maker = json.loads(facts.read_text(encoding="utf-8"))["Manufacturer"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return re.sub(r"[^a-z0-9]+", "-", str(maker or "").lower()).strip("-") or None


def _year(part: Path, root: Path) -> str:
    """``verse19`` or ``verse20`` by the name of the part's folder or of one around it, else ``verse``."""
    for folder in (part, part.parent, root, root.parent):
        found = re.search(r"verse\D{0,2}(?:20)?(19|20)", folder.name.lower())
        if found:
            return f"verse{found[1]}"
    return "verse20" if re.match(r"dataset-0\d", part.name) else "verse"


def _official(part: Path) -> str | None:
    return next((split for split in SPLITS if split in part.name.lower()), None)


def _torn(what: str, values: Mapping[str, str | None]) -> list[str]:
    """A warning that counts subjects whose scans differ in ``values``."""
    by_subject: dict[str, set[str | None]] = {}
    for stem, value in values.items():
        by_subject.setdefault(_subject(stem), set()).add(value)
    torn = sorted(subject for subject, found in by_subject.items() if len(found) > 1)
    return [f"{len(torn)} subjects have scans of more than one {what}, e.g. {torn[0]}"] if torn else []


def _extent(image: Path, mask: Path) -> tuple[int, int, int]:
    """Voxels to the right, front and head. Raises UserError where CT and mask differ."""
    sizes = []
    for path in (image, mask):
        try:
            sizes.append(nifti.extent(path))
        except (OSError, ValueError) as error:
            raise UserError(f"verse: {path} cannot be read ({error}); download it again or move it away") from error
    if sizes[0] != sizes[1]:
        scan, outline = ("x".join(map(str, size)) for size in sizes)
        raise UserError(
            f"verse: the mask {mask} has {outline} voxels, its CT {image} {scan} (right, anterior, superior); download "
            "both again or move them away"
        )
    return sizes[0]


DATASET = Dataset("verse", CARD, ("segmentation",), _recognise, read, tables={"centroids": centroids})
