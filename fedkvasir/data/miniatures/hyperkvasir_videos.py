"""Miniature of HyperKvasir labeled-videos: three seconds each, in the tree of 30 classes, with video-labels.csv."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from fedkvasir.data.miniatures import paint
from fedkvasir.data.miniatures.hyperkvasir_labeled import ORGANS
from fedkvasir.data.miniatures.hyperkvasir_segmented import uuid_name

TREE = {
    "lower-gi-tract": {
        "anatomical-landmarks": ("cecum",),
        "pathological-findings": (
            "anastomosis",
            "cavity-of-anastomotic-leak",
            "colitis",
            "colorectal-cancer",
            "hemorrhoids",
            "parasites",
            "polyps",
            "stenosis",
        ),
        "quality-of-mucosal-view": ("BBPS-0-1", "BBPS-2-3"),
        "therapeutic-interventions": (
            "clip-placement",
            "dyed-lifted-polyps",
            "dyed-resection-margins",
            "self-expanding-stent",
            "snare-resection",
        ),
    },
    "upper-gi-tract": {
        "anatomical-landmarks": ("pylorus", "retroflex-stomach", "z-line"),
        "pathological-findings": (
            "barretts",
            "cancer",
            "esophagitis",
            "gastric-antral-vascular-ectasia",
            "gastric-banding-perforated",
            "polyps",
            "ulcer",
            "varices",
        ),
        "quality-of-mucosal-view": ("optimal-view", "reduced-view"),
        "therapeutic-interventions": ("ERCP",),
    },
}
CLASSIFICATIONS = {
    "anatomical-landmarks": "Anatomical landmarks",
    "pathological-findings": "Pathological findings",
    "quality-of-mucosal-view": "Quality of mucosal views",
    "therapeutic-interventions": "Therapeutic interventions",
}
FINDINGS = {
    "BBPS-0-1": "BBPS 0-1",
    "BBPS-2-3": "BBPS 2-3",
    "barretts": "barrett's oesophagus",
    "colorectal-cancer": "cancer, colorectal ",
    "gastric-antral-vascular-ectasia": "GAVE",
    "self-expanding-stent": "self-expanding stent",
    "z-line": "Z-line",
}
"""How the list writes a folder's finding where it does more than leave the hyphens out."""
PAINTED = {
    "barretts": "normal-z-line",
    "cecum": "normal-cecum",
    "colitis": "ulcerative-colitis",
    "dyed-lifted-polyps": "dyed-lifted-polyps",
    "dyed-resection-margins": "dyed-resection-margins",
    "esophagitis": "esophagitis",
    "polyps": "polyps",
    "pylorus": "normal-pylorus",
    "snare-resection": "polyps",
    "z-line": "normal-z-line",
}
"""What a class is painted as; the rest is a colon without a finding."""
SECONDS = 3
RATES = (10.0, 25.0, 10.0, 5.0)
"""Frames per second. The real ones have about 25 throughout."""
SIZES = ((720, 576), (720, 576), (720, 576), (720, 576), (1280, 1024))
PATIENTS = 5000


def frames(size: tuple[int, int], tissue: str, patient: int, rate: float) -> Iterator[np.ndarray]:
    """One view, over which the camera turns by 4 degrees and moves by 4 pixels a second; RGB."""
    view = paint.frame(*size, tissue, patient)[0]
    height, width = view.shape[:2]
    for number in range(int(SECONDS * rate)):
        way = 4 * number / rate
        moved = cv2.getRotationMatrix2D((width / 2, height / 2), way, 1.0) + np.array([[0, 0, way], [0, 0, way]])
        yield cv2.warpAffine(view, moved, (width, height))


def render(out: Path, per_center: int) -> Path:
    """``per_center`` frames a class at one frame a second, from at least two videos."""
    root = out / "labeled-videos"
    listing = io.StringIO()
    table = csv.writer(listing, lineterminator="\n")
    detail = "Detailed description of finding"
    table.writerow(["Video file", "Organ", "Finding 1", "Classification 1", detail, "Finding 2", "Classification 2"])
    classes = [
        (tract, category, label) for tract, tree in TREE.items() for category in tree for label in tree[category]
    ]
    for turn in range(max(2, -(-per_center // SECONDS))):
        for index, (tract, category, label) in enumerate(classes):
            number = turn * len(classes) + index
            name, rate, size = uuid_name(PATIENTS + number), RATES[number % len(RATES)], SIZES[number % len(SIZES)]
            path = root / tract / category / label / f"{name}.avi"
            path.parent.mkdir(parents=True, exist_ok=True)
            shape = tuple(round(paint.SCALE * side) for side in size)
            video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), rate, shape)
            for pixels in frames(size, PAINTED.get(label, "normal-colon"), PATIENTS + number, rate):
                video.write(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))
            video.release()
            finding = FINDINGS.get(label, label.replace("-", " "))
            second = ("normal mucosa", "") if number % 7 == 3 else ("", "")
            table.writerow([name, ORGANS[tract], finding, CLASSIFICATIONS[category], "", *second])
    paint.write(root / "video-labels.csv", listing.getvalue())
    paint.write(root / ".DS_Store", "Bud1")
    return root
