"""Tissue: textures, a scene seen by a camera, and the painters of the eight classes and of healthy colon."""

import math
from collections.abc import Callable
from functools import cache

import cv2
import numpy as np

from fedkvasir.data.synthetic.looks import Array, Colour, Look, Point, f32

CLASSES = (
    "dyed-lifted-polyps",
    "dyed-resection-margins",
    "esophagitis",
    "normal-cecum",
    "normal-pylorus",
    "normal-z-line",
    "polyps",
    "ulcerative-colitis",
)
HEALTHY = "normal-colon"  # colon without a polyp: the empty masks of the segmentation task


# --- textures, made once per process ------------------------------------------------------------------------

TILE = 512  # side of a texture in texels; textures wrap around


@cache
def _noise(cycles: int, octaves: int) -> Array:
    """Smooth wrapping noise with mean 0 and standard deviation 1; ``cycles`` per tile in the first octave."""
    rng = np.random.default_rng([cycles, octaves])
    frequency = np.hypot(np.fft.fftfreq(TILE)[:, None], np.fft.rfftfreq(TILE)[None, :]) * TILE / cycles
    band = (frequency > 0.3) * np.exp(-((frequency / 2.0 ** (octaves - 1)) ** 2)) / (1 + frequency**2)
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((TILE, TILE))) * band, s=(TILE, TILE))
    return f32(noise / noise.std())


@cache
def _vessels() -> Array:
    """Wrapping tree-like vessels, 0..1."""
    rng = np.random.default_rng(7)
    canvas = np.zeros((2 * TILE, 2 * TILE), np.uint8)
    walkers = [(*rng.uniform(0.2, 1.8, 2) * TILE, rng.uniform(0, 2 * np.pi), 3.6) for _ in range(60)]
    while walkers:
        x, y, heading, width = walkers.pop()
        while width > 0.8:
            heading += rng.normal(0, 0.33)
            end = x + 6 * np.cos(heading), y + 6 * np.sin(heading)
            line = np.array([(x, y), end], np.int32)
            cv2.polylines(canvas, [line], False, 60 + 50 * width, max(1, round(width)), cv2.LINE_AA)
            (x, y), width = end, width * 0.972
            if rng.random() < 0.09:
                walkers.append((x, y, heading + rng.choice([-0.8, 0.8]), width * 0.75))
    quarters = [canvas[i : i + TILE, j : j + TILE] for i in (0, TILE) for j in (0, TILE)]
    return cv2.GaussianBlur(f32(np.max(quarters, axis=0)) / 255, (0, 0), 0.9)


# --- the scene ----------------------------------------------------------------------------------------------

CANVAS = 240  # most lines a scene is painted at; larger pictures are enlarged, as soft as real endoscopy


