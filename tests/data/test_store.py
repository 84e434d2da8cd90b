"""The store: decoded once, whole or not there, and honest about files that cannot be used."""

import multiprocessing
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fedkvasir.data.catalog import Catalog, make_catalog
from fedkvasir.data.datasets import kvasir_seg
from fedkvasir.data.store import Store, open_store
from fedkvasir.errors import UserError


def write_sample(root: Path, stem: str, seed: int, size: tuple[int, int] = (40, 50)) -> np.ndarray:
    """A textured picture and a mask with JPEG ringing; returns the true mask."""
    rng = np.random.default_rng(seed)
    pixels = cv2.resize(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)
    mask = np.zeros(size, bool)
    mask[8:24, 8:32] = True
    for folder, array in (("images", pixels), ("masks", mask.astype(np.uint8) * 255)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(root / folder / f"{stem}.jpg", quality=90)
    return mask


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "Kvasir-SEG"
    for index in range(5):
        write_sample(folder, f"cju{index}", index)
    return folder


def test_images_masks_and_native_masks_come_back(root: Path) -> None:
    store = open_store(kvasir_seg.read(root), 32)
    assert store.images.shape == (5, 32, 32, 3) and store.masks.shape == (5, 32, 32)
    assert set(np.unique(store.masks)) == {0, 1}
    expected = write_sample(root.parent / "other", "x", 0)
    np.testing.assert_array_equal(store.native_mask(0), expected)  # > 127 undoes JPEG ringing
    assert list(store.table["width"]) == [50] * 5 and list(store.table["height"]) == [40] * 5


def test_a_second_call_decodes_nothing(root: Path) -> None:
    first = open_store(kvasir_seg.read(root), 32)
    seen: list[int] = []
    second = open_store(kvasir_seg.read(root), 32, progress=lambda done, total: seen.append(done))
    assert second.folder == first.folder and not seen


def test_a_changed_file_means_another_store(root: Path) -> None:
    before = open_store(kvasir_seg.read(root), 32)
    write_sample(root, "cju3", 99)
    after = open_store(kvasir_seg.read(root), 32)
    assert after.folder != before.folder
    assert after.table["pixels_sha256"][3] != before.table["pixels_sha256"][3]


def test_a_corrected_mask_of_the_same_size_and_time_means_another_store(tmp_path: Path) -> None:
    """As an archive unpacks it that keeps the times of its files."""
    Image.new("RGB", (50, 40)).save(tmp_path / "1.png")
    row = {"sample": "folder/1", "image": "1.png", "mask": "1.bmp"}
    areas = []
    for grey in (255, 0):
        Image.new("L", (50, 40), grey).save(tmp_path / "1.bmp")
        os.utime(tmp_path / "1.bmp", (1_700_000_000, 1_700_000_000))
        areas += open_store(make_catalog("folder", tmp_path, [row]), 32).table["area_px"].tolist()
    assert areas == [2000, 0]


def _open(root: str) -> str:
    return str(open_store(kvasir_seg.read(Path(root)), 48).folder)


def test_several_processes_may_ask_at_once(root: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        folders = pool.map(_open, [str(root)] * 3)
    assert len(set(folders)) == 1
    assert len(Store(Path(folders[0])).table) == 5


def test_a_truncated_jpeg_is_named_and_refused_unless_skipped(root: Path) -> None:
    path = root / "images" / "cju2.jpg"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    catalog = kvasir_seg.read(root)
    with pytest.raises(UserError, match=r"1 of 5 samples cannot be used: .*cju2.jpg .*skip_unreadable"):
        open_store(catalog, 32)
    store = open_store(catalog, 32, skip_unreadable=True)
    assert store.table["error"].notna().tolist() == [False, False, True, False, False]
    with pytest.raises(UserError, match=r"cju2\.jpg"):
        open_store(catalog, 32)


def test_what_the_system_could_not_read_is_not_remembered_as_broken(root: Path, cache: Path) -> None:
    path = root / "images" / "cju2.jpg"
    path.unlink()
    path.mkdir()  # the system refuses to read it, as a network drive does that is gone for a moment
    with pytest.raises(OSError, match=r"cju2\.jpg"):
        open_store(kvasir_seg.read(root), 44, skip_unreadable=True)
    assert not list((cache / "stores").glob("kvasir-seg-44-*[!k]"))


@pytest.mark.parametrize("value", [1, 127])
def test_a_mask_that_would_pass_for_no_polyp_is_refused(root: Path, value: int) -> None:
    folder = root.parent / "own"
    folder.mkdir()
    Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(folder / "1.png")
    mask = np.zeros((40, 50), np.uint8)
    Image.fromarray(mask).save(folder / "empty.png")
    mask[8:24, 8:32] = value
    Image.fromarray(mask).save(folder / "mask.png")
    catalogs = [
        make_catalog("folder", folder, [{"sample": "folder/1", "image": "1.png", "mask": name}])
        for name in ("mask.png", "empty.png")
    ]
    with pytest.raises(UserError, match=rf"mask.png \(the mask's highest value is {value}.*: save it with 0 and 255\)"):
        open_store(catalogs[0], 32)
    assert open_store(catalogs[1], 32).table["area_px"].tolist() == [0]


def test_a_mask_of_another_size_is_named_with_both_sizes(root: Path) -> None:
    Image.new("L", (10, 12)).save(root / "masks" / "cju1.jpg")
    with pytest.raises(UserError, match=r"cju1.jpg \(the mask is 10x12, the image 50x40\)"):
        open_store(kvasir_seg.read(root), 32)


def test_nothing_half_written_is_left_behind(root: Path, cache: Path) -> None:
    (root / "images" / "cju4.jpg").write_bytes(b"not a picture")
    with pytest.raises(UserError):
        open_store(kvasir_seg.read(root), 40)
    assert not list((cache / "stores").glob("kvasir-seg-40-*[!k]")) and not list((cache / "stores").glob(".*"))


def test_a_catalog_that_lost_a_file_says_which(root: Path) -> None:
    catalog: Catalog = kvasir_seg.read(root)
    (root / "images" / "cju0.jpg").unlink()
    with pytest.raises(UserError, match=r"cju0.jpg is gone"):
        open_store(catalog, 32)
