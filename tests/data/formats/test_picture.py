"""Pictures of every kind that an endoscope's archive may hold come out as 8-bit RGB, the way an annotator saw them."""

import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fedkvasir.data import formats
from fedkvasir.data.catalog import make_catalog
from fedkvasir.data.store import open_store
from fedkvasir.errors import UserError

RAMP = np.arange(24 * 32, dtype=np.uint8).reshape(24, 32)
COLOUR = np.stack([RAMP, RAMP[::-1], RAMP[:, ::-1]], axis=2)
DEEP = RAMP.astype(np.uint16) * 257 + np.arange(32, dtype=np.uint16)
"""16 bits whose high byte is the ramp, but for a pixel that would overflow."""
ORIENTATION = 0x0112


def read(path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = next(formats.pictures(path, [None]))
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    return pixels


def save(path: Path, mode: str) -> Path:
    """The colours in another of PIL's modes."""
    Image.fromarray(COLOUR).convert(mode).save(path, **({"quality": 100} if path.suffix == ".jpg" else {}))
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp", "A.PNG"])
def test_colours_come_back_from_every_lossless_file(tmp_path: Path, name: str) -> None:
    np.testing.assert_array_equal(read(save(tmp_path / name, "RGB")), COLOUR)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.bmp"])
def test_grey_is_three_equal_channels(tmp_path: Path, name: str) -> None:
    Image.fromarray(RAMP).save(tmp_path / name)
    np.testing.assert_array_equal(read(tmp_path / name), np.stack([RAMP] * 3, axis=2))


@pytest.mark.parametrize("name", ["a.png", "a.tif"])
def test_alpha_is_dropped_and_what_lies_under_it_is_kept(tmp_path: Path, name: str) -> None:
    Image.fromarray(np.dstack([COLOUR, RAMP])).save(tmp_path / name)
    np.testing.assert_array_equal(read(tmp_path / name), COLOUR)
    Image.fromarray(np.dstack([RAMP, RAMP[::-1]])).save(tmp_path / name)
    np.testing.assert_array_equal(read(tmp_path / name), np.stack([RAMP] * 3, axis=2))


@pytest.mark.parametrize("transparency", [None, 3, bytes(range(16))])
def test_a_palette_becomes_its_colours(tmp_path: Path, transparency: object) -> None:
    indexed = Image.fromarray(COLOUR).quantize(16)
    indexed.save(tmp_path / "a.png", **({} if transparency is None else {"transparency": transparency}))
    palette = np.array(indexed.getpalette(), np.uint8).reshape(-1, 3)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), palette[np.asarray(indexed)])


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_of_16_bits_the_high_eight_count(tmp_path: Path, suffix: str, channels: int) -> None:
    path = tmp_path / f"a{suffix}"
    deep = DEEP if channels == 1 else np.dstack([DEEP, DEEP[::-1], DEEP[:, ::-1], DEEP][:channels])
    cv2.imwrite(str(path), deep)
    high = np.atleast_3d(deep)[..., :3] >> 8
    np.testing.assert_array_equal(read(path), np.broadcast_to(high[..., ::-1], (24, 32, 3)))  # OpenCV writes BGR


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_pixels_of_no_known_range_are_refused(tmp_path: Path, kind: type) -> None:
    Image.fromarray(RAMP.astype(kind)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match="32-bit pixels, whose range is not known; save it with 8 or 16 bits"):
        read(tmp_path / "a.tif")


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_of_which_few_are_used_are_not_taken_for_a_dark_picture(
    tmp_path: Path, bits: int, suffix: str, channels: int
) -> None:
    grey = (RAMP * ((2**bits - 1) / 255)).astype(np.uint16)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), np.dstack([grey] * channels))
    with pytest.raises(ValueError, match="16-bit pixels of which none uses the upper two bits"):
        read(tmp_path / f"a{suffix}")


def test_a_black_picture_of_16_bits_is_black(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((24, 32), np.uint16)).save(tmp_path / "a.png")
    assert not read(tmp_path / "a.png").any()


def test_cmyk_is_not_turned_into_its_negative(tmp_path: Path) -> None:
    smooth = cv2.resize(np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8), (32, 24))
    Image.fromarray(smooth).convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    with Image.open(tmp_path / "a.jpg") as picture:
        assert picture.mode == "CMYK"
    by_opencv = cv2.imread(str(tmp_path / "a.jpg"))[..., ::-1]
    for expected in (smooth, by_opencv):
        np.testing.assert_allclose(read(tmp_path / "a.jpg").astype(int), expected, atol=4)


TURNED = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.transpose(1, 0, 2),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: pixels[::-1, ::-1].transpose(1, 0, 2),
    8: lambda pixels: np.rot90(pixels, 1),
}
"""EXIF orientation -> how the stored pixels are shown (EXIF 2.3, 4.6.4)."""


@pytest.mark.parametrize("tag", TURNED)
def test_a_picture_and_a_mask_are_turned_as_their_exif_tag_says(tmp_path: Path, tag: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = tag
    Image.fromarray(COLOUR).save(tmp_path / "a.png", exif=exif)
    expected = TURNED[tag](COLOUR)
    np.testing.assert_array_equal(read(tmp_path / "a.png"), expected)
    np.testing.assert_array_equal(next(formats.masks(tmp_path / "a.png", [None])), (expected > 127).any(axis=2))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_mask_that_may_be_in_the_transparency_is_refused(tmp_path: Path, mode: str) -> None:
    black = Image.new(mode, (32, 24))
    black.putalpha(Image.fromarray(np.where(RAMP > 99, 255, 0).astype(np.uint8)))
    black.save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="the mask is partly transparent"):
        next(formats.masks(tmp_path / "a.png", [None]))
    black.putalpha(255)
    black.save(tmp_path / "a.png")
    assert not next(formats.masks(tmp_path / "a.png", [None])).any()


