"""Rendered endoscopy as a dataset: five hospitals that look different. No download."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from pydantic import Field

from fedkvasir.data import synthetic
from fedkvasir.data.catalog import RENDERED, Card, Catalog, Dataset, list_images, make_catalog, pair
from fedkvasir.data.store import cache_folder
from fedkvasir.errors import UserError
from fedkvasir.files import atomic_folder, lock, write_atomic

CARD = Card(
    title="Rendered endoscopy",
    source="fedkvasir.data.synthetic",
    citation="none: rendered, for trying things out; no figure on it says anything about patients",
    license="Apache-2.0",
    obtain="It is rendered on this machine at first use.",
    centers=", ".join(synthetic.LOOKS),
    groups="patient (two frames each)",
)

MOST = 1000
"""Patients a center that are rendered: ten frames each over all centers, several of them a second."""


def prepare(
    progress: Callable[[int, int], None] | None = None,
    *,
    task: str = "segmentation",
    patients_per_center: Annotated[int, Field(ge=1, le=MOST)] = 36,
    seed: int = 0,
    image_scale: float = 1.0,
) -> Path:
    """Render the tree once into the cache and return its root."""
    options = {"task": task, "patients": patients_per_center, "seed": seed, "scale": image_scale}
    source = b"".join(path.read_bytes() for path in sorted(Path(synthetic.__file__).parent.glob("*.py")))
    key = hashlib.sha256(json.dumps(options).encode() + source).hexdigest()[:16]
    root = cache_folder() / "synthetic" / f"{task}-{key}"
    with lock(root.with_suffix(".lock")):
        if not root.is_dir():
            try:
                with atomic_folder(root) as out:
                    synthetic.render_tree(out, task, patients_per_center, seed, image_scale, progress=progress)
                    write_atomic(out / RENDERED, "Painted by fedkvasir.\n")
            except ValueError as error:
                raise UserError(f"synthetic: {error}") from error
    return root


def _recognise(root: Path) -> bool:
    # The names are those of real cities, which a user's own folders may have.
    return (root / RENDERED).is_file() and any((root / center).is_dir() for center in synthetic.LOOKS)


def read(root: Path) -> Catalog:
    """List a rendered tree: ``<center>/{images,masks}`` or ``<center>/<class>``; a patient is a group."""
    root = Path(root)
    rows, warnings = [], []
    for center in sorted(path for path in root.iterdir() if path.is_dir()):
        found: list[tuple[str, str, Path, str | None, str | None]]
        if (center / "images").is_dir():
            pairs, more = pair(list_images(center / "images"), list_images(center / "masks"), center)
            warnings += more
            found = [("images", stem, image, f"{center.name}/masks/{mask.name}", None) for stem, image, mask in pairs]
        else:
            found = [
                (folder.name, stem, image, None, folder.name)
                for folder in sorted(center.iterdir())
                for stem, image in list_images(folder).items()
            ]
        for folder_name, stem, image, mask, label in found:
            rows.append(
                {
                    "sample": f"synthetic/{center.name}/{stem}",
                    "center": center.name,
                    "group": f"synthetic/{center.name}/{stem.split('-')[0]}",
                    "image": f"{center.name}/{folder_name}/{image.name}",
                    "mask": mask,
                    "label": label,
                }
            )
    classes = sorted({row["label"] for row in rows if row["label"]})
    return make_catalog("synthetic", root, rows, warnings, classes)


DATASET = Dataset("synthetic", CARD, ("segmentation", "classification"), _recognise, read, prepare)
