"""HyperKvasir labeled-videos: 374 videos from Baerum hospital, Norway, sampled to frames that bear its class."""

import math
from collections import Counter
from pathlib import Path

from fedkvasir.data.catalog import Card, Catalog, Dataset, differences, make_catalog, missing
from fedkvasir.data.datasets import hyperkvasir_labeled
from fedkvasir.data.datasets.hyperkvasir_labeled import (
    TRACTS,
    class_of,
    files_by_folder,
    hyphenated,
    odd_names,
    rows_of,
    tract_tree_holds,
)
from fedkvasir.data.formats.video import SUFFIXES
from fedkvasir.errors import UserError

NAME = "hyperkvasir-videos"
COLUMNS = ("Video file", "Organ", "Classification 1", "Finding 1", "Classification 2", "Finding 2")
SAME = {
    "barrett-s-oesophagus": "barretts",
    "cancer-colorectal": "colorectal-cancer",
    "gave": "gastric-antral-vascular-ectasia",
}
"""Findings that video-labels.csv and the folders spell differently."""

CARD = Card(
    title="HyperKvasir, labeled videos",
    source=hyperkvasir_labeled.CARD.source,
    citation=hyperkvasir_labeled.CARD.citation,
    license=hyperkvasir_labeled.CARD.license,
    obtain="Download the labeled videos (32.5 GB) from https://datasets.simula.no/hyper-kvasir/ and unzip them "
    "so that the data folder holds labeled-videos with video-labels.csv, lower-gi-tract and upper-gi-tract in it.",
    centers="Baerum, Vestre Viken, Norway",
    groups="video (374); no patient ids exist",
    counts={"videos": 374, "lower-gi-tract": 314, "upper-gi-tract": 60},
    quirks=(
        "30 classes by folder; polyps stand in both tracts, so there are fewer names",
        "every frame bears the class of its video: a frame of a polyp's video need not show the polyp",
        "video-labels.csv writes findings as free text (BBPS 0-1, barrett's oesophagus), image-labels.csv does not",
        "9.78 hours, 889,372 frames in all",
    ),
)


def _recognise(root: Path) -> bool:
    return (root / "video-labels.csv").is_file() or tract_tree_holds(root, SUFFIXES)


def read(root: Path, *, frames_per_second: float = 1.0) -> Catalog:
    """List frames: each video at ``frames_per_second`` from its first frame on, at most its own rate.

    Opens every video's header for its length and rate; decodes nothing. The class is the folder's name, the video is
    the group. Raises UserError where video-labels.csv lacks a column.
    """
    root = Path(root)
    rate = frames_per_second
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not (math.isfinite(rate) and rate > 0):
        raise UserError(f"{NAME}: option frames_per_second is {rate!r}; it must be a number above 0")
    folders, warnings = files_by_folder(NAME, root, SUFFIXES)
    loose = folders.pop(root, [])
    if loose:
        warnings.append(f"{len(loose)} videos left out, they lie in no class folder, e.g. {loose[0]}")
    if not folders:
        raise missing(NAME, CARD, root, "a class folder with videos, e.g. lower-gi-tract/pathological-findings/polyps")
    videos = [(folder / name, _label(folder.name)) for folder, names in folders.items() for name in names]
    stems = Counter(path.stem for path, _ in videos)
    twice = [stem for stem, count in stems.items() if count > 1]
    if twice:
        warnings.append(f"{len(twice)} videos stand in two folders, e.g. {twice[0]}: all kept, as one group")
    warnings += odd_names(stems)
    warnings += _check_labels(root / "video-labels.csv", videos)
    rows, broken = [], []
    for path, label in videos:
        here = path.relative_to(root)
        header = _header(path)
        if header is None:
            broken.append(here.as_posix())
            continue
        count, own_rate = header
        step = max(1.0, own_rate / rate)
        name = f"{here.parent.as_posix()}/{path.stem}" if path.stem in twice else path.stem
        for frame in (int(number * step) for number in range(math.ceil(count / step))):
            if frame < count:
                rows.append(
                    {
                        "sample": f"{NAME}/{name}/{frame:06d}",
                        "center": "baerum",
                        "group": f"{NAME}/{path.stem}",
                        "image": here.as_posix(),
                        "item": str(frame),
                        "label": label,
                    }
                )
    if broken:
        warnings.append(f"{len(broken)} videos left out, OpenCV cannot open them, e.g. {broken[0]}")
    found = Counter(part for path, _ in videos for part in path.relative_to(root).parts if part in TRACTS)
    warnings += differences(CARD, {"videos": len(videos)} | found)
    return make_catalog(NAME, root, rows, warnings, sorted({str(row["label"]) for row in rows}))


def _label(name: str) -> str:
    """The class by any of its spellings, where it is also a class of the labeled images; else the name, hyphenated."""
    return class_of(name) or SAME.get(hyphenated(name), hyphenated(name))


def _header(path: Path) -> tuple[int, float] | None:
    """Number of frames and frames per second as the file states them; null where it cannot be opened."""
    import cv2

    video = cv2.VideoCapture(str(path))
    try:
        count, rate = int(video.get(cv2.CAP_PROP_FRAME_COUNT)), float(video.get(cv2.CAP_PROP_FPS))
    finally:
        video.release()
    return (count, rate) if count > 0 and math.isfinite(rate) and rate > 0 else None


def _check_labels(listing: Path, videos: list[tuple[Path, str]]) -> list[str]:
    """Warnings where video-labels.csv (its first finding) and the class folders disagree."""
    if not listing.is_file():
        return []
    # The published file holds a character or two outside ASCII in its free text, in an encoding nobody states.
    rows = rows_of(NAME, listing, COLUMNS, errors="replace")
    listed: dict[str, set[str]] = {}
    for row in rows:
        name = row["Video file"]
        stem = Path(name).stem if name.lower().endswith(SUFFIXES) else name
        listed.setdefault(stem, set()).add(_label(row["Finding 1"]))
    stems = {path.stem for path, _ in videos}
    kinds = (
        (sorted(set(listed) - stems), "rows have no video here:"),
        (sorted(stems - set(listed)), "videos have no row in"),
        (
            [f"{path.stem} in {label}" for path, label in videos if label not in listed.get(path.stem, {label})],
            "videos lie in a folder of another class than in",
        ),
    )
    return [f"{len(found)} {what} {listing.name}, e.g. {found[0]}" for found, what in kinds if found]


DATASET = Dataset(NAME, CARD, ("classification",), _recognise, read)
