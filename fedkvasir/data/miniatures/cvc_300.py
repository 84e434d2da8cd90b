"""Miniature of CVC-300: frames 149 to 208 of the source of CVC-ColonDB, some of which are in that miniature too."""

from pathlib import Path

from fedkvasir.data.miniatures import paint
from fedkvasir.data.miniatures.cvc_colondb import picture

SEQUENCES = (149, 155), (156, 203), (204, 208)


def frames(count: int) -> list[int]:
    """Frame numbers, from each of the three sequences in turn."""
    turns = [first + turn for turn in range(60) for first, last in SEQUENCES if first + turn <= last]
    return turns[:count]


def render(out: Path, per_center: int) -> Path:
    root = out / "CVC-300" / "CVC-300"
    for number in frames(per_center):
        pixels, mask = picture(number)
        paint.save(pixels, root / "images" / f"{number}.png")
        paint.save(mask, root / "masks" / f"{number}.png")
    paint.write(root / "images" / "._149.png", "")
    return root
