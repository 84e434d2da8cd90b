"""PraNet's TrainDataset and TestDataset: the benchmark most polyp segmentation papers report on."""

from collections import Counter
from pathlib import Path
from typing import Any

from fedkvasir.data.catalog import Card, Catalog, Dataset, differences, list_images, make_catalog, missing, pair, strays
from fedkvasir.data.datasets import cvc_clinicdb, cvc_colondb, kvasir_seg

CENTERS = {
    "Kvasir": "kvasir",
    "CVC-ClinicDB": "cvc-clinicdb",
    "CVC-300": "cvc-300",
    "CVC-ColonDB": "cvc-colondb",
    "ETIS-LaribPolypDB": "etis-larib",
}
"""Folder in TestDataset -> center: each is tested by itself."""

CARD = Card(
    title="PraNet benchmark (TrainDataset and TestDataset)",
    source="https://github.com/DengPingFan/PraNet",
    citation="Fan et al., PraNet: Parallel Reverse Attention Network for Polyp Segmentation, MICCAI 2020",
    license="those of Kvasir-SEG, CVC-ClinicDB, CVC-300, CVC-ColonDB and ETIS-Larib",
    obtain="Download TrainDataset.zip and TestDataset.zip by the links in https://github.com/DengPingFan/PraNet and "
    "unzip both into one folder.",
    centers="its five sources: kvasir (Baerum), cvc-clinicdb, cvc-300, cvc-colondb (Barcelona), etis-larib (Paris)",
    groups="video sequence for cvc-clinicdb, cvc-300 and frames 1-300 of cvc-colondb; none for kvasir and etis-larib",
    count=2248,
    counts={
        "images": 2248,
        "kvasir train": 900,
        "cvc-clinicdb train": 550,
        "kvasir test": 100,
        "cvc-clinicdb test": 62,
        "cvc-300 test": 60,
        "cvc-colondb test": 380,
        "etis-larib test": 196,
    },
    quirks=(
        "the 550/62 split of CVC-ClinicDB draws frames at random: its sequences lie in both train and test",
        "the 900/100 split of Kvasir-SEG is not the official one of 880/120",
        "cvc-300 and cvc-colondb come from one source: never on opposite sides of a split",
        "folders are image and mask in TrainDataset, images and masks in TestDataset; copies mix the two",
        "all PNG; Kvasir's masks keep the grey levels of their JPEGs: binarised at > 127",
        "pairs are formed by name here, by sorted order in PraNet's code, which drops pairs of unequal size",
    ),
)


def _folder(root: Path, *names: str) -> Path:
    """The first of these folders that exists, else a path that does not."""
    return next((root / name for name in names if (root / name).is_dir()), root / names[0])


def _train(root: Path) -> Path:
    return _folder(root, "TrainDataset/TrainDataset", "TrainDataset")


def _test(root: Path) -> Path:
    return _folder(root, "TestDataset/TestDataset", "TestDataset")


def _recognise(root: Path) -> bool:
    train, test = _train(root), _test(root)
    sets = [train, *(test / name for name in CENTERS)]
    return any(_folder(place, "images", "image").is_dir() for place in sets)


def _center(stem: str) -> str | None:
    """Which source a file of TrainDataset comes from: a frame number, or one of Kvasir-SEG's 25-letter ids."""
    if cvc_clinicdb.sequence(stem):
        return "cvc-clinicdb"
    return "kvasir" if kvasir_seg.ID.fullmatch(stem) else None


def _group(center: str, stem: str) -> str | None:
    if center == "cvc-clinicdb":
        return cvc_clinicdb.sequence(stem)
    return cvc_colondb.sequence(stem) if center in ("cvc-300", "cvc-colondb") else None


def read(root: Path) -> Catalog:
    """List both parts, or the one that is here; ``official_split`` and the split ``pranet`` are the benchmark's."""
    root = Path(root)
    train, test = _train(root), _test(root)
    rows: list[dict[str, Any]] = []
    strange, warnings = [], []
    for place, side, known in [(train, "train", None), *((test / name, "test", CENTERS[name]) for name in CENTERS)]:
        folders = _folder(place, "images", "image"), _folder(place, "masks", "mask")
        pairs, orphans = pair(list_images(folders[0]), list_images(folders[1]), place)
        warnings += [*orphans, *strays(*(folder for folder in folders if folder.is_dir()))]
        for stem, image, mask in pairs:
            center = known or _center(stem)
            if center is None:
                strange.append(stem)
                continue
            row = {
                "sample": f"pranet/{side}/{center}/{stem.zfill(3)}",
                "center": center,
                "group": _group(center, stem),
                "image": image.relative_to(root).as_posix(),
                "mask": mask.relative_to(root).as_posix(),
                "official_split": side,
            }
            rows.append(row)
    if not rows:
        raise missing("pranet", CARD, root, "TrainDataset/image/*.png or TestDataset/CVC-300/images/*.png")
    if strange:
        warnings.append(
            f"{len(strange)} images of TrainDataset left out, their names are neither CVC-ClinicDB's nor "
            f"Kvasir-SEG's, e.g. {strange[0]}"
        )
    here = sorted(path.name for path in test.iterdir() if path.is_dir()) if test.is_dir() else []
    others = [name for name in here if name not in CENTERS and not name.startswith((".", "__"))]
    if others:
        warnings.append(f"{len(others)} folders of TestDataset are none of the five test sets, e.g. {others[0]}")
    counts = Counter(f"{row['center']} {row['official_split']}" for row in rows)
    warnings += [*_leaking(rows), *differences(CARD, {**counts, "images": len(rows)})]
    splits = {"pranet": {row["sample"]: row["official_split"] for row in rows}}
    return make_catalog("pranet", root, rows, warnings, splits=splits)


def _leaking(rows: list[dict[str, Any]]) -> list[str]:
    sides = {
        side: {row["group"] for row in rows if row["center"] == "cvc-clinicdb" and row["official_split"] == side}
        for side in ("train", "test")
    }
    both = sides["train"] & sides["test"]
    if not both:
        return []
    return [
        f"{len(both)} of {len(sides['train'] | sides['test'])} sequences of CVC-ClinicDB have frames in both train and "
        "test: the published split draws frames, not sequences"
    ]


DATASET = Dataset("pranet", CARD, ("segmentation",), _recognise, read)
