"""Miniature of Kvasir-SEG, as it lies after unzipping kvasir-seg.zip and adding the two lists."""

import re
from pathlib import Path

import numpy as np

from fedkvasir.data.datasets.kvasir_seg import EDGES
from fedkvasir.data.miniatures.paint import SCALE, boxes, frame, rgb, save, write

ID = re.compile(r"c(?:ju[0-8]|jyz|jz1|k2[3bd])[0-9a-z]{9}0[789a]\d\d[0-9a-z]{8}")
"""All 1,000 real ids (cuids): a letter, a time, a counter, a machine and a random part, in base 36."""
LETTERS = "0123456789abcdefghijklmnopqrstuvwxyz"
SIZES = ((622, 530), (626, 547), (622, 529), (1348, 1070), (626, 546), (622, 528), (570, 530), (720, 576))
"""Width and height of the most common of the 333 real sizes."""


def name(number: int) -> str:
    """The id of picture ``number``; of any 1,000 in a row 977 start with cju, 13 with cjy, 9 with ck2, 1 with cjz."""
    rng = np.random.default_rng([73, number])
    place = number * 389 % 1000
    if place < 977:
        start, machines = f"cju{rng.integers(9)}", ("0801", "0871", "0755", "0987", "0818", "0850", "0817", "0835")
    else:
        start = "cjyz" if place < 990 else f"ck2{'3bd'[rng.integers(3)]}" if place < 999 else "cjz1"
        machines = ("0794", "0838", "0721", "0725", "0748", "0a46", "0848", "0701")
    letters = "".join(LETTERS[place] for place in rng.integers(36, size=17))
    return start + letters[:9] + machines[rng.integers(8)] + letters[9:]


def polyp(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Picture ``number`` and its mask, which Kvasir-Sessile, Kvasir v1 and v2 show too."""
    return frame(*SIZES[number % len(SIZES)], patient=number)


def bordered(pixels: np.ndarray) -> np.ndarray:
    """A picture or mask with the black margin that Kvasir has and Kvasir-SEG has cut off."""
    height, width = pixels.shape[:2]
    outer = np.zeros((height + round(20 * SCALE), width + round(98 * SCALE), *pixels.shape[2:]), np.uint8)
    outer[round(10 * SCALE) :][:height, -width:] = pixels
    return outer


def write_images(root: Path, per_center: int) -> dict[str, np.ndarray]:
    """images/ and masks/ of the first pictures; returns the masks by id."""
    masks = {}
    for number in range(per_center):
        stem = name(number)
        picture, masks[stem] = polyp(number)
        save(picture, root / "images" / f"{stem}.jpg")
        save(rgb(masks[stem]), root / "masks" / f"{stem}.jpg")
    return masks


def write_lists(root: Path, names: list[str], val: int) -> None:
    """train.txt and val.txt, which has the first ``val`` names."""
    write(root / "train.txt", "".join(f"{stem}\n" for stem in names[val:]))
    write(root / "val.txt", "".join(f"{stem}\n" for stem in names[:val]))


def render(out: Path, per_center: int) -> Path:
    """``Kvasir-SEG``, 12 % (at least one) in val.txt; twice ``per_center`` images: scenarios cut it into parts.

    The last picture, of train.txt, is the first, of val.txt, with its margin: thirteen of the real ones are such twins.
    """
    root = out / "Kvasir-SEG"
    masks = write_images(root, 2 * per_center)
    twin = list(masks)[-1]
    picture, masks[twin] = (bordered(pixels) for pixels in polyp(0))
    save(picture, root / "images" / f"{twin}.jpg")
    save(rgb(masks[twin]), root / "masks" / f"{twin}.jpg")
    write_lists(root, list(masks), max(1, round(0.12 * len(masks))))
    listing = {}
    for stem, mask in masks.items():
        found = [dict(zip(EDGES, box, strict=True)) for box in boxes(mask, margin=1)]
        rows = [{"label": "polyp"} | box for box in found]
        listing[stem] = {"height": mask.shape[0], "width": mask.shape[1], "bbox": rows}
    write(root / "kavsir_bboxes.json", listing)
    write(root / ".DS_Store", "")
    write(root / "images" / "._.DS_Store", "")
    return root
