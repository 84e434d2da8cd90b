"""PolypGen (v3): polyps from six hospitals in five countries, single frames and video sequences."""

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from fedkvasir.data.catalog import (
    JUNK,
    Card,
    Catalog,
    Dataset,
    differences,
    list_images,
    make_catalog,
    missing,
    other_files,
    pair,
)
from fedkvasir.errors import UserError

PARTS = ("singles", "positive", "negative")
CENTERS = ("C1", "C2", "C3", "C4", "C5", "C6")
UNKNOWN = "unknown"
"""The center of frames whose hospital is not published: all negative sequences."""

# Follows from the published counts, sizes and file names; for seq5, seq12 and seq13 these leave a choice.
SEQUENCE_CENTERS = {
    **dict.fromkeys((1, 2, 3, 4, 6, 7, 8, 9, 10), "C4"),
    11: "C1",
    **dict.fromkeys((14, 15), "C2"),
    **dict.fromkeys(range(16, 24), "C6"),
}
BY_SHAPE = (5, 12, 13)
"""Sequences of 250 frames each: two are of C2, one is of C5. The shape of a frame tells which."""
SHAPES = {"C2": 1440 / 1064, "C5": 1280 / 1024}
"""Width by height: 749 frames are 1440 x 1064, as seq14 (249, C2) and two more; 250 are 1280 x 1024, the one left."""

SEQUENCE_FRAMES = (
    36, 63, 15, 48, 250, 91, 48, 73, 51, 25, 228, 250, 250, 249, 116, 40, 63, 63, 56, 52, 56, 46, 56,
)  # fmt: skip
COUNTS: dict[str, dict[str, int]] = {
    "singles": {
        **{f"{center} singles": n for center, n in zip(CENTERS, (256, 301, 457, 227, 208, 88), strict=True)},
        "single frames with a box file": 1473,
    },
    "positive": {
        "positive sequences": 23,
        **{f"{center} sequence frames": n for center, n in (("C1", 228), ("C2", 865), ("C4", 450), ("C5", 250))},
        "C6 sequence frames": 432,
        **{f"seq{k} frames": n for k, n in enumerate(SEQUENCE_FRAMES, start=1)},
        "sequence frames with a box file": 2225,
    },
    "negative": {"negative sequences": 23, "negative frames": 4275},
}

CARD = Card(
    title="PolypGen (v3)",
    source="https://www.synapse.org/Synapse:syn45200214",
    citation="Ali et al., A multi-centre polyp detection and segmentation dataset for generalisability assessment, "
    "Scientific Data 2023",
    license="CC BY 4.0",
    obtain="Download PolypGen2021_MultiCenterData_v3.zip from https://www.synapse.org/Synapse:syn45200214 (free "
    "account) and unzip it into the data folder, so that it holds PolypGen2021_MultiCenterData_v3/data_C1 ... data_C6 "
    "and sequenceData.",
    centers="C1 France (Paris), C2 Italy (Padova), C3 Italy (Aviano), C4 Norway (Oslo), C5 United Kingdom (Oxford), "
    "C6 Egypt (Alexandria); unknown: the negative sequences. Which number is which hospital follows from the order of "
    "the paper's table",
    groups="patient number in the name (C1, C4 and its sequences), else the sequence; none for single frames of "
    "C2, C3, C5, C6",
    count=8037,
    counts={name: n for part in COUNTS.values() for name, n in part.items()},
    quirks=(
        "imagesAll_positive repeats the single frames and positive sequences without masks: not listed",
        "masks are JPEG with ringing, RGB and grey mixed in one folder: binarised at > 127",
        "C3: image ..._00489_.jpg belongs to mask ..._00489_mask.jpg",
        "C3: 64 images have no box file although they show polyps: their boxes are unknown, not none",
        "C1: one overlay (957OLCV1_100H0002) has no image; three names have no patient number: one group, C1-p995",
        "184 stray .txt files lie among the masks of seq2, seq7 and seq8",
        "bbox_images_C6 is plural; _mask stands in the box names of C1, C4, C5 and C6 only",
        "C4: one name holds a blank (31_endocv2021_positive_329 2); samples are named without it",
        "negative sequences have no masks: empty by definition; their hospital is not published: center unknown",
        "a positive folder or name does not mean a polyp: 125 single and 515 sequence frames have an empty mask, "
        "all of seq1 and seq7; 2 of the 3 C4 images named negative show one",
        "several C4 sequences are parts of one video (seq1 and seq2, seq3 and seq4, seq6 and seq10): one group",
        "seq5, seq12, seq13: two are of C2, one of C5, which is not published; here by the shape of one frame",
        "files in seq16-seq23 count their sequences from 1 again (seq1_C6_... in seq16)",
        "EndoCV2021_001010_mask.jpg (C2) has 6 stray pixels and no box",
        "no official split; patient-wise ones (arXiv 2408.11701) are read where their CSVs are, "
        "and lack one image of C6",
    ),
)

