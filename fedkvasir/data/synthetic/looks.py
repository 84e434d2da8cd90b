"""Hospitals' looks: what scope, optics and processor make of a scene."""

from dataclasses import dataclass
from functools import cache
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # float32 throughout: it is what keeps painting fast
Colour = tuple[float, float, float]
Point = tuple[float, float]
Pixels = NDArray[Any]  # uint8


def f32(values: object) -> Array:
    return np.asarray(values, np.float32)


@dataclass(frozen=True)
class Look:
    """What a hospital's scope, lamp and processor do to a picture. Colours are RGB in 0..1."""

    name: str
    width: int  # native size in pixels
    height: int
    tissue: Colour  # colour of healthy colon mucosa
    cast: Colour = (1.0, 1.0, 1.0)  # white balance: gain of each channel
    saturation: float = 1.0
    gain: float = 1.0  # exposure
    vignette: float = 0.3  # light lost in the corners, 0..1
    lamp: Point = (0.0, 0.0)  # where the lamp sits, in scene units
    blur: float = 0.6  # softness, in pixels at 500 lines
    sharpen: float = 0.0  # edge enhancement of the processor
    noise: float = 0.01  # sensor noise, standard deviation in 0..1
    vessels: float = 0.5  # how clearly submucosal vessels show, 0..1
    field: str = "octagon"  # visible field: "octagon", "round" or "rectangle"
    border: float = 0.02  # dark margin around the field, as a share of the height
    dark: float = 0.0  # brightness of that margin
    inset: bool = False  # green scope-guide picture, bottom left
    text: bool = False  # lines printed by the processor
    quality: int = 90  # JPEG quality


LOOKS: dict[str, Look] = {
    look.name: look
    for look in (
        Look("alta", 622, 528, (0.80, 0.26, 0.18), inset=True, text=True, blur=0.9, vessels=0.4),
        Look("bergen", 384, 288, (0.72, 0.33, 0.15), cast=(1.0, 0.95, 0.8), gain=0.95, vignette=0.5,
             lamp=(0.3, -0.2), blur=1.5, vessels=0.35, border=0.04, dark=0.07, quality=85),
        Look("cadiz", 560, 480, (0.78, 0.31, 0.27), cast=(1.0, 0.97, 1.08), gain=1.1, lamp=(-0.2, 0.1),
             blur=0.7, sharpen=0.5, vessels=0.8, field="round", border=0.01, text=True, quality=93),
        Look("dresden", 288, 240, (0.74, 0.27, 0.15), cast=(1.08, 0.9, 0.82), saturation=1.1, gain=1.15,
             vignette=0.2, blur=1.6, noise=0.03, field="rectangle", border=0.0, quality=70),
        Look("edinburgh", 640, 512, (0.66, 0.42, 0.34), cast=(0.84, 1.0, 0.98), saturation=0.85, gain=1.15,
             vignette=0.6, lamp=(0.5, 0.4), blur=1.8, noise=0.03, vessels=0.9, field="round",
             border=0.07, dark=0.03, quality=60),
    )
}  # fmt: skip


@cache
def grain(deviation: float) -> NDArray[np.int8]:
    noise = np.random.default_rng(3).normal(0, 255 * deviation, (1024, 1024, 3))
    return np.clip(0.7 * noise + 0.7 * noise[..., :1], -127, 127).astype(np.int8)


@cache
def visible(look: Look, height: int, width: int) -> Pixels:
    """The pixels that show tissue, 255 or 0: (height, width)."""
    y = np.abs(np.arange(height)[:, None] + 0.5 - height / 2) / (height / 2)
    x = np.abs(np.arange(width)[None, :] + 0.5 - width / 2) / (height / 2)
    tall, wide = 1 - 2 * look.border, width / height - 2 * look.border
    inside = (y < tall) & (x < wide)
    if look.field == "octagon":
        inside &= x + y < tall + wide - 0.5
    elif look.field == "round":
        inside &= np.hypot(x, y) < 1.12 * tall
    inside[_inset(look, height, width)] = False
    return np.uint8(255) * inside


def _inset(look: Look, height: int, width: int) -> tuple[slice, slice]:
    return slice(round(0.68 * height), height), slice(0, round(0.31 * width) if look.inset else 0)


def overlay(look: Look, pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """What the processor prints over the picture: text lines and the scope-guide inset."""
    height, width = pixels.shape[:2]
    if look.text:
        clock = "{:02d}:{:02d}:{:02d}".format(*rng.integers(0, [24, 60, 60]))
        for row, line in enumerate(("ID:", "Name:", "", "Sex:  Age:", "", "12/05/2015", clock, "", "CVP:5")):
            at = (round(0.01 * width), round(height * (0.1 + 0.045 * row)))
            cv2.putText(pixels, line, at, cv2.FONT_HERSHEY_PLAIN, height / 640, (225,) * 3, 1, cv2.LINE_AA)
    if look.inset:
        panel = np.full_like(pixels[_inset(look, height, width)], (22, 160, 133))
        drift = np.cumsum(rng.normal(0, 0.09, (20, 2)), axis=0)
        bends = np.cumsum(0.1 * drift - [0, 0.025], axis=0)
        wire = ((bends + np.array([0.5, 1.0])) * panel.shape[1::-1]).astype(np.int32)
        cv2.polylines(panel, [wire], False, (20, 60, 50), max(1, height // 200), cv2.LINE_AA)
        pixels[_inset(look, height, width)] = panel
    return pixels
