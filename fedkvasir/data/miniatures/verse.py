"""VerSe: training, validation and test of '19 side by side, with CT, masks, centroids and facts of every scan."""

from pathlib import Path
from typing import Any

import numpy as np

from fedkvasir.data.miniatures import paint

MAKERS = (("SIEMENS", 12.0, -40), ("Philips", 30.0, 40), ("GE MEDICAL SYSTEMS", 55.0, 120))
"""Maker as the ct.json names it, noise and shift in Hounsfield units: what tells the scanners apart."""
PARTS = ("training", "training", "validation", "test")
"""Where the subjects of a maker go, in turn."""
SHAPE = (40, 48, 56)
"""Voxels to the right, front and head."""
SPACING_MM = (2.0, 2.0, 3.0)
TISSUES_HU = (-700, -300, -110, -90, 60, 120, 220)
VERTEBRAE = range(20, 25)
"""L1 to L5, from the head down."""
Centres = dict[int, tuple[float, float, float]]


def scan_names(subject: int, split: bool) -> list[str]:
    """A subject's scans: one, named plainly or by its direction, or the two parts of a series."""
    if split:
        return [f"sub-verse{subject:03d}_split-verse{200 + 2 * (subject - 400) + part}" for part in (0, 1)]
    direction = ("", "_dir-ax", "_dir-iso", "_dir-sag")[subject % 4]
    return [f"sub-verse{subject:03d}{direction}"]


def spine(seed: int, noise_hu: float, shift_hu: int) -> tuple[np.ndarray, np.ndarray, Centres]:
    """CT in Hounsfield units (int16), labels (float64, as published) and each vertebra's centre; axes R, A, S."""
    random = np.random.default_rng(seed)
    right, front, head = np.indices(SHAPE, np.float32)
    hounsfield = np.full(SHAPE, 40, np.float32)
    for _ in range(60):  # organs, vessels, fat and gas, no two patients alike
        middle, radius = random.uniform(0, SHAPE), random.uniform(3, 10, 3)
        within = sum(((axis - c) / r) ** 2 for axis, c, r in zip((right, front, head), middle, radius, strict=True)) < 1
        hounsfield[within] = random.choice(TISSUES_HU)
    wide, deep = random.uniform(17, 21), random.uniform(19, 25)
    lean = random.uniform(-0.15, 0.15) * (head - SHAPE[2] / 2)
    outside = ((right - random.uniform(18, 21)) / wide) ** 2 + ((front - random.uniform(21, 26) - lean) / deep) ** 2 > 1
    hounsfield[outside] = -1000  # air
    labels: np.ndarray = np.zeros(SHAPE)
    bend, tilt, top = random.uniform(-4, 4), random.uniform(2, 6), random.uniform(48, 51)
    centres: Centres = {}
    for order, label in enumerate(VERTEBRAE):
        z = top - 11 * order + random.uniform(-0.5, 0.5)
        x, y = 19.5 + bend * np.sin(z / 18), 20 + tilt * np.sin(z / 15)
        body = ((right - x) / 8) ** 2 + ((front - y) / 6.5) ** 2 + ((head - z) / 4.3) ** 2 < 1
        process = (abs(right - x) < 1.5) & (y - 14 < front) & (front < y - 5) & (abs(head - z + 1) < 2.2)
        labels[body | process] = label
        centres[label] = (float(x), float(y), float(z))
    hounsfield[labels > 0] = 350 + shift_hu
    hounsfield += random.normal(0, noise_hu, SHAPE)
    return np.rint(hounsfield).astype(np.int16), labels, centres


def render(out: Path, per_center: int) -> Path:
    """Four or more subjects of each of three makers, so that a default listing has ``per_center`` slices of each."""
    subjects = max(len(PARTS), -(-per_center // 5))
    numbers = iter(range(4, 400, 3))
    for place, (maker, noise_hu, shift_hu) in enumerate(MAKERS):
        for index in range(subjects):
            part = PARTS[index % len(PARTS)]
            root = out / f"dataset-verse19{part}"
            if part == "training":
                root = root / root.name  # the zip wraps what is wrapped already
            split = place == index == 0
            subject = 401 if split else next(numbers)
            for order, name in enumerate(scan_names(subject, split)):
                ct, labels, centres = spine(1000 * subject + order, noise_hu, shift_hu)
                _write(root, subject, name, ct, labels, centres, "PIR" if index % 2 == 0 else "LPS")
                facts = {"dataset": "verse19", "KVP": 120, "Manufacturer": maker, "ManufacturerModelName": "rendered"}
                paint.write(root / f"rawdata/sub-verse{subject:03d}/{name}_ct.json", facts)
            (root / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    return out


def _write(
    root: Path,
    subject: int,
    name: str,
    ct: np.ndarray,
    labels: np.ndarray,
    centres: Centres,
    direction: str,
) -> None:
    """CT, mask, centroids and snapshot of a scan, stored with its axes in ``direction``."""
    import nibabel

    affine = np.diag([*SPACING_MM, 1.0])
    turn = nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(direction)
    )
    raw = root / f"rawdata/sub-verse{subject:03d}"
    derived = root / f"derivatives/sub-verse{subject:03d}"
    raw.mkdir(parents=True, exist_ok=True)
    derived.mkdir(parents=True, exist_ok=True)
    for voxels, path in (
        (ct, raw / f"{name}_ct.nii.gz"),
        (labels, derived / f"{name}_seg-vert_msk.nii.gz"),
    ):
        nibabel.save(nibabel.Nifti1Image(voxels, affine).as_reoriented(turn), path)
    back = np.linalg.inv(nibabel.orientations.inv_ornt_aff(turn, SHAPE))
    points: list[dict[str, Any]] = [{"direction": list(direction)}]
    for label, centre in centres.items():
        x, y, z = (round(float(value), 1) for value in (back @ (*centre, 1))[:3])
        points.append({"label": label, "X": x, "Y": y, "Z": z})
    paint.write(derived / f"{name}_seg-subreg_ctd.json", points)
    snapshot = np.rint((ct[SHAPE[0] // 2].T[::-1, ::-1] + 500.0).clip(0, 1800) / 1800 * 255).astype(np.uint8)
    paint.save(paint.rgb(snapshot), derived / f"{name}_seg-vert_snp.png")
