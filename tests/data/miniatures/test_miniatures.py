"""Every dataset has a miniature that its own reader, and no other, takes for the real thing, and that decodes whole."""

import hashlib
import shutil
from pathlib import Path

import pandas as pd
import pytest

from fedkvasir.data.catalog import JUNK
from fedkvasir.data.datasets import DATASETS, find_dataset, find_root
from fedkvasir.data.miniatures import WITHOUT, miniature
from fedkvasir.data.store import open_store
from fedkvasir.errors import UserError
from tests.conftest import Miniatures

NAMES = [name for name in DATASETS if name not in WITHOUT]


@pytest.mark.parametrize("name", NAMES)
def test_only_its_own_reader_takes_it_and_every_sample_decodes(name: str, miniatures: Miniatures) -> None:
    root = miniatures(name, 4)
    dataset = find_dataset(name)
    assert [other.name for other in DATASETS.values() if other.recognise(root)] == [name]
    assert find_root(dataset, root.parent, None) == root  # found when wrapped
    catalog = dataset.read(root)
    store = open_store(catalog, 32)
    assert store.table["error"].isna().all() and store.images.any()
    if "segmentation" in dataset.tasks:
        known = catalog.table["mask"].notna() | catalog.table["empty"]
        assert (store.table["area_px"][known] > 0).any()
    if "classification" in dataset.tasks and name not in ("bkai-neopolyp", "supervisely"):
        assert catalog.table["label"].notna().all()


@pytest.mark.parametrize("name", NAMES)
def test_counts_that_differ_from_the_published_ones_are_named_in_one_warning(name: str, miniatures: Miniatures) -> None:
    dataset = find_dataset(name)
    warnings = [text for text in dataset.read(miniatures(name, 4)).warnings if "counts differ" in text]
    assert len(warnings) == (1 if dataset.card.counts else 0)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_found_when_doubled_and_system_files_and_upper_case_change_nothing(
    name: str, miniatures: Miniatures, tmp_path: Path
) -> None:
    """Every folder gets what macOS and Windows leave behind; every picture's suffix is put in capitals."""
    root = miniatures(name, 4)
    dataset, outer = find_dataset(name), tmp_path / root.name
    before, copy = dataset.read(root), outer / root.name
    shutil.copytree(root, copy)
    for beside in ("official_splits", "patient_splits", f"{root.name}-features"):
        if (root.parent / beside).is_dir():
            shutil.copytree(root.parent / beside, outer / beside)
    for folder in [copy, *(path for path in copy.rglob("*") if path.is_dir())]:
        for junk in (".DS_Store", "._picture.jpg", "Thumbs.db"):
            (folder / junk).write_bytes(b"junk")
    for path in list(copy.rglob("*.jpg")) + list(copy.rglob("*.png")):
        if name not in ("camelyon17-wilds", "supervisely") and not path.name.startswith("."):  # listed with suffix
            path.rename(path.with_suffix(path.suffix.upper()))
    assert find_root(dataset, tmp_path, None) == copy
    after = dataset.read(copy)
    pd.testing.assert_frame_equal(after.table[["sample", "group", "label"]], before.table[["sample", "group", "label"]])
    assert after.splits == before.splits and len(after.warnings) == len(before.warnings)


def test_the_same_call_writes_the_same_files(tmp_path: Path) -> None:
    def digest(root: Path) -> str:
        files = sorted(path for path in root.rglob("*") if path.is_file() and path.name not in JUNK)
        return hashlib.sha256(b"".join(str(p.relative_to(root)).encode() + p.read_bytes() for p in files)).hexdigest()

    one, two = (digest(miniature("etis-larib", tmp_path / place, 3)) for place in ("a", "b"))
    assert one == two


def test_a_miniature_never_overwrites_and_says_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "kvasir-seg").mkdir()
    with pytest.raises(UserError, match="exists already"):
        miniature("kvasir-seg", tmp_path)
    with pytest.raises(UserError, match="needs at least 2"):
        miniature("kvasir-v1", tmp_path, 1)
    with pytest.raises(UserError, match="synthetic has no miniature"):
        miniature("synthetic", tmp_path)
    with pytest.raises(UserError, match="did you mean 'polypgen'"):
        miniature("polypgenn", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kvasir-seg"]
