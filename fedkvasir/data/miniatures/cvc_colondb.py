"""Miniature of CVC-ColonDB as it circulates: ``CVC-ColonDB/CVC-ColonDB/{images,masks}/N.png``."""

from pathlib import Path

import numpy as np

from fedkvasir.data.datasets.cvc_colondb import LAST_FRAMES
from fedkvasir.data.miniatures import paint

SIZE = 574, 500
PATIENTS = 60000
FIRST_FRAMES = (1, *(last + 1 for last in LAST_FRAMES))
"""Of the 11 sequences, and of frames 301-380, whose sequences nobody states."""
SHARED = 5
"""Where sequence 7 stands, with which CVC-300 begins: frame 149 is in both."""


def frames(count: int) -> list[int]:
    """Frame 149 first, frame 301 last, between them frames from at least six sequences, each in turn."""
    spread = max(6, count // 2)
    starts = [FIRST_FRAMES[SHARED], *FIRST_FRAMES[:SHARED], *FIRST_FRAMES[SHARED + 1 : -1]][:spread]
    ends = {first: last for first, last in zip(FIRST_FRAMES[:-1], LAST_FRAMES, strict=True)}
    turns = [first + turn for turn in range(max(LAST_FRAMES)) for first in starts if first + turn <= ends[first]]
    return [*turns[: count - 1], FIRST_FRAMES[-1]]


def picture(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Frame 1-380 and its mask; one tissue a sequence, one camera a frame."""
    first = max(frame for frame in FIRST_FRAMES if frame <= number)
    return paint.frame(*SIZE, patient=PATIENTS + first, shot=number - first + 1, look="cadiz")


def render(out: Path, per_center: int) -> Path:
    root = out / "CVC-ColonDB" / "CVC-ColonDB"
    for number in frames(per_center):
        pixels, mask = picture(number)
        paint.save(pixels, root / "images" / f"{number}.png")
        paint.save(mask, root / "masks" / f"{number}.png")
    return root
