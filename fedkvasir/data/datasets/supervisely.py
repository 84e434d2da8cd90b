"""A project exported from Supervisely, the format in which Dataset Ninja publishes HyperKvasir too."""

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedkvasir.data.catalog import IMAGE_SUFFIXES, Card, Catalog, Dataset, make_catalog, missing, strays
from fedkvasir.data.formats.supervisely import SHAPES, read_annotation
from fedkvasir.errors import UserError

CARD = Card(
    title="A project in the Supervisely format",
    source="yours, or https://datasetninja.com/hyper-kvasir",
    citation="that of the project; HyperKvasir: Borgli et al., Sci Data 2020",
    license="that of the project",
    obtain="Export the project in the Supervisely format with its images and unpack it so that the data folder holds "
    "meta.json and <dataset>/img and <dataset>/ann.",
    centers="the image tag center or hospital, else the name of the dataset's folder",
    groups="the image tag patient, group or sequence, else none",
    quirks=(
        "a folder without any object of the classes is taken as not annotated: its images have no mask; in other "
        "folders such an image has an empty mask",
        "HyperKvasir: the folders are labeled-images (10,662), segmented-images (1,000) and unlabeled-images (99,417), "
        "not hospitals; the segmented images stand among the labeled polyps again, under the same names",
        "HyperKvasir: three image tags name tract, category and class; the class is the label",
    ),
)
CENTER_TAGS = ("center", "hospital")
GROUP_TAGS = ("patient", "group", "sequence")


def _recognise(root: Path) -> bool:
    return (root / "meta.json").is_file() and any((path / "img").is_dir() for path in root.iterdir())


def _folders(root: Path) -> Iterator[Path]:
    """The datasets of a project; one that is nested in another lies in its folder ``datasets``."""
    for path in sorted(root.iterdir()) if root.is_dir() else ():
        if (path / "img").is_dir() and not path.name.startswith("."):
            yield path
            yield from _folders(path / "datasets")


