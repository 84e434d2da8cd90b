"""One file a dataset; a name in a scenario becomes a reader here."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from fedkvasir.data import archive
from fedkvasir.data.catalog import Dataset, readable
from fedkvasir.errors import UserError, did_you_mean

DATASETS: dict[str, Dataset] = {
    dataset.name: dataset
    for dataset in (import_module(f"{__name__}.{found.name}").DATASET for found in iter_modules(__path__))
}


def find_dataset(name: str) -> Dataset:
    """Raises UserError with the nearest spelling."""
    if name not in DATASETS:
        raise UserError(f"unknown dataset {name!r}{did_you_mean(name, list(DATASETS))}; known: {', '.join(DATASETS)}")
    return DATASETS[name]


def find_root(dataset: Dataset, data_dir: Path | None, given: str | None) -> Path:
    """The dataset's root: as given, else the one folder under ``data_dir`` whose tree looks like it.

    Looks three levels deep, so that a zip unpacked into a folder of its own name, or doubled, is found.
    Raises UserError with how to get the dataset where there is none, where there are two, where an archive is not
    unpacked yet, and where the folder given lies inside the dataset.
    """
    name, card = dataset.name, dataset.card
    start = Path(given).expanduser() if given else data_dir
    if start is None:
        raise UserError(f"{name}: say where it lies with --data DIR or data.roots.{name}. {card.obtain}")
    if not start.is_dir():
        if archive.is_archive(start) and start.is_file():
            raise UserError(f"{name}: {start} is an archive; `fedkvasir data unpack {start} DIR` unpacks it")
        kind = "is a file, not a folder" if start.exists() else "does not exist"
        raise UserError(f"{name}: {start} {kind}. {card.obtain}")
    archives = []
    for level in _levels(start):
        found = [path for path in level if dataset.recognise(path)]
        if len(found) > 1:
            places = " and ".join(str(path) for path in found[:2])
            raise UserError(f"{name}: two copies, {places}; choose one with data.roots.{name}")
        if found:
            return found[0]
        archives += [child for path in level for child in sorted(path.iterdir()) if archive.is_archive(child)]
    for above in list(start.resolve().parents)[:3]:
        if readable(above) and dataset.recognise(above):
            raise UserError(f"{name}: {start} lies inside the dataset; give the folder above it, {above}")
    packed = next((path for path in archives if not _is_part(path, start)), None)
    hint = f" {packed} is not unpacked: `fedkvasir data unpack {packed} DIR`." if packed else ""
    folders = (child for level in _levels(start) for path in level for child in path.iterdir() if child.is_dir())
    locked = next((folder for folder in folders if not readable(folder)), None)
    hint += f" {locked} may not be read: ask for the right." if locked else ""
    raise UserError(f"{name}: nothing under {start} looks like it.{hint} {card.obtain}")


def find_all(start: Path) -> list[tuple[Dataset, Path]]:
    """Every dataset at ``start`` or up to three levels below it, with its root.

    What lies in a root of the same dataset is a part or a copy that is read with it: CVC-ClinicDB's ``PNG``, say.
    """
    if not start.is_dir():
        raise UserError(f"{start} {'is a file, not a folder' if start.exists() else 'does not exist'}")
    found = dict.fromkeys(
        (name, path)
        for level in _levels(start)
        for path in level
        for name, dataset in DATASETS.items()
        if dataset.recognise(path)
    )
    return [(DATASETS[name], path) for name, path in found if not any((name, above) in found for above in path.parents)]


def _is_part(path: Path, start: Path) -> bool:
    """Whether a file lies in the root of some dataset, under ``start``: PolypGen ships a zip in its own."""
    folders = [folder for folder in path.parents if folder.is_relative_to(start)]
    return any(dataset.recognise(folder) for folder in folders for dataset in DATASETS.values())


def _levels(start: Path) -> Iterator[list[Path]]:
    """The folder, the folders in it, and so on, three levels down; at most 500 a level.

    Not what may not be read, a disk's ``lost+found`` say, nor what macOS puts into its zips beside the files:
    ``__MACOSX`` repeats their tree and holds no picture.
    """
    level = [start]
    for _ in range(4):
        yield level
        inside = [child for path in level for child in sorted(path.iterdir())]
        shown = [child for child in inside if child.is_dir() and not child.name.startswith((".", "__MACOSX"))]
        level = [child for child in shown if readable(child)][:500]