class Scene:
    """One patient's tissue seen by one camera: per-pixel colour (H, W, 3), relief and light (H, W)."""

    def __init__(self, look: Look, rng: np.random.Generator, shot: np.random.Generator, lines: int) -> None:
        height, width = lines, round(lines * look.width / look.height)
        self.look, self.rng, self.unit = look, rng, height / 2
        self.px = f32((np.arange(width)[None, :] + 0.5 - width / 2) / self.unit).repeat(height, 0)
        self.py = f32((np.arange(height)[:, None] + 0.5 - height / 2) / self.unit).repeat(width, 1)
        turn, zoom = shot.uniform(-0.15, 0.15), shot.uniform(0.9, 1.12)
        cos, sin = math.cos(turn) / zoom, math.sin(turn) / zoom
        self.x = cos * self.px - sin * self.py + shot.uniform(-0.1, 0.1)
        self.y = sin * self.px + cos * self.py + shot.uniform(-0.1, 0.1)
        # Bent coordinates make every circle drawn below an irregular, organic outline.
        bend_x, bend_y = self.flat(_noise(4, 2), 100), self.flat(_noise(4, 2), 100)
        self.x, self.y = self.x + 0.06 * bend_x, self.y + 0.06 * bend_y
        pallor = rng.normal(1, 0.1)
        self.tissue = f32(look.tissue) * f32([1, pallor, pallor * rng.normal(1, 0.06)])
        self.albedo = np.full((height, width, 3), self.tissue)
        self.light = np.ones((height, width), np.float32)
        self.gloss = np.ones_like(self.light)
        self.mask = np.zeros_like(self.light)
        self.relief = 0.12 * self.flat(_noise(4, 1), 70)
        self.rings: list[tuple[Point, float, Array]] = []  # folds, nearest first: middle, radius, what is behind
        self.look_along((0.0, 0.0))

    def look_along(self, lumen: Point) -> None:
        """Lay tube coordinates around the lumen: ``radius``, ``turn`` (0..1) and ``depth`` (log perspective)."""
        self.radius, angle = cv2.cartToPolar(self.x - lumen[0], self.y - lumen[1])
        self.turn = angle / (2 * math.pi)
        self.depth = np.log(self.radius + 0.06) / (-2 * math.pi)

    def flat(self, texture: Array, texels: float) -> Array:
        """The texture laid flat on the scene at a random place, ``texels`` to a scene unit."""
        coarse = self._sample(texture, self.x[::2, ::2] * texels, self.y[::2, ::2] * texels)
        return f32(cv2.resize(coarse, self.x.shape[::-1]))

    def wall(self, texture: Array, tiles: int) -> Array:
        """The texture wrapped around the gut wall at a random place, ``tiles`` to a turn."""
        return self._sample(texture, self.turn * float(tiles * TILE), self.depth * float(tiles * TILE))

    def _sample(self, texture: Array, u: Array, v: Array) -> Array:
        u, v = u + self.rng.uniform(0, TILE), v + self.rng.uniform(0, TILE)
        return f32(cv2.remap(texture, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP))

    def disc(self, centre: Point, radius: float, aspect: float = 1.0, tilt: float = 0.0) -> Array:
        """Distance from ``centre`` as a share of an ellipse's radius: below 1 inside."""
        x, y = self.x - centre[0], self.y - centre[1]
        cos, sin = math.cos(tilt) / radius, math.sin(tilt) / radius
        return f32(cv2.magnitude(cos * x + sin * y, (cos * y - sin * x) / aspect))

    def cover(self, inside: Array, softness: float = 1.5) -> Array:
        """Opacity 0..1 of where ``inside`` (scene units) is positive; its edge is ``softness`` % of the height."""
        return np.clip(inside * (50 / softness) + 0.5, 0, 1)

    def tint(self, opacity: Array, colour: Colour | Array) -> None:
        self.albedo += opacity[..., None] * (f32(colour) - self.albedo)

    def point(self, spread: float) -> Point:
        """A random point, at most ``spread`` from the middle in x and in y."""
        return self.rng.uniform(-spread, spread), self.rng.uniform(-spread, spread)


def _beside(point: Point, distance: float, heading: float) -> Point:
    return point[0] + distance * math.cos(heading), point[1] + distance * math.sin(heading)


# --- tissue -------------------------------------------------------------------------------------------------


def _mucosa(s: Scene, vessels: float, wet: float = 1.0) -> None:
    """Mottled, wet, vessel-covered surface of the gut wall."""
    mottle = s.wall(_noise(6, 4), 1)
    s.relief += 0.004 * s.wall(_noise(10, 4), 3) * np.minimum(s.radius + 0.1, 1.2)
    s.gloss *= np.clip(wet * (0.2 + 0.6 * s.wall(_noise(6, 2), 1)), 0, 1)
    net = vessels * s.wall(_vessels(), 3)
    s.albedo *= 1 + mottle[..., None] * f32([0.02, 0.08, 0.1])
    s.albedo *= 1 - net[..., None] * f32([0.2, 0.55, 0.5])


def _folds(s: Scene, lumen: Point, count: int, smallest: float, floor: float) -> None:
    """Haustral folds, painted from the nearest to the farthest: each hides the root of the next."""
    rng = s.rng
    for k, radius in enumerate(np.geomspace(rng.uniform(0.95, 1.4), smallest, count).tolist()):
        way = (k + 1) / count
        centre = _beside((lumen[0] * way, lumen[1] * way), rng.uniform(0, 0.2 * radius), rng.uniform(0, 6.3))
        disc = s.disc(centre, radius, rng.uniform(0.75, 1.0), rng.uniform(0, math.pi))
        inside = s.cover((1 - disc) * radius, 1.2)
        heading = rng.uniform(0, 2 * math.pi)
        side = (s.x - centre[0]) * math.cos(heading) + (s.y - centre[1]) * math.sin(heading)
        side = np.clip(0.6 + 0.5 * side / radius, 0.2, 1)  # a fold is a crescent, not a full ring
        face = np.clip(1 - (disc - 1) / 0.4, 0, 1) ** 2 * side
        shadow = np.clip(1 - (1 - disc) / 0.35, 0, 1) ** 2
        level = 1 + (floor - 1) * way**0.7
        s.light *= 1 + 0.35 * face
        s.relief += 0.12 * radius * face
        s.light += inside * side * (level * (1 - 0.5 * shadow) - s.light)
        s.rings.append((centre, radius, inside))


