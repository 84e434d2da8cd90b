"""One file a dataset; a name in a scenario becomes a reader here."""

from pathlib import Path

from fedkvasir.data.catalog import Dataset
from fedkvasir.data.datasets import cvc_clinicdb, folder, kvasir_seg, synthetic
from fedkvasir.errors import UserError
from fedkvasir.scenario import did_you_mean

DATASETS: dict[str, Dataset] = {
    module.DATASET.name: module.DATASET for module in (kvasir_seg, cvc_clinicdb, folder, synthetic)
}


def find_dataset(name: str) -> Dataset:
    """Raises UserError with the nearest spelling."""
    if name not in DATASETS:
        raise UserError(f"unknown dataset {name!r}{did_you_mean(name, list(DATASETS))}; known: {', '.join(DATASETS)}")
    return DATASETS[name]


def find_root(dataset: Dataset, data_dir: Path | None, given: str | None) -> Path:
    """The dataset's root: as given, else the one folder under ``data_dir`` whose tree looks like it.

    Looks three levels deep, so that a zip unpacked into a folder of its own name, or doubled, is found.
    Raises UserError with how to get the dataset where there is none, or where there are two.
    """
    name, card = dataset.name, dataset.card
    start = Path(given).expanduser() if given else data_dir
    if start is None:
        raise UserError(f"{name}: say where it lies with --data DIR or data.roots.{name}. {card.obtain}")
    if not start.is_dir():
        kind = "is a file, not a folder" if start.exists() else "does not exist"
        raise UserError(f"{name}: {start} {kind}. {card.obtain}")
    level = [start]
    for _ in range(4):
        found = [path for path in level if dataset.recognise(path)]
        if len(found) > 1:
            places = " and ".join(str(path) for path in found[:2])
            raise UserError(f"{name}: two copies, {places}; choose one with data.roots.{name}")
        if found:
            return found[0]
        level = [
            child
            for path in level
            for child in sorted(path.iterdir())
            if child.is_dir() and not child.name.startswith(".")
        ][:500]
    raise UserError(f"{name}: nothing under {start} looks like it. {card.obtain}")