def _meta(path: Path) -> tuple[dict[str, str], set[str]]:
    """Class title -> shape, and the names of the tags without a value."""
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        shapes = {str(row["title"]): str(row["shape"]) for row in meta["classes"]}
        plain = {str(row["name"]) for row in meta.get("tags", ()) if row.get("value_type", "none") == "none"}
    except OSError as error:
        raise UserError(f"supervisely: {path} cannot be read. {CARD.obtain}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"supervisely: {path} is not the meta.json of a project: export the project again") from error
    return shapes, plain


def _short(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _box(thing: dict[str, Any]) -> list[int]:
    (x1, y1), (x2, y2) = thing["points"]["exterior"]
    return [min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)]


def _pick(tags: dict[str, Any], names: tuple[str, ...]) -> str | None:
    return next((str(tags[name]) for name in names if tags.get(name) not in (None, "")), None)


def _most_specific(tagged: list[frozenset[str]]) -> list[str | None]:
    """The one tag of each image, or the one whose images all carry its other tags too; null where there is none.

    HyperKvasir's polyps are all pathological-findings and lower-gi-tract, and not the other way round.
    """
    carriers: dict[str, set[int]] = defaultdict(set)
    for number, tags in enumerate(tagged):
        for tag in tags:
            carriers[tag].add(number)
    known: dict[frozenset[str], str | None] = {}
    for tags in set(tagged):
        inner = [tag for tag in tags if all(carriers[tag] < carriers[other] for other in tags - {tag})]
        known[tags] = inner[0] if inner else None
    return [known[tags] for tags in tagged]


def _listed(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Image name -> annotation, for the images of a dataset that have one; and what is odd."""
    if not (folder / "ann").is_dir():
        raise UserError(f"supervisely: {folder} has img but no ann: export the project with its annotations")
    images = {path.name for path in (folder / "img").iterdir() if path.suffix.lower() in IMAGE_SUFFIXES}
    annotations = {path.stem: path for path in (folder / "ann").iterdir() if path.suffix.lower() == ".json"}
    warnings = strays(folder / "img")
    for kind, lonely in (
        ("images without an annotation", images - annotations.keys()),
        ("annotations without an image", annotations.keys() - images),
    ):
        if lonely := {name for name in lonely if not name.startswith(".")}:
            warnings.append(f"{len(lonely)} {kind} left out under {folder}, e.g. {min(lonely)}")
    both = sorted(name for name in images & annotations.keys() if not name.startswith("."))
    return {name: annotations[name] for name in both}, warnings


def read(root: Path, *, classes: list[str] | None = None) -> Catalog:
    """List images and read their annotations, but decode no bitmap.

    classes: titles of the object classes that make up the mask; all of shape bitmap or polygon if not said.
    Rectangles of any class become boxes, and image tags without a value the label.
    """
    root = Path(root)
    shapes, plain = _meta(root / "meta.json")
    if unknown := sorted(set(classes or ()) - shapes.keys()):
        known = ", ".join(shapes) or "none"
        raise UserError(f"supervisely: {root / 'meta.json'} has no class {unknown[0]!r}; its classes: {known}")
    titles = {title for title, shape in shapes.items() if (title in classes if classes else shape in SHAPES)}
    rows: list[dict[str, Any]] = []
    tagged: list[frozenset[str]] = []
    warnings: list[str] = []
    undrawn = 0
    for folder in _folders(root):
        name = folder.relative_to(root).as_posix()
        listed, notes = _listed(folder)
        warnings += notes
        here: list[dict[str, Any]] = []
        kinds: list[str] = []
        for image, path in listed.items():
            try:
                annotation = read_annotation(path)
                things = annotation["objects"]
                kinds += [thing["geometryType"] for thing in things if thing["classTitle"] in titles]
                boxes = [_box(thing) for thing in things if thing["geometryType"] == "rectangle"]
                tags = {str(tag["name"]): tag.get("value") for tag in annotation.get("tags", ())}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                reason = error if isinstance(error, ValueError) else "is no annotation in the Supervisely format"
                raise UserError(f"supervisely: {path} {reason}: export the project again") from error
            values = {tag.lower(): value for tag, value in tags.items()}
            group = _pick(values, GROUP_TAGS)
            tagged.append(frozenset(tag for tag, value in tags.items() if tag in plain and value is None))
            here.append(
                {
                    "sample": f"supervisely/{name}/{image}",
                    "center": _short(_pick(values, CENTER_TAGS) or folder.name),
                    "group": f"supervisely/{group}" if group else None,
                    "image": f"{name}/img/{image}",
                    "mask": f"{name}/ann/{path.name}",
                    "mask_item": json.dumps(sorted(titles)),
                    "boxes": boxes,
                }
            )
        undrawn += sum(kind not in SHAPES for kind in kinds)
        unmasked = not set(kinds) & set(SHAPES)
        unboxed = not any(row["boxes"] for row in here)
        if here and titles and unmasked:
            warnings.append(f"{len(here)} images of {name} without a mask: the folder has no object of the classes")
        without = ("mask", "mask_item") * unmasked + ("boxes",) * unboxed
        rows += [row | dict.fromkeys(without) for row in here]
    if not rows:
        raise missing("supervisely", CARD, root, "<dataset>/img/*.jpg with <dataset>/ann/*.jpg.json")
    labels = _most_specific(tagged)
    rows = [row | {"label": label} for row, label in zip(rows, labels, strict=True)]
    if undrawn:
        warnings.append(f"{undrawn} objects of the classes are neither bitmap nor polygon and not in the masks")
    if unclear := [row["sample"] for row, tags in zip(rows, tagged, strict=True) if tags and not row["label"]]:
        warnings.append(
            f"{len(unclear)} images with several tags, none more specific, have no label, e.g. {unclear[0]}"
        )
    return make_catalog("supervisely", root, rows, warnings, sorted({label for label in labels if label}))


DATASET = Dataset("supervisely", CARD, ("segmentation", "classification"), _recognise, read)
