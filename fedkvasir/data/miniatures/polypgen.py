"""PolypGen in small: the published tree with its eight quirks, and the published patient splits beside it.

Names, counts and proportions of resolutions and empty masks are those of the release. Not published, and chosen here:
the names of negative frames and of seq7, which of seq5, seq12 and seq13 is C5's (seq5), which three sequences have grey
masks.
"""

import csv
import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from fedkvasir.data.miniatures import paint

ROOT = "PolypGen2021_MultiCenterData_v3"
PATIENT = 30_000
"""Where the painted patients begin. EndoCV2021 has the same, for it has the same pictures."""
LOOKS = {"C1": "cadiz", "C2": "bergen", "C3": "dresden", "C4": "edinburgh", "C5": "alta", "C6": "cadiz"}
FULL = {"C1": 256, "C2": 301, "C3": 457, "C4": 227, "C5": 208, "C6": 88}
EMPTY = {"C1": 5, "C2": 31, "C3": 1, "C4": 81, "C5": 2, "C6": 5}
SIZES = {
    "C1": ((1350, 1080, 146), (1232, 1048, 94), (628, 513, 11), (572, 498, 4), (1008, 1042, 1)),
    "C2": ((1440, 1064, 162), (1280, 1024, 30), (1704, 1072, 15), (1432, 1056, 14), (1359, 1063, 14)),
    "C3": ((1440, 1080, 429), (720, 576, 23), (1240, 1040, 5)),
    "C4": ((1920, 1080, 227),),
    "C5": ((1920, 1080, 182), (384, 288, 26)),
    "C6": ((1920, 1080, 83), (1024, 768, 5)),
}
"""Width, height and number of a center's single frames; C2 has ten more sizes."""
SEQUENCES = {
    1: (36, 36), 2: (63, 3), 3: (15, 0), 4: (48, 2), 5: (250, 51), 6: (91, 29), 7: (48, 48), 8: (73, 19), 9: (51, 9),
    10: (25, 18), 11: (228, 92), 12: (250, 0), 13: (250, 51), 14: (249, 49), 15: (116, 0), 16: (40, 7), 17: (63, 19),
    18: (63, 7), 19: (56, 1), 20: (52, 21), 21: (56, 31), 22: (46, 2), 23: (56, 20),
}  # fmt: skip
"""Frames of a positive sequence, and how many of them have an empty mask."""
VIDEOS = {1: 0, 2: 0, 3: 1, 4: 1, 6: 2, 8: 3, 9: 7, 10: 2}
"""Sequences of C4 that are parts of one video share its number."""
GREY = (3, 9, 15)
STRAY = (2, 7, 8)
"""Sequences with copies of their box files among the masks."""
NEGATIVE_FRAMES = (4275, 23)


@dataclass(frozen=True)
class Names:
    """File stems of one kind: a template, and what each of its fields may be."""

    template: str
    space: dict[str, Sequence[int] | str]

    def make(self, **fields: int | str) -> str:
        """The stem with these fields; each must lie in the space."""
        outside = {name: value for name, value in fields.items() if value not in self.space[name]}
        if outside:
            raise ValueError(f"{outside} outside {self.space}")
        return self.template.format(**fields)

    def could_make(self, stem: str) -> bool:
        """Is there a choice of fields that makes this stem?"""
        found = re.fullmatch(re.sub(r"\{(\w+)[^}]*\}", r"(?P<\1>[0-9]+|[A-Za-z]+)", self.template), stem)
        if not found:
            return False
        fields = {name: int(text) if text.isdigit() else text for name, text in found.groupdict().items()}
        inside = all(value in self.space[name] for name, value in fields.items())
        return inside and self.make(**fields) == stem


SINGLES: dict[str, tuple[Names, ...]] = {
    "C1": (
        Names(
            "{patient}OLCV1_100{letter}{shot:04d}",
            {"patient": range(102, 1000), "letter": "HS", "shot": range(1, 1000)},
        ),
        Names("100{letter}{shot:04d}", {"letter": "HS", "shot": range(1, 1000)}),
    ),
    "C2": (Names("EndoCV2021_{number:06d}", {"number": range(1000, 1432)}),),
    "C3": (
        Names("C3_EndoCV2021_00{number}", {"number": range(1, 503)}),
        Names("C3_EndoCV2021_00489_", {}),
    ),
    "C4": (
        Names("{patient}_endocv2021_positive_{frame}", {"patient": range(4, 36), "frame": range(1, 10_000)}),
        Names("35_endocv2021_negative_{frame}", {"frame": range(1, 10_000)}),
        Names("31_endocv2021_positive_329 2", {}),
    ),
    "C5": (Names("EndoCV2021_C5_5{number:07d}", {"number": range(3, 382)}),),
    "C6": (Names("EndoCV2021_C6_01{number:05d}", {"number": range(1, 117)}),),
}
"""The first kind is a center's usual name, the others are its odd ones."""


