"""PCam: unpacked HDF5 files and meta CSVs; patches keep their real 96 x 96 pixels."""

from pathlib import Path

import cv2
import numpy as np

from fedkvasir.data.datasets.pcam import PARTS, PREFIX, UMCU_TEST_SLIDES
from fedkvasir.data.miniatures.paint import write

SIDE = 96
SLIDES = 4
"""Slides of a center in each part, half of them with tumor."""
HEMATOXYLIN = np.array((0.65, 0.70, 0.29))
EOSIN = np.array((0.07, 0.99, 0.11))
"""How much red, green and blue light the two stains take (Ruifrok and Johnston, 2001)."""
FIRST_SLIDES = {"rumc": {"tumor": 1, "normal": 1}, "umcu": {"tumor": 71, "normal": 101}}
STAINS = {"rumc": (1.25, 0.45), "umcu": (0.85, 0.75)}
"""Strength of hematoxylin and eosin in a laboratory."""


def patch(tumor: bool, slide: int, number: int, stain: tuple[float, float]) -> np.ndarray:
    """Stained tissue, (96, 96, 3) uint8: pink fibres and purple nuclei, which tumor has larger and more crowded.

    Two patches of a slide share how strongly it took the stain; no two are the same.
    """
    strength = np.random.default_rng(slide).uniform(0.85, 1.15, 2) * stain
    random = np.random.default_rng((slide, number))
    fibres = cv2.GaussianBlur(random.normal(0, 1, (SIDE, SIDE)).astype(np.float32), (0, 0), 3)
    eosin = 0.45 + 0.8 * fibres
    nuclei = np.full((SIDE, SIDE), 0.08, np.float32)
    for _ in range(random.integers(75, 95) if tumor else random.integers(35, 55)):
        x, y = random.integers(0, SIDE, 2).tolist()
        radius = random.uniform(3.5, 6.5) if tumor else random.uniform(2, 3)
        axes = round(radius * random.uniform(0.8, 1.3)), round(radius)
        density = random.uniform(0.4, 0.7) if tumor else random.uniform(0.6, 0.9)
        cv2.ellipse(nuclei, (x, y), axes, random.uniform(0, 180), 0, 360, density, -1)
    blurred = cv2.GaussianBlur(nuclei, (0, 0), 0.8)
    taken = strength[0] * blurred[..., None] * HEMATOXYLIN + strength[1] * eosin.clip(0.05)[..., None] * EOSIN
    light = 250 * np.exp(-taken) + random.normal(0, 2, (SIDE, SIDE, 3))
    return np.rint(light.clip(0, 255)).astype(np.uint8)


def slide_names(center: str, part: str) -> list[tuple[str, bool]]:
    """Camelyon16 slides of a center, with whether they hold tumor; no slide is in two parts."""
    if part == "test":
        of_center = [number for number in range(1, 131) if (number in UMCU_TEST_SLIDES) == (center == "umcu")]
        return [(f"camelyon16_test_{number:03d}", index % 2 == 0) for index, number in enumerate(of_center[:SLIDES])]
    before = 0 if part == "train" else 20
    return [
        (f"camelyon16_train_{kind}_{first + before + index:03d}", kind == "tumor")
        for index in range(SLIDES // 2)
        for kind, first in FIRST_SLIDES[center].items()
    ]


def render(out: Path, per_center: int) -> Path:
    """``per_center`` patches of each of the two centers in train, valid and test, half of them tumor."""
    import h5py

    root = out / "pcam"
    root.mkdir(parents=True)
    for order, part in enumerate(PARTS):
        pixels, labels, listing = [], [], [",coord_y,coord_x,tumor_patch,center_tumor_patch,wsi"]
        for number in range(per_center):
            for place, center in enumerate(STAINS):
                slide = number % SLIDES
                name, tumor = slide_names(center, part)[slide]
                pixels.append(patch(tumor, 100 * order + 10 * place + slide, number, STAINS[center]))
                labels.append(tumor)
                coordinates = f"{20_000 + 96 * number},{50_000 + 960 * slide}"
                listing.append(f"{len(listing) - 1},{coordinates},{tumor},{tumor},{name}")
        for key, values in (("x", np.stack(pixels)), ("y", np.array(labels, np.uint8).reshape(-1, 1, 1, 1))):
            with h5py.File(root / f"{PREFIX}{part}_{key}.h5", "w") as file:
                file.create_dataset(key, data=values)
        write(root / f"{PREFIX}{part}_meta.csv", "\n".join(listing) + "\n")
    (root / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    return root
