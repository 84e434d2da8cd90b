"""Charts as inline SVG: numbers in, markup out. Colours come from the page's style sheet: they follow light and dark.

Sizes are in SVG units: a chart is :data:`WIDTH` wide, and about as many pixels wide on a phone and on a desk.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from fedkvasir.report.tables import MINUS, Estimate, bracket, three_decimals

WIDTH = 400
DASHES = ("", "7 3", "2 3", "9 3 2 3")
COLOURS = 6
"""Line colours in the style sheet (``line-0`` ...), none of them the holdout's. Four dashes and six colours together
tell twelve lines apart, for eyes that do not see the colours too."""
ROW_PITCH, MARK_PITCH, MARK_Y = 46, 16, 29
"""Of a row with one mark, of every mark more, and of the first mark below the top of its row."""
HILL_PX = 20
RANKS_PX, LETTER_PX = 240, 7.4
"""Of the axis of ranks, and of a letter at 12 px, rather more than less."""


@dataclass(frozen=True)
class Mark:
    """A score and its 95 % interval; ``role`` is train, holdout or empty."""

    role: str
    estimate: Estimate


@dataclass(frozen=True)
class Marks:
    """A row of a chart: a center with its score, a method with two."""

    name: str
    role: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Spread:
    """The scores of a center's images: how many lie in each of equal bins from 0 to 1, and their quartiles."""

    name: str
    role: str
    counts: tuple[int, ...]
    quartiles: tuple[float, float, float]


@dataclass(frozen=True)
class Reliability:
    """How often a classifier is right where it is how sure, in equal bins of confidence from 0 to 1."""

    name: str
    role: str
    error: float
    """Expected calibration error."""
    calibrated: float
    """What it would be of a calibrated network on so few images."""
    bins: tuple[tuple[int, float, float], ...]
    """(images, confidence, accuracy), the means of a bin; NaN where it is empty."""


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


def estimates_chart(
    rows: Sequence[Marks], title: str, axis: Sequence[float] = (), means: Sequence[tuple[str, Mark]] = ()
) -> Markup:
    """Marks with their intervals, a row a name; upright lines at ``means``. axis: ticks; as the values need them."""
    marks = [*(mark for row in rows for mark in row.marks), *(mark for _, mark in means)]
    ends = [end for mark in marks for end in mark.estimate if math.isfinite(end)]
    if not ends:
        return Markup("")
    ticks = axis or _ticks(min(ends), max(ends))
    left, right, top = 8, WIDTH - 52, 6 + 18 * len(means)

    def x(value: float) -> float:
        return left + (value - ticks[0]) / (ticks[-1] - ticks[0]) * (right - left)

    parts, y = [], float(top)
    for row in rows:
        parts.append(_text(left, y + 13, row.name, f"name {row.role}"))
        for mark in row.marks:
            at = y + MARK_Y
            parts.append(f'<line class="track" x1="{left}" x2="{right}" y1="{at:g}" y2="{at:g}"/>')
            if math.isfinite(mark.estimate.low):
                low, high = x(mark.estimate.low), x(mark.estimate.high)
                parts.append(
                    f'<path class="interval {mark.role}" d="M{low:.1f} {at:g}H{high:.1f}M{low:.1f} {at - 4:g}v8'
                    f'M{high:.1f} {at - 4:g}v8"/>'
                )
            if math.isfinite(mark.estimate.value):
                parts.append(marker(x(mark.estimate.value), at, mark.role))
            parts.append(_text(WIDTH - 2, at + 4, three_decimals(mark.estimate.value), "value", "end"))
            y += MARK_PITCH
        y += ROW_PITCH - MARK_PITCH
    grid = [f'<line class="grid" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="{top}" y2="{y:g}"/>' for t in ticks]
    # The upper label's line runs past the lower label: that one stands on the other side of its own line.
    placed = sorted(
        ((mark.estimate.value - ticks[0]) / (ticks[-1] - ticks[0]), name, mark.role)
        for name, mark in means
        if math.isfinite(mark.estimate.value)
    )
    if at_right := bool(placed) and placed[-1][0] > 0.8:
        placed.reverse()
    for index, (place, name, role) in enumerate(placed):
        at, label = left + place * (right - left), 14 + 18 * index
        anchor = _anchor(place, 0.2, 0.8) if index == 0 else _anchor(place, 0.2, 0.2) if at_right else "start"
        grid.append(f'<line class="mean {role}" x1="{at:.1f}" x2="{at:.1f}" y1="{label + 4}" y2="{y:g}"/>')
        grid.append(_text(at, label, name, f"label {role}", anchor))
    told = "; ".join(f"{row.name} {', '.join(_told(mark) for mark in row.marks)}" for row in rows)
    return _svg(y + 40, f"{title}: {told}.", [*grid, *parts, *_axis(ticks, x, y, title)])


