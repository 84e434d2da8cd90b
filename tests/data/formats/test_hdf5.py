"""HDF5: rows in the order asked for, and what a broken file says."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from fedkvasir.data import formats

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 6, 4, 3), np.uint8)


@pytest.fixture
def patches(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "patches.h5", "w") as file:
        file.create_dataset("x", data=PIXELS, chunks=(2, 6, 4, 3), compression="gzip")
        file["mask"] = PIXELS[..., :1] > 127
    return tmp_path / "patches.h5"


def test_rows_come_in_the_order_of_the_items(patches: Path) -> None:
    assert np.array_equal(list(formats.pictures(patches, ["4", "0", "0"])), PIXELS[[4, 0, 0]])


def test_the_train_mask_file_is_boolean_and_becomes_0_and_1(patches: Path) -> None:
    (mask,) = formats.masks(patches, ["3"])
    assert mask.dtype == np.uint8 and np.array_equal(mask, PIXELS[3, ..., 0] > 127)


@pytest.mark.parametrize("item", ["5", "-1", "a", None])
def test_a_row_that_is_not_there_is_named(patches: Path, item: str | None) -> None:
    with pytest.raises(ValueError, match=f"no row {item}: 'x' has 5"):
        list(formats.pictures(patches, [item]))


def test_a_file_without_x_or_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "y.h5", "w") as file:
        file["y"] = np.zeros((5, 1, 1, 1), np.uint8)
    with pytest.raises(ValueError, match="no HDF5 dataset 'x', only y"):
        list(formats.pictures(tmp_path / "y.h5", ["0"]))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = np.zeros((5, 4, 4, 3), np.float32)
    with pytest.raises(ValueError, match=r"'x' is float32 \(5, 4, 4, 3\), not uint8"):
        list(formats.pictures(tmp_path / "x.h5", ["0"]))


def test_a_half_downloaded_file_is_an_os_error(patches: Path) -> None:
    patches.write_bytes(patches.read_bytes()[:700])
    with pytest.raises(OSError, match="truncated"):
        list(formats.pictures(patches, ["0"]))