SPLITS = {"patients": "all_centres"} | {f"patients-without-C{k}": f"no_centre_{k}" for k in range(1, 7)}
"""Names here, and how the published files begin: ``all_centres_train_split.csv``."""
SPLIT_PARTS = {"train": "train", "val": "val", "in_test": "test"}

_PATIENT = {"C1": re.compile(r"(\d+)OLCV\d+_"), "C4": re.compile(r"(\d+)_endocv2021_(?:positive|negative)_")}
_NO_PATIENT = "995"
"""The number that the published patient splits gave the three C1 images without one."""


def key(stem: str) -> str:
    """What all spellings of a picture's name share: no made-up patient number, no blank, no trailing ``_`` or ``]``."""
    return stem.removeprefix(f"{_NO_PATIENT}OLCV1_").replace(" ", "").rstrip("_]")


@dataclass
class Listing:
    """What a tree of this family holds, as far as it has been walked."""

    dataset: str
    root: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    found: Counter[str] = field(default_factory=Counter)
    """What is counted, by its name in the card."""
    notes: list[str] = field(default_factory=list)
    """Warnings already in words."""
    odd: dict[str, list[Path]] = field(default_factory=lambda: defaultdict(list))
    """Surprises of one kind: the files that are."""

    @property
    def warnings(self) -> list[str]:
        """One sentence for each kind of surprise: how many, in which folders, one of them."""
        sentences = list(self.notes)
        for kind, paths in self.odd.items():
            folders = Counter(path.parent.relative_to(self.root).as_posix() for path in paths)
            where = ", ".join(f"{folder} {n}" for folder, n in folders.most_common(5))
            more = f" and {len(folders) - 5} more folders" if len(folders) > 5 else ""
            sentences.append(f"{len(paths)} {kind} ({where}{more}), e.g. {paths[0].name}")
        return sentences