def spreads_chart(spreads: Sequence[Spread], title: str) -> Markup:
    """A hill a row: how many of a center's images have which score, with the median and the quartiles below it."""
    left, right = 8, WIDTH - 52
    ticks = (0, 0.25, 0.5, 0.75, 1)

    def x(value: float) -> float:
        return left + value * (right - left)

    parts, y = [], 6.0
    for spread in spreads:
        base, width = y + ROW_PITCH - 8, (right - left) / len(spread.counts)
        parts.append(_text(left, y + 13, spread.name, f"name {spread.role}"))
        parts.append(f'<line class="track" x1="{left}" x2="{right}" y1="{base:g}" y2="{base:g}"/>')
        if any(spread.counts):
            heights = [HILL_PX * count / max(spread.counts) for count in spread.counts]
            steps = "".join(f"V{base - height:.1f}h{width:.2f}" for height in heights)
            parts.append(f'<path class="hill {spread.role}" d="M{left} {base:g}{steps}V{base:g}z"/>')
            low, middle, high = map(x, spread.quartiles)
            bar = f'x1="{low:.1f}" x2="{high:.1f}" y1="{base:g}" y2="{base:g}"'
            parts.append(f'<line class="whisker {spread.role}" {bar}/>')
            parts.append(f'<path class="median {spread.role}" d="M{middle:.1f} {base - 5:g}v10"/>')
        parts.append(_text(WIDTH - 2, base + 4, three_decimals(spread.quartiles[1]), "value", "end"))
        y += ROW_PITCH
    grid = [f'<line class="grid" x1="{x(t):.1f}" x2="{x(t):.1f}" y1="6" y2="{y:g}"/>' for t in ticks]
    told = "; ".join(f"{spread.name}: half between {_between(spread.quartiles)}" for spread in spreads)
    return _svg(y + 40, f"{title}: {told}.", [*grid, *parts, *_axis(ticks, x, y, title)])


