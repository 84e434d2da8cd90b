"""NIfTI: slices lie the same way however they are stored; window, labels, spacing; and what a broken file says."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from fedkvasir.data import formats
from fedkvasir.data.formats import nifti

SHAPE = (4, 5, 6)


def save(path: Path, voxels: np.ndarray, axes: str = "RAS", spacing: tuple[float, float, float] = (1, 1, 1)) -> Path:
    """``voxels`` with axes to the right, front and head, stored with its axes in another order and direction."""
    codes = nibabel.orientations.axcodes2ornt
    turn = nibabel.orientations.ornt_transform(codes("RAS"), codes(axes))
    nibabel.save(nibabel.Nifti1Image(voxels, np.diag([*spacing, 1])).as_reoriented(turn), path)
    assert "".join(nibabel.aff2axcodes(nibabel.load(path).affine)) == axes
    return path


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "IPL", "SRA"])
def test_head_and_front_come_first_however_the_scan_is_stored(tmp_path: Path, axes: str) -> None:
    labels = np.zeros(SHAPE)
    right, front, head = 3, 4, 5  # the corner at the patient's right, front and head
    labels[0, front, head], labels[right, 0, head], labels[right, front, 0], labels[right, front, head] = 1, 2, 3, 4
    path = save(tmp_path / "mask.nii.gz", labels, axes)
    assert nifti.extent(path) == SHAPE
    items = ["sagittal:3:labels", "coronal:4:labels", "axial:5:labels"]
    sagittal, coronal, axial = formats.masks(path, items)
    assert (sagittal.shape, coronal.shape, axial.shape) == ((6, 5), (6, 4), (5, 4))
    # Corners as on the screen: [upper left, upper right], [lower left, lower right].
    assert sagittal[[0, 0, -1, -1], [0, -1, 0, -1]].tolist() == [4, 2, 3, 0]  # front on the left, head up
    assert coronal[[0, 0, -1, -1], [0, -1, 0, -1]].tolist() == [4, 1, 3, 0]  # the patient's right on the left
    assert axial[[0, 0, -1, -1], [0, -1, 0, -1]].tolist() == [4, 1, 2, 0]  # front up


def test_the_bone_window_goes_from_minus_500_to_1300(tmp_path: Path) -> None:
    hounsfield = np.full(SHAPE, -1000, np.int16)
    hounsfield[1], hounsfield[2], hounsfield[3] = -500, 400, 3000
    pixels = list(formats.pictures(save(tmp_path / "ct.nii", hounsfield), [f"sagittal:{n}" for n in range(4)]))
    assert [picture[0, 0].tolist() for picture in pixels] == [[0] * 3, [0] * 3, [128] * 3, [255] * 3]
    assert pixels[0].shape == (6, 5, 3) and pixels[0].dtype == np.uint8


def test_slope_and_intercept_of_the_header_count(tmp_path: Path) -> None:
    scan = nibabel.Nifti1Image(np.full(SHAPE, 700, np.int16), np.eye(4))
    scan.header.set_slope_inter(2, -1000)
    scan.to_filename(tmp_path / "ct.nii.gz")
    assert next(formats.pictures(tmp_path / "ct.nii.gz", ["axial:0"]))[0, 0, 0] == 128  # 2 * 700 - 1000 = 400 HU


def test_pixels_are_square_at_the_finer_spacing_and_labels_are_never_mixed(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE, np.uint8)
    labels[:, :, 3:] = 20
    path = save(tmp_path / "mask.nii.gz", labels, "PIR", spacing=(1, 1, 2.5))
    (sagittal,) = formats.masks(path, ["sagittal:1:labels"])
    assert sagittal.shape == (15, 5)  # 6 voxels of 2.5 mm along the body, at 1 mm
    assert set(np.unique(sagittal)) == {0, 20}
    (axial,) = formats.masks(path, ["axial:4:labels"])
    assert axial.shape == (5, 4)


def test_a_mask_is_0_or_1_unless_its_labels_are_asked_for(tmp_path: Path) -> None:
    labels = np.zeros(SHAPE)  # float64, as VerSe stores them
    labels[2, 2, 2] = 28
    path = save(tmp_path / "mask.nii.gz", labels)
    binary, whole = formats.masks(path, ["axial:2", "axial:2:labels"])
    assert (binary.max(), whole.max()) == (1, 28) and binary.dtype == whole.dtype == np.uint8


@pytest.mark.parametrize("item", [None, "axial", "axial:", "axial:-1", "oblique:1", "axial:1:names"])
def test_an_item_that_is_no_slice_is_refused(tmp_path: Path, item: str | None) -> None:
    with pytest.raises(ValueError, match="no slice"):
        list(formats.pictures(save(tmp_path / "ct.nii", np.zeros(SHAPE)), [item]))


def test_a_slice_outside_the_volume_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no slice axial:6: there are 6"):
        list(formats.pictures(save(tmp_path / "ct.nii", np.zeros(SHAPE)), ["axial:6"]))


def test_broken_files_are_a_short_value_or_os_error(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 999, (20, 20, 20)).astype(np.int16)
    half = save(tmp_path / "half.nii.gz", noise)
    half.write_bytes(half.read_bytes()[: half.stat().st_size // 2])
    flat = save(tmp_path / "flat.nii", noise)
    flat.write_bytes(flat.read_bytes()[:5000])
    page = tmp_path / "page.nii.gz"
    page.write_text("<html>not found</html>")
    for path in (half, flat, page, tmp_path / "none.nii"):
        with pytest.raises((OSError, ValueError)) as caught:
            list(formats.pictures(path, ["axial:0"]))
        assert "\n" not in str(caught.value)
    series = tmp_path / "series.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 4, 4, 2)), np.eye(4)), series)
    with pytest.raises(ValueError, match=r"\(4, 4, 4, 2\), not that of a volume"):
        nifti.extent(series)
    with pytest.raises(ValueError, match="labels from 300 to 300, not within 0 and 255"):
        list(formats.masks(save(tmp_path / "mask.nii", np.full(SHAPE, 300.0)), ["axial:5"]))


@pytest.mark.real
def test_a_real_lumbar_ct_shows_the_vertebral_body_in_front_of_its_spinous_process(real_data: Path) -> None:
    folder = real_data / "spine-ct-sample"
    ct, mask = folder / "sub-ct_label-22_ct.nii.gz", folder / "sub-ct_seg-vert_label-22_msk.nii.gz"
    assert nibabel.aff2axcodes(nibabel.load(ct).affine) == ("P", "I", "R")
    assert nifti.extent(ct) == nifti.extent(mask) == (73, 73, 47)
    (sagittal,) = formats.masks(mask, ["sagittal:36:labels"])
    (picture,) = formats.pictures(ct, ["sagittal:36"])
    assert picture.shape[:2] == sagittal.shape == (47, 73)
    assert set(np.unique(sagittal)) == {0, 21, 22, 23}
    heights = [np.flatnonzero((sagittal == label).any(axis=1)).mean() for label in (21, 22, 23)]
    assert heights == sorted(heights)  # L2 above L3 above L4
    (axial,) = formats.masks(mask, ["axial:24:labels"])
    across = np.count_nonzero(axial == 22, axis=1)
    rows = np.flatnonzero(across)
    front, back = np.array_split(across[rows], 2)
    assert front.mean() > 2 * back[-5:].mean()  # the broad body up, the narrow spinous process down
    assert picture[sagittal > 0].mean() > picture[sagittal == 0].mean() + 10  # bone is brighter
