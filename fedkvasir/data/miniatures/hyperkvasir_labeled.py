"""Miniature of HyperKvasir labeled-images, official_splits beside it; its polyps are those of the segmented images."""

from pathlib import Path

import numpy as np

from fedkvasir.data.datasets.hyperkvasir_labeled import CLASSES, COUNTS, CSV_NAMES, FOLDS
from fedkvasir.data.miniatures import paint
from fedkvasir.data.miniatures.hyperkvasir_segmented import uuid_name
from fedkvasir.data.miniatures.kvasir_seg import polyp

TREE = {
    "lower-gi-tract": {
        "anatomical-landmarks": ("cecum", "ileum", "retroflex-rectum"),
        "pathological-findings": (
            "hemorrhoids",
            "polyps",
            *(f"ulcerative-colitis-grade-{grade}" for grade in ("0-1", "1", "1-2", "2", "2-3", "3")),
        ),
        "quality-of-mucosal-views": ("bbps-0-1", "bbps-2-3", "impacted-stool"),
        "therapeutic-interventions": ("dyed-lifted-polyps", "dyed-resection-margins"),
    },
    "upper-gi-tract": {
        "anatomical-landmarks": ("pylorus", "retroflex-stomach", "z-line"),
        "pathological-findings": ("barretts", "barretts-short-segment", "esophagitis-a", "esophagitis-b-d"),
    },
}
ORGANS = {"lower-gi-tract": "Lower GI", "upper-gi-tract": "Upper GI"}
# 633 x 532 is the most common size; the mean is 817 x 685, the largest 1920 x 1072.
SIZES = ((633, 532), (622, 530), (720, 576), (633, 532), (1348, 1070), (633, 532), (720, 576), (1920, 1072))
PATIENTS = 1000
PAINTED = {
    "barretts": "normal-z-line",
    "barretts-short-segment": "normal-z-line",
    "cecum": "normal-cecum",
    "dyed-lifted-polyps": "dyed-lifted-polyps",
    "dyed-resection-margins": "dyed-resection-margins",
    "esophagitis-a": "esophagitis",
    "esophagitis-b-d": "esophagitis",
    "pylorus": "normal-pylorus",
    "retroflex-stomach": "normal-pylorus",
    "z-line": "normal-z-line",
}
"""What a class is painted as: the nearest that there is. The rest is a colon without a finding, or with colitis."""


def picture(label: str, number: int) -> tuple[str, np.ndarray]:
    """Name and pixels of one image; no two classes share a patient."""
    if label == "polyps":
        return uuid_name(number), polyp(number)[0]
    patient = PATIENTS + len(CLASSES) * number + CLASSES.index(label)
    tissue = "ulcerative-colitis" if label.startswith("ulcerative") else PAINTED.get(label, "normal-colon")
    return uuid_name(patient), paint.frame(*SIZES[patient % len(SIZES)], tissue, patient)[0]


def fold(index: int, count: int, folds: int) -> int:
    """The fold of image ``index`` of a class of ``count``: floor(count/folds) each, the rest to the last."""
    size = count // folds
    return min(index // size, folds - 1) if size else folds - 1


def render(out: Path, per_center: int) -> Path:
    root = out / "labeled-images"
    labels = ["Video file,Organ,Finding,Classification"]
    splits = {name: ["file-name;class-name;split-index"] for name in FOLDS}
    for tract, categories in TREE.items():
        for category, classes in categories.items():
            for label in classes:
                count = min(per_center, COUNTS[label])
                for number in range(count):
                    name, pixels = picture(label, number)
                    paint.save(pixels, root / tract / category / label / f"{name}.jpg")
                    labels.append(f"{name},{ORGANS[tract]},{label},{category}")
                    for listing, folds in FOLDS.items():
                        row = f"{name}.jpg;{CSV_NAMES.get(label, label)};{fold(number, count, folds)}"
                        splits[listing].append(row)
    paint.write(root / "image-labels.csv", "\n".join(labels) + "\n")
    for listing, rows in splits.items():
        paint.write(out / "official_splits" / listing, "\n".join(rows) + "\n")
    for folder in (root, root / "lower-gi-tract", root / "upper-gi-tract/anatomical-landmarks/z-line"):
        paint.write(folder / ".DS_Store", "Bud1")
    return root