def reliability_chart(curves: Sequence[Reliability]) -> Markup:
    """Accuracy against confidence, a line a curve, with the diagonal where both are equal; below, images by bin.

    DeGroot and Fienberg, The Comparison and Evaluation of Forecasters, The Statistician 32, 1983; as in Guo et al.,
    On Calibration of Modern Neural Networks, ICML 2017, figure 1, with a bin's mean confidence instead of its middle.
    """
    left, right, top, bottom, foot = 42, WIDTH - 12, 24, 264, 334
    ticks, most = (0, 0.25, 0.5, 0.75, 1), max(images for curve in curves for images, _, _ in curve.bins)

    def x(value: float) -> float:
        return left + value * (right - left)

    def y(value: float) -> float:
        return bottom - value * (bottom - top)

    parts = [_text(left, top - 9, "accuracy", "tick"), _text(left, bottom + 20, "images", "tick")]
    for tick in ticks:
        parts.append(f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="{top}" y2="{foot}"/>')
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>')
        parts.append(_text(left - 7, y(tick) + 4, f"{tick:g}", "tick", "end"))
    parts.append(f'<path class="ideal" d="M{left} {bottom}L{right} {top}"/>')
    parts.append(f'<line class="track" x1="{left}" x2="{right}" y1="{foot}" y2="{foot}"/>')
    parts += [_text(left - 7, at, text, "tick", "end") for at, text in ((foot - 36, f"{most:,}"), (foot + 4, "0"))]
    for place, curve in enumerate(curves):
        width = (right - left) / len(curve.bins)
        bar = 0.8 * width / len(curves)
        for index, (images, _, _) in enumerate(curve.bins):
            height, start = 40 * images / most, left + width * (index + 0.1) + bar * place
            if images:
                parts.append(
                    f'<path class="hill {curve.role}" d="M{start:.1f} {foot}v-{height:.1f}h{bar:.1f}V{foot}z"/>'
                )
        points = [(x(confidence), y(accuracy)) for images, confidence, accuracy in curve.bins if images]
        path = " ".join(f"{across:.1f},{up:.1f}" for across, up in points)
        dash = "5 4" if curve.role == "holdout" else ""
        parts.append(f'<polyline class="line {curve.role}" stroke-dasharray="{dash}" points="{path}"/>')
        parts += [marker(across, up, curve.role) for across, up in points]
    told = "; ".join(f"{curve.name} {three_decimals(curve.error)}" for curve in curves)
    description = f"Accuracy against confidence. Expected calibration error: {told}."
    return _svg(foot + 40, description, [*parts, *_axis(ticks, x, foot, "confidence")])


def critical_difference_chart(
    ranks: Mapping[str, float], critical_difference: float, cliques: Sequence[Sequence[str]]
) -> Markup:
    """Average ranks on an axis, best at the left; a bar joins methods not shown to differ (Demsar 2006, figure 1).

    Drawn in the colour of the text around it, so that the chart is whole in a file of its own too.
    """
    labels = {name: f"{short(name, 24)} {rank:.2f}" for name, rank in ranks.items()}
    names, half = list(ranks), (len(ranks) + 1) // 2
    # From the outside in, so that no line crosses another.
    sides = names[:half], names[: half - 1 : -1]
    left, right = (LETTER_PX * max(len(labels[name]) for name in side) + 10 for side in sides)
    axis_y, width = 58, left + RANKS_PX + right

    def x(rank: float) -> float:
        return left + (rank - 1) / (len(names) - 1) * RANKS_PX

    parts = [_stroke(f"M{left:.1f} {axis_y}h{RANKS_PX}", 1.2)]
    for place in range(1, len(names) + 1):
        parts.append(_stroke(f"M{x(place):.1f} {axis_y}v-6", 1.2))
        parts.append(_plain(x(place), axis_y - 11, str(place), "middle"))
    shown = min(x(1 + critical_difference) - left, RANKS_PX)
    end = "v-4v8" if shown < RANKS_PX else ""
    parts.append(_stroke(f"M{left:.1f} 20v8v-4h{shown:.1f}{end}", 1.2))
    parts.append(_plain(left, 13, f"critical difference {critical_difference:.2f}", "start"))
    for index, clique in enumerate(cliques):
        low, high = x(ranks[clique[0]]), x(ranks[clique[-1]])
        parts.append(_stroke(f"M{low - 3:.1f} {axis_y + 9 + 7 * index}H{high + 3:.1f}", 4))
    first_y = axis_y + 7 * len(cliques) + 20
    for side, edge, gap, anchor in zip(sides, (left - 4, width - right + 4), (-4, 4), ("end", "start"), strict=True):
        for row, name in enumerate(side):
            y = first_y + 20 * row
            parts.append(_stroke(f"M{x(ranks[name]):.1f} {axis_y}V{y}H{edge:.1f}", 1))
            parts.append(_plain(edge + gap, y + 4, labels[name], anchor))
    told = ", ".join(f"{name} {rank:.2f}" for name, rank in ranks.items())
    joined = "; ".join(" and ".join(clique) for clique in cliques) or "none"
    description = f"Average ranks, 1 is best: {told}. Critical difference {critical_difference:.2f}. Joined: {joined}."
    return _svg(first_y + 20 * (half - 1) + 12, description, parts, width)


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


def standalone(chart: Markup) -> str:
    """A chart that needs no style sheet, as a file of its own."""
    return str(chart).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" ', 1) + "\n"


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


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, four or five of them, that enclose low..high."""
    raw_step = (high - low or abs(high) or 1.0) / 4
    power = 10.0 ** math.floor(math.log10(raw_step))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw_step * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, max(last, first + 1) + 1)]


def _axis(ticks: Sequence[float], x: Callable[[float], float], y: float, title: str) -> list[str]:
    """Numbers under an axis, and what they are."""
    span = ticks[-1] - ticks[0]
    numbers = [
        _text(x(tick), y + 17, f"{tick:.6g}".replace("-", MINUS), "tick", _anchor((tick - ticks[0]) / span, 0.01, 0.99))
        for tick in ticks
    ]
    return [*numbers, _text((x(ticks[0]) + x(ticks[-1])) / 2, y + 34, title, "tick", "middle")]


def _told(mark: Mark) -> str:
    value, low, high = mark.estimate
    role = f"({mark.role}) " if mark.role else ""
    return f"{role}{three_decimals(value)} {bracket(low, high)}".rstrip()


def _between(quartiles: tuple[float, float, float]) -> str:
    low, middle, high = map(three_decimals, quartiles)
    return f"{low} and {high}, median {middle}"


def short(name: str, longest: int) -> str:
    """Cut in the middle: what tells names apart stands at either end."""
    return name if len(name) <= longest else f"{name[: longest // 2]}…{name[longest // 2 + 1 - longest :]}"


def _stroke(path: str, width: float) -> str:
    return f'<path d="{path}" fill="none" stroke="currentColor" stroke-width="{width:g}"/>'


def _plain(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" text-anchor="{anchor}">{escape(text)}</text>'


def _anchor(place: float, low: float, high: float) -> str:
    """Text near an edge grows away from it."""
    return "start" if place < low else "end" if place > high else "middle"


def _text(x: float, y: float, text: str, style: str, anchor: str = "start") -> str:
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _svg(height: float, description: str, parts: Sequence[str], width: float = WIDTH) -> Markup:
    # A chart wider than a phone scrolls before its letters become too small.
    style = f' style="min-width: {0.8 * width:.0f}px"' if width > WIDTH else ""
    told = f'role="img" aria-label="{escape(description)}"'
    head = f'<svg class="chart"{style} viewBox="0 0 {width:g} {height:g}" {told}>'
    return Markup(head + "".join(parts) + "</svg>")
