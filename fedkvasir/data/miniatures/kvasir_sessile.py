"""Miniature of Kvasir-Sessile: the first pictures of the miniature of Kvasir-SEG, as the real one is a subset."""

from pathlib import Path

from fedkvasir.data.miniatures.kvasir_seg import write_images, write_lists
from fedkvasir.data.miniatures.paint import write


def render(out: Path, per_center: int) -> Path:
    """``sessile-main-Kvasir-SEG`` with ``per_center`` images, a fifth of them (at least one) in val.txt."""
    root = out / "sessile-main-Kvasir-SEG"
    masks = write_images(root, per_center)
    write_lists(root, list(masks), max(1, per_center // 5))
    write(root / "masks" / "Thumbs.db", "")
    return root