def could_generate(center: str, stem: str) -> bool:
    """Is ``stem`` a name that a single frame of ``center`` may get?"""
    return any(names.could_make(stem) for names in SINGLES[center])


def _spread(space: Sequence[int], count: int) -> list[int]:
    """``count`` members of ``space`` at equal distances."""
    return [space[round(i * (len(space) - 1) / max(count - 1, 1))] for i in range(count)]


def single_names(center: str, count: int) -> list[tuple[str, int]]:
    """Stems of ``count`` single frames, odd names included, and a number each: one number, one patient."""
    usual, *odd = SINGLES[center]
    if center == "C1":
        shots = (("S", 1), ("H", 50), ("S", 3))[: max(1, min(3, count // 4))]
        found = [(odd[0].make(letter=letter, shot=shot), 995) for letter, shot in shots]
        rest = count - len(found)
        patients = _spread(range(102, 984), max(1, round(rest * 158 / 253)))
        for i in range(rest):
            patient, shot = patients[i % len(patients)], 2 + 7 * (i // len(patients))
            found.append((usual.make(patient=patient, letter="S" if i % 20 == 3 else "H", shot=shot), patient))
        return found
    if center == "C4":
        negative = [(odd[0].make(frame=frame), 35) for frame in (1005, 1027, 1058)]
        found = [(odd[1].make(), 31), *negative][: max(1, min(4, count // 3 + 1))]
        rest = count - len(found)
        patients = _spread([n for n in range(4, 31) if n not in VIDEOS.values()], min(26, max(1, rest // 2)))
        for i in range(rest):
            patient = patients[i * len(patients) // rest]
            found.append((usual.make(patient=patient, frame=167 + 5 * i), patient))
        return found
    space = usual.space["number"]
    assert isinstance(space, range)
    if center == "C3":
        # In the release's own order of names, so that the share without a box file is the release's.
        numbers = [n for n in sorted(space, key=str) if n != 489]
        return [*((usual.make(number=n), n) for n in _spread(numbers, count - 1)), (odd[0].make(), 489)]
    if center == "C2":
        return [(usual.make(number=n), n - 1000) for n in [1010, *_spread([n for n in space if n != 1010], count - 1)]]
    return [(usual.make(number=n), n) for n in _spread(space, count)]


def sequence_names(number: int, count: int) -> list[str]:
    """Stems of the frames of a positive sequence, every fourth frame of its video."""
    if number in VIDEOS:
        # Two parts of one video do not share frame numbers.
        return [f"{VIDEOS[number]}_endocv2021_positive_{300 * number + 4 * i}" for i in range(count)]
    if number == 11:
        return [f"EndoCV2021_seq11_Image_{2194041 + 4 * i}" for i in range(count)]
    if number >= 16:
        return [f"seq{number - 15}_C6_{100 + 4 * i}" for i in range(count)]
    return [f"EndoCV2021_seq{number}_{4 * i}" for i in range(count)]


def negative_names(number: int, count: int) -> list[str]:
    """Stems of the frames of a negative sequence; the real ones are not published."""
    return [f"EndoCV2021_seq{number}_neg_{4 * i}" for i in range(count)]


@dataclass(frozen=True)
class Shot:
    """One frame to paint."""

    stem: str
    patient: int
    number: int
    """Which frame of the patient it is."""
    size: tuple[int, int]
    look: str
    polyp: bool
    grey: bool
    """Is its mask a picture of one channel?"""


def _evenly(count: int, chosen: int) -> list[bool]:
    """``chosen`` of ``count``, at equal distances, the first among them."""
    return [i * chosen % count < chosen for i in range(count)]


def singles(center: str, per_center: int) -> list[Shot]:
    """Single frames of a center; at least one without polyp from 12 on, and in C4 always."""
    names = single_names(center, min(per_center, FULL[center]))
    count = len(names)
    least = 1 if center == "C4" or count >= 12 else 0
    empty = _evenly(count, max(round(count * EMPTY[center] / FULL[center]), least))
    sizes = [(w, h) for w, h, n in SIZES[center] for _ in range(n)]
    seen: dict[int, int] = {}
    shots = []
    for i, (stem, patient) in enumerate(names):
        seen[patient] = seen.get(patient, 0) + 1
        size = sizes[int((0.5 + 0.618034 * i) % 1 * len(sizes))]
        grey = {"C1": i % 12 == 1, "C2": i % 3 == 1}.get(center, True)
        first = PATIENT + 1000 * CENTERS.index(center)
        shots.append(Shot(stem, first + patient, seen[patient], size, LOOKS[center], not empty[i], grey))
    return shots


def sequence(number: int, per_center: int) -> list[Shot]:
    """Frames of a positive sequence: a quarter of ``per_center``, at least 2."""
    full, without = SEQUENCES[number]
    count = min(max(2, per_center // 4), full)
    patient, size, look = PATIENT + 8000 + number, (1440, 1064), LOOKS["C2"]
    if number < 5 or 6 <= number <= 10:
        size, look = (1920, 1080), LOOKS["C4"]
        patient = PATIENT + 1000 * CENTERS.index("C4") + VIDEOS[number] if number in VIDEOS else patient
    elif number >= 16:
        size, look = (1280, 720), LOOKS["C6"]
    elif number in (5, 11, 15):
        size = {5: (1280, 1024), 11: (720, 576), 15: (1704, 1072)}[number]
        look = LOOKS[{5: "C5", 11: "C1", 15: "C2"}[number]]
    empty = _evenly(count, round(count * without / full))
    return [
        Shot(stem, patient, 100 * number + i, size, look, not empty[i], number in GREY)
        for i, stem in enumerate(sequence_names(number, count))
    ]


CENTERS = tuple(FULL)


def write_annotated(
    folder: Path, name: str, shots: Sequence[Shot], tail: str = "", overlays: str = "bbox_image", plain: bool = False
) -> dict[str, list[int]]:
    """Images, masks, box files and overlays of one center or sequence; returns the areas of each frame's polyps.

    tail: what stands between a frame's name and ``.txt``. plain: folders without the center's or sequence's name.
    """
    end = "" if plain else f"_{name}"
    # The release's script made boxes up to the odd name of C3, and none from there on.
    stopped = next((shot.stem.rstrip("_") for shot in shots if shot.stem.endswith("_")), None)
    areas = {}
    for shot in shots:
        pixels, mask = paint.frame(*shot.size, "polyps", shot.patient, shot.number, shot.look)
        if not shot.polyp:
            pixels, mask = paint.healthy(*shot.size, shot.patient, shot.number, shot.look), np.zeros_like(mask)
        # The release's limit is 100 pixels; a side here is a quarter.
        boxes = paint.boxes(mask, smallest=round(100 * paint.SCALE**2))
        areas[shot.stem] = [int((mask[y0:y1, x0:x1] > 127).sum()) for x0, y0, x1, y1 in boxes]
        stem = shot.stem.rstrip("_")
        if stem == "EndoCV2021_001010" and not shot.polyp:
            mask[5:30:5, 7] = mask[9, 40] = 255
        paint.save(pixels, folder / f"images{end}" / f"{shot.stem}.jpg")
        paint.save(mask if shot.grey else paint.rgb(mask), folder / f"masks{end}" / f"{stem}_mask.jpg")
        if stopped and stem >= stopped:
            continue
        lines = [f"polyp {x0} {y0} {x1} {y1}" for x0, y0, x1, y1 in boxes]
        paint.write(folder / f"bbox{end}" / f"{stem}{tail}.txt", "\n".join(lines) + "\n")
        for x0, y0, x1, y1 in boxes:
            cv2.rectangle(pixels, (x0, y0), (x1 - 1, y1 - 1), (0, 255, 0), 4)
        paint.save(pixels[::4, ::4], folder / f"{overlays}{end}" / f"{stem}{tail}_bbox.jpg", quality=50)
    return areas


def write_singles(root: Path, center: str, shots: Sequence[Shot]) -> dict[str, list[int]]:
    """``data_Ck``."""
    tail = "" if center in ("C2", "C3") else "_mask"
    overlays = "bbox_images" if center == "C6" else "bbox_image"
    return write_annotated(root / f"data_{center}", center, shots, tail, overlays)


def write_negatives(root: Path, numbers: Iterable[int], per_center: int) -> None:
    """``negativeOnly``: frames without masks; one sequence in ten is 720 x 576, as is one frame in ten really."""
    for number in numbers:
        size = (720, 576) if number % 10 == 0 else (1920, 1080)
        for i, stem in enumerate(negative_names(number, min(max(2, per_center // 6), NEGATIVE_FRAMES[0] // 23))):
            pixels = paint.healthy(*size, PATIENT + 9000 + number, i, LOOKS["C4"])
            paint.save(pixels, root / "sequenceData" / "negativeOnly" / f"seq{number}_neg" / f"{stem}.jpg")


def write_junk(folders: Iterable[Path]) -> None:
    for folder in folders:
        (folder / ".DS_Store").write_bytes(b"\x00\x00\x00\x01Bud1")


def _published(stem: str) -> str:
    """A single frame's name in the published splits: a made-up patient number, no blank."""
    return (f"995OLCV1_{stem}" if stem.startswith("100") else stem).replace(" ", "").rstrip("_")


def _rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(header)
        table.writerows(rows)


def write_patient_splits(folder: Path, shots: dict[str, list[Shot]]) -> None:
    """About 80 : 10 : 10 of each center by patient, over all centers and without each, in the published form."""
    for left_out in ("", *CENTERS):
        parts: dict[str, list[list[str]]] = {"train": [], "val": [], "in_test": []}
        for center in CENTERS:
            if center == left_out:
                continue
            patients = list(dict.fromkeys(shot.patient for shot in shots[center]))
            turn = int(left_out[1:] or 0) % len(patients)
            patients = patients[turn:] + patients[:turn]
            tenth = max(1, round(len(patients) / 10))
            held = {patient: "in_test" for patient in patients[-tenth:]}
            held |= {patient: "val" for patient in patients[-2 * tenth : -tenth] if len(patients) > 2}
            for shot in shots[center]:
                name = _published(shot.stem)
                image, mask = (f"data/data_{center}/{kind}_{center}/{name}" for kind in ("images", "masks"))
                parts[held.get(shot.patient, "train")].append([f"{image}.jpg", f"{mask}_mask.jpg"])
        name = f"no_centre_{left_out[1:]}" if left_out else "all_centres"
        for part, rows in parts.items():
            _rows(folder / f"{name}_{part}_split.csv", ["", "image", "mask"], [[i, *row] for i, row in enumerate(rows)])


def write_details(folder: Path, center: str, areas: dict[str, list[int]]) -> None:
    """``dataDetails_Ck.csv``: number and area of the small, medium and large polyps (sides of 100 and 200 pixels)."""
    rows = []
    for stem, polyps in areas.items():
        types, sizes = [0, 0, 0, 0], [0, 0, 0, 0]
        for area in (round(area / paint.SCALE**2) for area in polyps):
            kind = 1 if area <= 100**2 else 2 if area <= 200**2 else 3
            types[kind] += 1
            sizes[kind] += area
        name = "C3_EndoCV2021_00489]" if stem == "C3_EndoCV2021_00489_" else stem
        rows.append([f"data/data_{center}/images_{center}/{name}.jpg", types, sizes, len(polyps)])
    _rows(folder / f"dataDetails_{center}.csv", ["fileList", "sizeType", "sizeVal", "annotations"], rows)


def render(out: Path, per_center: int) -> Path:
    """``per_center`` single frames a center, at least 2 frames a sequence; ``patient_splits`` lies beside the root."""
    root = out / ROOT
    shots = {center: singles(center, per_center) for center in CENTERS}
    for center in CENTERS:
        areas = write_singles(root, center, shots[center])
        if center != "C6":
            write_details(root / "dataDetails_PolypGen_SingleFrames", center, areas)
    drawn = root / "data_C1" / "bbox_image_C1"
    shutil.copyfile(min(drawn.iterdir()), drawn / "957OLCV1_100H0002_mask_bbox.jpg")
    positive = root / "sequenceData" / "positive"
    for number in SEQUENCES:
        name = f"seq{number}"
        write_annotated(positive / name, name, sequence(number, per_center))
        if number in STRAY:
            for text in sorted((positive / name / f"bbox_{name}").iterdir()):
                shutil.copyfile(text, positive / name / f"masks_{name}" / text.name)
    write_negatives(root, range(1, NEGATIVE_FRAMES[1] + 1), per_center)
    write_patient_splits(out / "patient_splits", shots)

    together = root / "imagesAll_positive"
    together.mkdir()
    for image in sorted([*root.glob("data_C*/images_C*/*.jpg"), *positive.glob("seq*/images_seq*/*.jpg")]):
        shutil.copyfile(image, together / image.name)
    for name in ("convert2vocFromMask.py", "extract_PolypBoxes.py", "trainingDataAnalysis.py"):
        paint.write(root / "codes" / name, "# The release has a script here.\n")
    (root / "codes" / "extract_PolypBoxes.pyc").write_bytes(b"")
    for name in ("readme.md", "readme.html", "license.txt", "fileStructure_all.txt", "fileStructure_directories.txt"):
        paint.write(root / name, "Rendered miniature of PolypGen: no picture of a patient.\n")
    paint.write(root / "folderStructure", "")
    (root / "PolypGen2021_MultiCenterData_Concatenated.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    data = [root / f"data_{center}" for center in CENTERS]
    write_junk([root, *data, root / "codes", root / "sequenceData", positive, positive / "seq1", together])
    return root