@pytest.mark.parametrize(("dark", "outline"), [(1, 255), (85, 255), (127, 128)])
def test_a_mask_of_several_values_whose_most_are_dark_is_refused(tmp_path: Path, dark: int, outline: int) -> None:
    """Pascal VOC's object is 1 and its outline 255: as foreground, the outline would be the polyp."""
    mask = np.zeros((24, 32), np.uint8)
    mask[4:20, 4:28], mask[6:18, 6:26] = outline, dark
    Image.fromarray(mask).save(tmp_path / "a.png")
    with pytest.raises(
        ValueError,
        match=rf"240 of the mask's pixels are {dark}, more than lie above 127, .*: save it with 0 and 255",
    ):
        next(formats.masks(tmp_path / "a.png", [None]))


@pytest.mark.parametrize("radius", [2, 3, 5, 40])
def test_grey_edges_of_a_mask_and_what_jpeg_left_around_it_are_no_class(tmp_path: Path, radius: int) -> None:
    """Of a small polyp there are more of these pixels than of those that show it."""
    sharp = cv2.circle(np.zeros((528, 624), np.uint8), (300, 250), 2 * radius, 255, -1)
    Image.fromarray(sharp).save(tmp_path / "a.jpg", quality=75)
    ringing = np.asarray(Image.open(tmp_path / "a.jpg"))
    small = cv2.resize(sharp, (156, 132), interpolation=cv2.INTER_AREA)
    for mask in (ringing, small, cv2.resize(small, (624, 528), interpolation=cv2.INTER_LINEAR)):
        Image.fromarray(mask).save(tmp_path / "a.png")
        np.testing.assert_array_equal(next(formats.masks(tmp_path / "a.png", [None])), mask > 127)


def test_of_a_mask_of_16_bits_the_high_eight_count(tmp_path: Path) -> None:
    mask = np.zeros((24, 32), np.uint16)
    mask[4:20, 4:28], mask[:2] = 65535, 300
    Image.fromarray(mask).save(tmp_path / "a.png")
    np.testing.assert_array_equal(next(formats.masks(tmp_path / "a.png", [None])), mask == 65535)


def test_a_mask_of_16_bits_that_uses_eight_is_read_as_one_of_eight(tmp_path: Path) -> None:
    mask = np.where(RAMP > 99, 255, 0).astype(np.uint16)
    Image.fromarray(mask).save(tmp_path / "a.png")
    np.testing.assert_array_equal(next(formats.masks(tmp_path / "a.png", [None])), mask == 255)


def test_a_dark_jpeg_is_no_empty_mask(tmp_path: Path) -> None:
    mask = np.zeros((24, 32), np.uint8)
    Image.fromarray(mask + 5).save(tmp_path / "a.jpg")
    assert not next(formats.masks(tmp_path / "a.jpg", [None])).any()
    mask[4:20, 4:28] = 100
    Image.fromarray(mask).save(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match=r"the mask's highest value is 1\d\d, and foreground is above 127"):
        next(formats.masks(tmp_path / "a.jpg", [None]))


@pytest.mark.parametrize("exif", [b"Exif\0\0nonsense", b"Exif\0\0II", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"])
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_a_broken_exif_tag_turns_nothing(tmp_path: Path, suffix: str, exif: bytes) -> None:
    Image.fromarray(COLOUR).save(tmp_path / f"a{suffix}", exif=exif)
    assert next(formats.pictures(tmp_path / f"a{suffix}", [None])).shape == COLOUR.shape


def test_a_turned_picture_whose_mask_is_not_turned_is_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(COLOUR).save(tmp_path / "image.jpg", exif=exif)
    Image.fromarray(RAMP).save(tmp_path / "mask.png")
    catalog = make_catalog("folder", tmp_path, [{"sample": "folder/1", "image": "image.jpg", "mask": "mask.png"}])
    with pytest.raises(UserError, match=r"the mask is 32x24, the image 24x32"):
        open_store(catalog, 32)


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_one_pixel_is_a_picture(tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (200, 100, 50)).save(tmp_path / "a.png")
    pixels = read(tmp_path / "a.png")
    assert pixels.shape == (size[1], size[0], 3) and (pixels == (200, 100, 50)).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".bmp"])
def test_what_is_cut_short_or_no_picture_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    for content in (b"", b"no picture", whole[: len(whole) // 2], whole[:-100]):
        path.write_bytes(content)
        with pytest.raises((OSError, SyntaxError, ValueError)):
            read(path)


def test_a_header_that_promises_more_pixels_than_memory_is_refused(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "a.bmp")
    content = bytearray((tmp_path / "a.bmp").read_bytes())
    content[18:26] = (60_000).to_bytes(4, "little") * 2  # width and height
    (tmp_path / "a.bmp").write_bytes(content)
    with pytest.raises(ValueError, match="3600000000 pixels"):
        read(tmp_path / "a.bmp")