def _colon(s: Scene, vessels: float = 1.0) -> None:
    rng = s.rng
    lumen = _beside((0, 0), rng.uniform(0.1, 1.3), rng.uniform(0, 2 * math.pi))
    s.look_along(lumen)
    _mucosa(s, vessels * s.look.vessels * rng.uniform(0.4, 1.1))
    _folds(s, lumen, int(rng.integers(3, 6)), rng.uniform(0.14, 0.3), floor=0.06)
    if rng.random() < 0.3:
        _patches(s, (0.66, 0.36, 0.07), rarity=1.7)


def _patches(s: Scene, colour: Colour, rarity: float, texels: float = 160) -> None:
    """Mucus, stool, fibrin or blood where noise exceeds ``rarity`` standard deviations."""
    excess = np.clip(s.flat(_noise(6, 5), texels / 2) - rarity, 0, 1)
    s.tint(np.minimum(1.6 * excess, 0.8), colour)
    s.relief += 0.02 * excess


def _lump(s: Scene, centre: Point, radius: float, lobes: int = 1, rough: float = 0.05) -> Array:
    """Distance to the middle of a lobed, irregular lump: below 1 inside its outline."""
    rng = s.rng
    distance = s.disc(centre, radius, rng.uniform(0.7, 1.0), rng.uniform(0, math.pi))
    for _ in range(lobes - 1):
        lobe = _beside(centre, 0.6 * radius, rng.uniform(0, 2 * math.pi))
        bud = s.disc(lobe, radius * rng.uniform(0.4, 0.65), rng.uniform(0.75, 1.0))
        share = np.clip(0.5 + 1.25 * (bud - distance), 0, 1)  # a smooth minimum: lobes melt into each other
        distance = bud + share * (distance - bud) - 0.4 * share * (1 - share)
    return distance * (1 + rough * s.flat(_noise(4, 3), 55 / radius))


def _raise(s: Scene, distance: Array, radius: float, height: float, opacity: Array) -> None:
    """Lift a lump off the wall: its dome, the light it catches and the shadow at its foot."""
    foot = np.clip(1 - np.abs(distance - 1) / 0.3, 0, 1) ** 2
    s.gloss *= 1 - foot
    away = np.clip(0.55 + 0.4 * (s.px - s.look.lamp[0]) + 0.3 * (s.py - s.look.lamp[1]), 0.15, 1)
    level, ground = (float((part * opacity).sum() / (opacity.sum() + 1)) for part in (s.light, s.relief))
    s.light += opacity * (0.55 + 0.5 * level - s.light)
    s.light *= 1 - min(0.45, 0.8 * height) * foot * away
    s.relief += opacity * np.clip(4 - 4 * distance, 0, 1) * (ground - s.relief)  # hides the folds underneath
    s.relief += opacity * height * radius * np.clip(1 - distance * distance, 0, 1) ** 0.7