def _by_key(files: Mapping[str, Path], *endings: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for stem, path in files.items():
        for ending in endings:
            stem = stem.removesuffix(ending)
        name = key(stem)
        if name in found:
            raise UserError(
                f"{path.parent} holds {found[name].name} and {path.name}, one name twice: keep one of the two"
            )
        found[name] = path
    return found


def _inside(folder: Path, kind: str, name: str) -> Path:
    """``images_seq3``; in the challenge's sequences plain ``images``."""
    plain, numbered = folder / kind, folder / f"{kind}_{name}"
    return plain if plain.is_dir() and not numbered.is_dir() else numbered


def _boxes(path: Path) -> list[list[int]] | None:
    """``polyp xmin ymin xmax ymax``, a line each; null where a line says something else."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        words = line.split()
        if not words:
            continue
        try:
            xmin, ymin, xmax, ymax = map(int, words[1:])
        except ValueError:
            return None
        if not (0 <= xmin < xmax and 0 <= ymin < ymax):
            return None
        found.append([xmin, ymin, xmax, ymax])
    return found


def _annotated(listing: Listing, folder: Path, name: str) -> list[tuple[str, dict[str, Any]]]:
    """Names and rows (image, mask, boxes) of one center's or one positive sequence's folder."""
    image_folder, mask_folder, box_folder = (_inside(folder, kind, name) for kind in ("images", "masks", "bbox"))
    images = _by_key(list_images(image_folder))
    masks = _by_key(list_images(mask_folder), "_mask")
    texts = _by_key({path.stem: path for path in other_files(box_folder) if path.suffix.lower() == ".txt"}, "_mask")
    both, orphans = pair(images, masks, folder)
    listing.notes += orphans

    odd = listing.odd
    for stray in other_files(image_folder) + other_files(mask_folder):
        odd[f"stray {stray.suffix} file(s) among images or masks ignored"].append(stray)
    odd["box file(s) without an image ignored"] += [path for stem, path in texts.items() if stem not in images]
    for overlays in sorted(folder.glob("bbox_image*")):
        drawn = _by_key(list_images(overlays), "_bbox", "_mask")
        odd["box overlay(s) without an image ignored"] += [path for stem, path in drawn.items() if stem not in images]

    rows = []
    prefix = folder.relative_to(listing.root).as_posix()
    for stem, image, mask in both:
        if image.stem != mask.stem.removesuffix("_mask"):
            odd["image(s) spelled differently from their masks, paired all the same"].append(image)
        boxes = _boxes(texts[stem]) if stem in texts else None
        if stem not in texts:
            odd["image(s) without a box file: boxes unknown"].append(image)
        elif boxes is None:
            odd["box file(s) with a line other than 'polyp xmin ymin xmax ymax': boxes unknown"].append(texts[stem])
        row = {
            "image": f"{prefix}/{image_folder.name}/{image.name}",
            "mask": f"{prefix}/{mask_folder.name}/{mask.name}",
            "boxes": boxes,
        }
        rows.append((stem, row))
    return rows


def _singles(listing: Listing) -> None:
    name = listing.dataset
    for center in CENTERS:
        folder = listing.root / f"data_{center}"
        for stem, row in _annotated(listing, folder, center):
            group = None
            if center in _PATIENT:
                patient = _PATIENT[center].match(stem)
                number = patient[1] if patient else _NO_PATIENT if center == "C1" else None
                group = f"{name}/{center}-p{number}" if number else None
                if patient is None:
                    instead = f"the group C1-p{_NO_PATIENT}" if center == "C1" else "no group"
                    odd = f"image(s) of {center} without a patient number in the name: {instead}"
                    listing.odd[odd].append(listing.root / row["image"])
            listing.rows.append(row | {"sample": f"{name}/{center}/{stem}", "center": center, "group": group})
            listing.found[f"{center} singles"] += 1
            listing.found["single frames with a box file"] += row["boxes"] is not None


def _sequences(listing: Listing, folder: Path, pattern: str) -> list[tuple[int, Path]]:
    """Sequence folders with their numbers, in order."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        number = re.fullmatch(pattern, path.name)
        if number and path.is_dir():
            found.append((int(number[1]), path))
        elif path.name not in JUNK and not path.name.startswith("."):
            listing.odd["file(s) or folder(s) among the sequences left out"].append(path)
    return sorted(found)


def _group(listing: Listing, folder: Path, stems: Sequence[str]) -> str:
    """The patient's number where names hold one (C4), so that parts of one video stay together, else the sequence."""
    numbers = sorted({patient[1] for patient in map(_PATIENT["C4"].match, stems) if patient}, key=int)
    if len(numbers) > 1:
        listing.odd["sequence(s) with several patient numbers: the lowest is the group"].append(folder)
    return f"{listing.dataset}/C4-p{numbers[0]}" if numbers else f"{listing.dataset}/{folder.name}"


def _center_by_shape(image: Path) -> str:
    """C2 or C5, from the header of one frame."""
    try:
        with Image.open(image) as picture:
            shape = picture.width / picture.height
    except OSError:
        return UNKNOWN
    center = min(SHAPES, key=lambda name: abs(SHAPES[name] - shape))
    return center if abs(SHAPES[center] - shape) < 0.03 else UNKNOWN


def _positive(listing: Listing) -> None:
    inferred = {}
    for number, folder in _sequences(listing, listing.root / "sequenceData" / "positive", r"seq(\d+)"):
        frames = _annotated(listing, folder, folder.name)
        if not frames:
            listing.odd["sequence(s) without a frame"].append(folder)
            continue
        center = SEQUENCE_CENTERS.get(number, UNKNOWN)
        if number in BY_SHAPE:
            inferred[folder.name] = center = _center_by_shape(listing.root / frames[0][1]["image"])
        elif center == UNKNOWN:
            listing.odd["sequence(s) with a number that is not published: center unknown"].append(folder)
        group = _group(listing, folder, [stem for stem, _ in frames])
        for stem, row in frames:
            sample = f"{listing.dataset}/{folder.name}/{stem}"
            listing.rows.append(row | {"sample": sample, "center": center, "group": group})
            listing.found["sequence frames with a box file"] += row["boxes"] is not None
        listing.found["positive sequences"] += 1
        listing.found["sequence frames"] += len(frames)
        listing.found[f"{center} sequence frames"] += len(frames)
        listing.found[f"{folder.name} frames"] += len(frames)
    if inferred:
        guess = ", ".join(f"{name} {center}" for name, center in inferred.items())
        listing.notes.append(f"center of {len(inferred)} sequences is not published; by the shape of a frame: {guess}")


def _negative(listing: Listing) -> None:
    for _, folder in _sequences(listing, listing.root / "sequenceData" / "negativeOnly", r"seq(\d+)_neg"):
        images = list_images(folder)
        listing.odd["sequence(s) without a frame"] += [] if images else [folder]
        for stray in other_files(folder):
            listing.odd[f"stray {stray.suffix} file(s) among images or masks ignored"].append(stray)
        group = _group(listing, folder, list(images))
        for stem, image in images.items():
            row = {
                "sample": f"{listing.dataset}/{folder.name}/{stem}",
                "center": UNKNOWN,
                "group": group,
                "image": f"sequenceData/negativeOnly/{folder.name}/{image.name}",
                "empty": True,
            }
            listing.rows.append(row)
        listing.found["negative sequences"] += 1
        listing.found["negative frames"] += len(images)
    if listing.found["negative frames"]:
        n, sequences = listing.found["negative frames"], listing.found["negative sequences"]
        listing.notes.append(
            f"{n} frames of {sequences} negative sequences: their hospital is not published, center {UNKNOWN}"
        )


def list_tree(dataset: str, card: Card, root: Path, parts: Sequence[str]) -> Listing:
    """Walk ``data_C*`` and ``sequenceData``, the tree that EndoCV2021 and PolypGen share.

    Raises UserError where neither is there, or a part is none of :data:`PARTS`.
    """
    wrong = [parts] if isinstance(parts, str) else [part for part in parts if part not in PARTS]
    if wrong or not parts:
        raise UserError(
            f"{dataset}: parts is a list of {', '.join(PARTS)}; {wrong[0] if wrong else 'nothing'} is not one"
        )
    if not any((root / f"data_{center}").is_dir() for center in CENTERS) and not (root / "sequenceData").is_dir():
        raise missing(dataset, card, root, "data_C1/images_C1/*.jpg and sequenceData")
    listing = Listing(dataset, root)
    for part, walk in zip(PARTS, (_singles, _positive, _negative), strict=True):
        if part in parts:
            walk(listing)
    listing.odd = {kind: paths for kind, paths in listing.odd.items() if paths}
    return listing


def counted(card: Card, counts: Mapping[str, Mapping[str, int]], parts: Sequence[str]) -> Card:
    """The card with the counts of ``parts`` only: a part that was not asked for is not missing."""
    return replace(
        card, counts={name: n for part in PARTS if part in parts for name, n in counts.get(part, {}).items()}
    )


def _names(path: Path) -> list[str]:
    """The column ``image`` of a published split."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            if "image" not in (table.fieldnames or ()):
                columns = ", ".join(table.fieldnames or ()) or "none"
                raise UserError(f"polypgen: {path} has no column image, comma separated; its columns: {columns}")
            return [row["image"] or "" for row in table]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"polypgen: {path} cannot be read as CSV ({error}); download it again") from error


def _patient_splits(folder: Path, samples: Mapping[str, str]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """The published splits whose CSVs lie in ``folder``; ``samples`` has the single frames by :func:`key`."""
    splits: dict[str, dict[str, str]] = {}
    unmatched: dict[str, list[str]] = {}
    for name, beginning in SPLITS.items():
        files = {part: folder / f"{beginning}_{part}_split.csv" for part in SPLIT_PARTS}
        absent = [path.name for path in files.values() if not path.is_file()]
        if len(absent) == len(files):
            continue
        if absent:
            raise UserError(f"polypgen: {folder} lacks {absent[0]} of the split {name}; a split has three files")
        split: dict[str, str] = {}
        for part, path in files.items():
            for image in _names(path):
                sample = samples.get(key(PurePosixPath(image).stem))
                if sample is None:
                    unmatched.setdefault(name, []).append(image)
                elif sample in split:
                    raise UserError(f"polypgen: {path} lists {image}, which the split {name} has already; keep one row")
                else:
                    split[sample] = SPLIT_PARTS[part]
        if split:
            splits[name] = split
    warnings = []
    if unmatched:
        each = ", ".join(f"{name} {len(images)}" for name, images in unmatched.items())
        first = next(iter(unmatched.values()))[0]
        warnings.append(
            f"rows of the published patient splits without an image here: {each}, e.g. {first or '(empty)'}"
        )
    left = sorted(set(samples.values()) - set(splits["patients"])) if "patients" in splits else []
    if left:
        warnings.append(f"{len(left)} single frames are in no part of the published split patients, e.g. {left[0]}")
    return splits, warnings


def _split_folder(root: Path, given: str | None) -> Path | None:
    places = [place / "patient_splits" for place in (root, root.parent, root.parent / "PolypGen")]
    if given is not None:
        places = [root / Path(given).expanduser()]
    found = [place for place in places if any(place.glob("*_split.csv"))]
    if given is not None and not found:
        raise UserError(f"polypgen: patient_splits {places[0]} holds no all_centres_train_split.csv; name its folder")
    return found[0] if found else None


def _recognise(root: Path) -> bool:
    sequences = root / "sequenceData"
    if not sequences.is_dir() and not any((root / f"data_{center}").is_dir() for center in CENTERS):
        return False
    marks = ("data_C6", "imagesAll_positive", "dataDetails_PolypGen_SingleFrames", "sequenceData/positive/seq16")
    return root.name.lower().startswith("polypgen") or any((root / mark).is_dir() for mark in marks)


def read(root: Path, *, parts: tuple[str, ...] = PARTS, patient_splits: str | None = None) -> Catalog:
    """List single frames, positive and negative sequences (or the ``parts`` asked for), and published patient splits.

    ``patient_splits`` names the folder of their CSVs, relative to ``root``; without it ``patient_splits`` is looked for
    in the root, beside it, and in a ``PolypGen`` folder beside it. They become the named splits ``patients`` and
    ``patients-without-C1`` to ``-C6``; a center that is left out is in no part of its split.
    """
    root = Path(root)
    listing = list_tree("polypgen", CARD, root, parts)
    warnings = listing.warnings
    splits: dict[str, dict[str, str]] = {}
    folder = _split_folder(root, patient_splits)
    if "singles" in parts and folder is not None:
        singles = {
            row["sample"].rpartition("/")[2]: row["sample"] for row in listing.rows if row["image"].startswith("data_")
        }
        splits, found = _patient_splits(folder, singles)
        warnings += found
    warnings += differences(counted(CARD, COUNTS, parts), listing.found)
    return make_catalog("polypgen", root, listing.rows, warnings, splits=splits)


DATASET = Dataset("polypgen", CARD, ("segmentation",), _recognise, read)
