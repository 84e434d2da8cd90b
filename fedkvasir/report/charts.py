"""Charts as inline SVG: numbers in, markup out. Colours come from the page's style sheet: they follow light and dark.

Sizes are in SVG units: a chart is :data:`WIDTH` wide, and about as many pixels wide on a phone and on a desk.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

WIDTH = 400
DASHES = ("", "7 3", "2 3", "9 3 2 3")
COLOURS = 6
"""Line colours in the style sheet (``line-0`` ...), none of them the holdout's. Four dashes and six colours together
tell twelve lines apart, for eyes that do not see the colours too."""


@dataclass(frozen=True)
class Dot:
    """One center's score, 0..1, and the quartiles of its images where images have scores of their own."""

    center: str
    role: str
    score: float
    quartiles: tuple[float, float] | None


@dataclass(frozen=True)
class Line:
    """One center over rounds; ``style`` is a class of the style sheet."""

    name: str
    style: str
    dash: str
    points: tuple[tuple[int, float], ...]
    """(round, value), finite values only."""


def line_style(index: int, role: str) -> tuple[str, str]:
    """(style, dash) of the index-th center of its role; holdouts share one colour that nothing else has."""
    return ("holdout" if role == "holdout" else f"line-{index % COLOURS}"), DASHES[index % len(DASHES)]


def centers_chart(dots: Sequence[Dot], metric: str, seen: float, unseen: float) -> Markup:
    """A row a center on an axis from 0 to 1: its score, the quartiles of its images, the means of both roles."""
    left, right, top, pitch = 8, WIDTH - 52, 42, 38
    bottom = top + pitch * len(dots) + 6

    def x(value: float) -> float:
        return left + value * (right - left)

    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(_text(x(tick), bottom + 17, f"{tick:g}", "tick", _anchor(tick, 0.01, 0.99)))
    for name, role, mean, y in (("seen", "train", seen, 14), ("unseen", "holdout", unseen, 32)):
        if math.isfinite(mean):
            parts.append(
                f'<line class="mean {role}" x1="{x(mean):.1f}" x2="{x(mean):.1f}" y1="{y + 4}" y2="{bottom}"/>'
            )
            parts.append(_text(x(mean), y, f"{name} {mean:.3f}", f"label {role}", _anchor(mean, 0.2, 0.8)))
    for index, dot in enumerate(dots):
        y = top + pitch * index + 28
        parts.append(_text(left, y - 10, dot.center, f"name {dot.role}"))
        parts.append(f'<line class="track" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
        if dot.quartiles:
            low, high = dot.quartiles
            parts.append(f'<line class="whisker {dot.role}" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y}" y2="{y}"/>')
        if math.isfinite(dot.score):
            parts.append(marker(x(dot.score), y, dot.role))
        parts.append(_text(WIDTH - 2, y + 4, three_decimals(dot.score), "value", "end"))
    parts.append(_text((left + right) / 2, bottom + 34, metric, "tick", "middle"))
    told = "; ".join(f"{dot.center} ({dot.role}) {three_decimals(dot.score)}" for dot in dots)
    return _svg(bottom + 40, f"{metric} by center: {told}.", parts)


def rounds_chart(lines: Sequence[Line], title: str, best: int, best_label: str) -> Markup:
    """A line a center over rounds, with the best round marked; empty where there is nothing to draw."""
    points = [point for line in lines for point in line.points]
    if not points:
        return Markup("")
    left, right, top, bottom = 42, WIDTH - 12, 24, 224
    values = _ticks(min(value for _, value in points), max(value for _, value in points))
    first, last = min(number for number, _ in points), max(number for number, _ in points)
    # A run of one round still has an axis: its point stands in the middle.
    start, end = (first, last) if last > first else (first - 1, last + 1)

    def x(number: float) -> float:
        return left + (number - start) / (end - start) * (right - left)

    def y(value: float) -> float:
        return bottom - (value - values[0]) / (values[-1] - values[0]) * (bottom - top)

    parts = []
    decimals = max(0, -math.floor(math.log10(values[1] - values[0])))
    for value in values:
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(_text(left - 7, y(value) + 4, f"{value:.{decimals}f}", "tick", "end"))
    numbers = range(first, last + 1) if last - first <= 8 else [round(tick) for tick in _ticks(first, last)]
    parts += [
        _text(x(number), bottom + 18, str(number), "tick", "middle") for number in numbers if first <= number <= last
    ]
    parts.append(_text((left + right) / 2, bottom + 36, "round", "tick", "middle"))
    if first <= best <= last:
        place = (best - start) / (end - start)
        parts.append(f'<line class="best" x1="{x(best):.1f}" x2="{x(best):.1f}" y1="{top - 6}" y2="{bottom}"/>')
        parts.append(_text(x(best), top - 11, f"{best_label} {best}", "label", _anchor(place, 0.2, 0.8)))
    for line in lines:
        path = " ".join(f"{x(number):.1f},{y(value):.1f}" for number, value in line.points)
        parts.append(f'<polyline class="line {line.style}" stroke-dasharray="{line.dash}" points="{path}"/>')
        if len(line.points) <= 24:
            parts += [
                f'<circle class="point {line.style}" cx="{x(number):.1f}" cy="{y(value):.1f}" r="2.6"/>'
                for number, value in line.points
            ]
    ends = "; ".join(f"{line.name} {line.points[-1][1]:.3f}" for line in lines if line.points)
    return _svg(bottom + 42, f"{title}, rounds {first} to {last}. At the end: {ends}.", parts)


def swatch(line: Line) -> Markup:
    """A short piece of a line, for the legend."""
    return Markup(
        '<svg class="swatch" viewBox="0 0 30 10" width="30" height="10" aria-hidden="true">'
        '<line class="line {style}" stroke-dasharray="{dash}" x1="0" x2="30" y1="5" y2="5"/></svg>'
    ).format(style=line.style, dash=line.dash)


def marker(x: float, y: float, role: str) -> str:
    """A filled circle for a center that trained, an open diamond for a holdout: told apart without colour."""
    if role == "holdout":
        return f'<path class="dot holdout" d="M{x:.1f} {y - 7.5:.1f}l7.5 7.5l-7.5 7.5l-7.5 -7.5z"/>'
    return f'<circle class="dot {role}" cx="{x:.1f}" cy="{y:.1f}" r="5.5"/>'


def key(role: str) -> Markup:
    """The marker of a role, for tables and legends."""
    return Markup(
        f'<svg class="key" viewBox="0 0 18 18" width="14" height="14" aria-hidden="true">{marker(9, 9, role)}</svg>'
    )


def three_decimals(value: float) -> str:
    """Three decimals with a true minus sign; a dash where there is no value."""
    return f"{value:.3f}".replace("-", "\u2212") if math.isfinite(value) else "–"


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, four or five of them, that enclose low..high."""
    raw_step = (high - low or abs(high) or 1.0) / 4
    power = 10.0 ** math.floor(math.log10(raw_step))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw_step * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def _anchor(place: float, low: float, high: float) -> str:
    """Text near an edge grows away from it."""
    return "start" if place < low else "end" if place > high else "middle"


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(height: float, description: str, parts: Sequence[str]) -> Markup:
    head = f'<svg class="chart" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(description)}">'
    return Markup(head + "".join(parts) + "</svg>")