def _polyp(s: Scene) -> None:
    """A sessile, pedunculated or flat polyp, perhaps half behind a fold; fills the mask."""
    rng = s.rng
    kind = rng.choice(["sessile", "sessile", "pedunculated", "flat"])
    radius = math.exp(rng.uniform(math.log(0.15), math.log(0.8)))
    centre, shown = s.point(0.6), np.ones_like(s.light)
    if centre[0] < 0 < centre[1]:  # keep clear of the scope-guide inset
        centre = (-centre[0], centre[1])
    if kind == "sessile" and radius < 0.4 and rng.random() < 0.4:  # peeps out from behind the nearest fold
        middle, reach, shown = s.rings[0]
        x, y = _beside(middle, reach - 0.5 * radius, rng.uniform(-math.pi, 0.3))
        centre = (min(max(x, -0.65), 0.65), min(max(y, -0.65), 0.65))
    lobes = 1 if kind == "flat" else int(rng.choice([1, 1, 2, 3, 5]))
    distance = _lump(s, centre, radius, lobes, rough=rng.uniform(0.02, 0.06))
    opacity = s.cover((1 - distance) * radius, 0.8) * shown
    if kind == "pedunculated":
        heading, width = rng.uniform(0, 2 * math.pi), radius * rng.uniform(0.3, 0.4)
        stalk = s.disc(_beside(centre, radius, heading), width, radius / width, heading - math.pi / 2)
        stem = s.cover((1 - stalk) * width, 0.8) * (1 - opacity)
        _raise(s, stalk, width, 0.7, stem)
        s.mask = stem
    _raise(s, distance, radius, 0.2 if kind == "flat" else rng.uniform(0.4, 0.75), opacity)
    # Its skin is that of the gut, a little redder or paler, without the vessels and with pits of its own.
    flush = rng.normal(1, 0.13)
    skin = s.tissue * f32([rng.uniform(0.95, 1.1), flush, flush * rng.normal(1, 0.07)])
    pits = s.flat(_noise(32, 2), 16 / (rng.uniform(0.12, 0.22) * radius**0.6))
    tone = rng.uniform(0.02, 0.12) * pits + 0.06 * s.flat(_noise(4, 3), 75 / radius)
    s.tint(0.92 * opacity, skin * (1 + tone[..., None] * f32([0.4, 1, 1])))
    s.relief += opacity * pits * (0.006 * radius)
    s.gloss += opacity * (0.7 - s.gloss)
    s.mask = np.maximum(s.mask, opacity)


# --- the labels ---------------------------------------------------------------------------------------------


def _polyps(s: Scene) -> None:
    _colon(s)
    _polyp(s)


def _dyed(s: Scene) -> tuple[Point, float]:
    """Colon with a cushion of blue fluid under the mucosa: its middle and radius."""
    _colon(s)
    centre, radius = s.point(0.25), s.rng.uniform(0.6, 0.85)
    cushion = _lump(s, centre, radius, lobes=2, rough=0.05)
    _raise(s, cushion, radius, 0.3, s.cover((1 - cushion) * radius, 12))
    stain = np.clip((1.2 - cushion) / 0.4, 0, 1) * np.clip(0.75 + 0.16 * s.flat(_noise(6, 5), 100), 0, 1)
    s.tint(stain, (0.07, s.rng.uniform(0.22, 0.34), s.rng.uniform(0.36, 0.46)))
    return centre, radius


def _dyed_lifted_polyp(s: Scene) -> None:
    centre, radius = _dyed(s)
    size = radius * s.rng.uniform(0.4, 0.6)
    polyp = _lump(s, centre, size, lobes=4, rough=0.05)
    opacity = s.cover((1 - polyp) * size)
    _raise(s, polyp, size, 0.5, opacity)
    pale = np.clip(0.6 + 0.2 * s.flat(_noise(6, 4), 150), 0, 1)  # dye runs into the furrows
    s.tint(opacity * pale, (0.70, 0.50, 0.30))
    s.relief += opacity * s.flat(_noise(32, 2), 90) * (0.012 * size)


def _dyed_resection_margin(s: Scene) -> None:
    centre, radius = _dyed(s)
    size = radius * s.rng.uniform(0.5, 0.65)
    wound = _lump(s, centre, size, lobes=2, rough=0.06)
    opacity = s.cover((1 - wound) * size, 2)
    fibres = np.abs(s.flat(_noise(8, 5), 175))
    s.tint(opacity, f32([0.42, 0.52, 0.58]) * (1.1 - 0.22 * fibres)[..., None])
    s.tint(opacity * s.cover(s.flat(_noise(8, 4), 175) - 1.9, 60), (0.40, 0.04, 0.03))  # oozing
    edge = np.clip(1 - np.abs(wound - 1) / 0.14, 0, 1)
    s.tint(0.5 * edge, (0.62, 0.60, 0.55))
    s.relief += size * (0.08 * edge - 0.3 * opacity * np.clip(1 - wound, 0, 1))


def _z_line(s: Scene) -> Array:
    """Pale oesophagus that meets salmon stomach; returns the height (scene units) above the jagged line."""
    rng = s.rng
    s.look_along(s.point(0.3))
    s.albedo[:] = 0.35 * s.tissue + 0.65 * f32([0.74, 0.47, 0.43])
    _mucosa(s, 0.35 * s.look.vessels)
    pleats = np.cos(s.turn * (2 * math.pi * int(rng.integers(4, 8))) + 0.8 * s.wall(_noise(4, 2), 1))
    s.relief += 0.03 * pleats * np.minimum(s.radius, 1)
    teeth = s._sample(_noise(6, 4), s.turn * TILE, np.zeros_like(s.turn))
    above = s.radius - rng.uniform(0.4, 0.62) * (1 + 0.15 * teeth)
    s.tint(s.cover(-above, 1.5), s.tissue * f32([1.0, 0.85, 0.8]))
    hole = rng.uniform(0.07, 0.16) * (1 + 0.25 * pleats)
    s.light *= np.clip((s.radius - hole) / 0.4 + 0.12, 0.05, 1)
    return above


