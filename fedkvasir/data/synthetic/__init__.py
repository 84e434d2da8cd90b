"""Rendered endoscopy: five make-believe hospitals for the quick start, the tests and dry runs.

A picture is painted the way it comes about at the bedside. A *scene* (one patient's tissue: folds, vessels, a
polyp) is laid out in camera-independent coordinates, a *camera* (one per frame) looks at it, the scope's lamp
lights its relief, and the hospital's *look* (processor, optics, compression) develops the result. Every number
comes from ``default_rng([seed, hospital, patient, frame])``, so the same key always gives the same pixels.

Scene coordinates: the origin is the middle of the picture, 1.0 is half the picture's height, y points down.
"""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from fedkvasir.data.synthetic.looks import LOOKS, Array, Look, Pixels, f32, grain, overlay, visible
from fedkvasir.data.synthetic.tissue import CANVAS, CLASSES, HEALTHY, PAINTERS, Scene

TASKS = ("classification", "segmentation")
FRAMES = (1, 2)


def render(
    look: Look, label: str, seed: int, patient: int, frame: int = 1, scale: float = 1.0
) -> tuple[Pixels, Pixels]:
    """Render one frame of one patient: an (H, W, 3) RGB picture and its (H, W) polyp mask, 0 or 255.

    ``label`` is one of ``CLASSES`` or ``HEALTHY``; only "polyps" has a mask that is not empty. ``scale``
    shrinks the look's native size. Frames of a patient show the same tissue from a moved camera.
    """
    if label not in PAINTERS:
        raise ValueError(f"Unknown label {label!r}; known labels are {', '.join(PAINTERS)}.")
    height, width = max(16, round(scale * look.height)), max(16, round(scale * look.width))
    key = [seed, zlib.crc32(look.name.encode()), patient]
    shot = np.random.default_rng([*key, frame])
    scene = Scene(look, np.random.default_rng(key), shot, min(CANVAS, height))
    PAINTERS[label](scene)
    polyp = cv2.resize(scene.mask, (width, height), interpolation=cv2.INTER_LINEAR) > 0.5
    mask = polyp * visible(look, height, width)
    return _develop(scene, shot, (height, width)), mask


def render_tree(
    out: Path,
    task: str,
    patients_per_center: int,
    seed: int,
    image_scale: float = 1.0,
    centers: Sequence[str] = tuple(LOOKS),
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a data set of rendered patients, two frames each, under ``out``.

    Segmentation: ``<center>/images/p003-1.jpg`` and ``<center>/masks/p003-1.png``; every twelfth patient has
    no polyp. Classification: ``<center>/<class>/p003-1.jpg``, the classes dealt in turn. ``progress`` is told
    the number of frames written and the number in all.
    """
    if task not in TASKS:
        raise ValueError(f"Unknown task {task!r}; known tasks are {', '.join(TASKS)}.")
    if unknown := [center for center in centers if center not in LOOKS]:
        raise ValueError(f"Unknown centers {', '.join(unknown)}; known centers are {', '.join(LOOKS)}.")
    if not 0 < image_scale <= 1:
        raise ValueError(f"The image scale must lie above 0 and at most at 1, not {image_scale}.")
    frames = [(c, p, f) for c in centers for p in range(patients_per_center) for f in FRAMES]
    for done, (center, patient, frame) in enumerate(frames, start=1):
        look, name = LOOKS[center], f"p{patient:03d}-{frame}"
        if task == "segmentation":
            label, folder = "polyps" if patient % 12 != 7 else HEALTHY, "images"
        else:
            label = folder = CLASSES[patient % len(CLASSES)]
        picture, mask = render(look, label, seed, patient, frame, image_scale)
        _save(picture, out / center / folder / f"{name}.jpg", quality=look.quality)
        if task == "segmentation":
            _save(mask, out / center / "masks" / f"{name}.png")
        if progress:
            progress(done, len(frames))


def _save(pixels: Pixels, path: Path, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def _lit(s: Scene) -> Array:
    """The scene under the lamp at the scope's tip, (H, W, 3) in 0..1."""
    relief = cv2.GaussianBlur(s.relief, (0, 0), s.unit / 120)
    right, down = (cv2.Sobel(relief, cv2.CV_32F, i, 1 - i, scale=s.unit / 8) for i in (1, 0))
    steep = np.sqrt(1 + right * right + down * down)
    lamp_x, lamp_y = 0.5 * (s.look.lamp[0] - s.px), 0.5 * (s.look.lamp[1] - s.py)
    far = np.sqrt(1 + lamp_x * lamp_x + lamp_y * lamp_y)
    diffuse = np.clip((1 - right * lamp_x - down * lamp_y) / (steep * far), 0, 1)
    half_x, half_y = lamp_x - 0.5 * s.px, lamp_y - 0.5 * s.py
    mirror = (2 - right * half_x - down * half_y) / (steep * np.sqrt(4 + half_x * half_x + half_y * half_y))
    glint = np.clip((mirror - 0.992) / 0.007, 0, 1) * s.gloss * np.clip(s.light, 0, 1)
    light = s.light * (0.25 + 0.75 * diffuse) * (2.2 * s.look.gain) * (0.7 + 0.3 * np.minimum(s.radius, 1))
    # Light that bounced deep inside the gut has lost its green and blue: shadows are red-brown, not grey.
    fade = np.clip(0.5 + 0.5 * light, 0, 1)
    tinted = s.albedo * np.stack([light, light * fade, light * fade * fade], axis=-1)
    return 1 - np.exp(-tinted) + (0.9 * glint)[..., None]


def _develop(s: Scene, shot: np.random.Generator, size: tuple[int, int]) -> Pixels:
    """Optics, sensor and processor of the hospital: (height, width, 3) RGB."""
    look, pixel = s.look, s.unit / 250
    mix = look.saturation * np.eye(3) + (1 - look.saturation) / 3
    picture = f32(cv2.transform(_lit(s), f32(look.cast)[:, None] * mix))
    picture *= (1 - look.vignette * 0.5 * (s.px**2 + s.py**2))[..., None]
    picture = f32(cv2.GaussianBlur(picture, (0, 0), max(0.3, look.blur * pixel)))
    if look.sharpen:
        picture += look.sharpen * (picture - cv2.GaussianBlur(picture, (0, 0), 4 * pixel))
    height, width = size
    pixels: Any = (255 * np.clip(picture, 0, 1)).astype(np.uint8)
    pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC)
    i, j = shot.integers(0, 1024 - height), shot.integers(0, 1024 - width)
    pixels = cv2.add(pixels, grain(look.noise)[i : i + height, j : j + width], dtype=cv2.CV_8U)
    margin = np.full_like(pixels, round(255 * look.dark))
    return overlay(look, cv2.copyTo(pixels, visible(look, height, width), margin), s.rng)