def _esophagitis(s: Scene) -> None:
    above, rng = _z_line(s), s.rng
    ragged = 0.03 * s.wall(_noise(8, 4), 1)
    for _ in range(rng.integers(4, 8)):
        length, width = rng.uniform(0.25, 0.6), rng.uniform(0.05, 0.1)
        beside = np.abs((s.turn - rng.random() + 0.5) % 1 - 0.5) * (2 * math.pi) * s.radius + ragged
        streak = np.minimum(width * np.clip(1 - above / length, 0, 1) - beside, above + 0.04)
        s.tint(0.8 * s.cover(streak, 3), (0.58, 0.09, 0.07))
        s.tint(0.5 * s.cover(streak - 0.65 * width, 3), (0.75, 0.62, 0.45))


def _pylorus(s: Scene) -> None:
    rng = s.rng
    centre, size = s.point(0.35), rng.uniform(0.13, 0.24)
    s.look_along(centre)
    s.albedo[:] = 0.6 * s.tissue + 0.4 * f32([0.78, 0.42, 0.36])
    _mucosa(s, 0.08, wet=1.3)
    hole = s.disc(centre, size, rng.uniform(0.8, 1.0), rng.uniform(0, math.pi))
    wrinkles = np.cos(s.turn * (2 * math.pi * int(rng.integers(7, 12))) + s.wall(_noise(4, 2), 1))
    s.relief += 0.012 * wrinkles * np.clip(1 - np.abs(hole - 1.6), 0, 1)
    for ring, width in ((1.3, 0.6), (rng.uniform(2.2, 3.0), 0.9), (rng.uniform(3.8, 4.8), 1.1)):
        s.relief += 0.16 * size * np.clip(1 - np.abs(hole - ring) / width, 0, 1) ** 2
    s.light *= 0.75 + 0.25 * np.minimum(s.radius, 1)
    s.light *= 1 - 0.95 * s.cover((1 - hole) * size, 3)


def _cecum(s: Scene) -> None:
    rng = s.rng
    orifice, tilt = s.point(0.3), rng.uniform(0, math.pi)
    s.look_along(orifice)
    _mucosa(s, 0.8 * s.look.vessels)
    _folds(s, orifice, 3, 0.42, floor=0.75)
    whorl = s.disc(orifice, 0.16, 0.75, tilt)
    for ring in (1.0, 1.8):
        s.relief += 0.014 * np.clip(1 - np.abs(whorl - ring) / 0.4, 0, 1) ** 2
    slit = s.disc(orifice, 0.1, rng.uniform(0.25, 0.5), tilt)
    s.light *= 1 - 0.85 * s.cover((1 - slit) * 0.05, 2)
    _patches(s, (0.62, 0.34, 0.06), rarity=1.2)


def _colitis(s: Scene) -> None:
    _colon(s, vessels=0.1)
    grain = s.wall(_noise(32, 3), 3)
    s.relief += 0.004 * grain * np.minimum(s.radius, 1)
    s.albedo *= f32([0.95, 0.7, 0.7]) * (1 + 0.1 * grain[..., None] * f32([0.3, 1, 1]))
    _patches(s, (0.55, 0.09, 0.07), rarity=1.1, texels=420)
    _patches(s, (0.45, 0.05, 0.04), rarity=1.4, texels=900)
    _patches(s, (0.74, 0.62, 0.38), rarity=1.0, texels=240)


PAINTERS: dict[str, Callable[[Scene], object]] = {
    "dyed-lifted-polyps": _dyed_lifted_polyp,
    "dyed-resection-margins": _dyed_resection_margin,
    "esophagitis": _esophagitis,
    "normal-cecum": _cecum,
    "normal-pylorus": _pylorus,
    "normal-z-line": _z_line,
    "polyps": _polyps,
    "ulcerative-colitis": _colitis,
    HEALTHY: _colon,
}
