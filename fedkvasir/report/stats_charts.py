"""The charts of the statistics page, each drawn with matplotlib into a PNG.

Every chart is :data:`COLUMN_IN` wide, so that its letters are as large as the page's on a phone and on a desk. Centers
come as a dictionary center -> role, in the order in which they are drawn; holdouts have a colour and a diamond.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fedkvasir.data.partition import SIZES, size_bins
from fedkvasir.report.charts import short

if TYPE_CHECKING:  # matplotlib takes a while to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN_IN, DPI = 5.2, 200
INK, SOFT, RULE, FAINT, TRAIN, HOLDOUT = "#1c2430", "#556070", "#dfe3e8", "#d3d8df", "#0072b2", "#b84a00"
SPLITS = {"train": "#0072b2", "val": "#56b4e9", "test": "#e69f00"}
CHANNELS = {"R": ("red", "#c33c00", "o"), "G": ("green", "#00845f", "s"), "B": ("blue", "#0072b2", "^")}
LABELS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8f7d00", "#3b4252")
"""Okabe and Ito's colours, told apart without red and green; the yellow darkened to be seen on white."""
SIZE_COLOURS = ("#c9ced6", "#9ecae1", "#4292c6", "#08427e")
OTHERS, NO_MASK = "#c9ced6", "#eceef1"
OUTLINE = "#00e676"
STYLE = {
    "font.size": 10, "axes.labelsize": 10, "xtick.labelsize": 9, "ytick.labelsize": 10, "legend.fontsize": 9,
    "text.parse_math": False, "text.color": INK, "axes.labelcolor": SOFT, "xtick.color": SOFT, "ytick.color": INK,
    "axes.edgecolor": RULE, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True,
    "grid.color": RULE, "grid.linewidth": 0.8, "xtick.major.size": 0, "ytick.major.size": 0, "legend.frameon": False,
    "figure.constrained_layout.use": True,
}  # fmt: skip
"""matplotlib's settings, on top of its defaults; names of centers are never formulas."""


@dataclass(frozen=True)
class Chart:
    """A PNG of the page."""

    file: str
    caption: str
    """How to read it, in a sentence; for a sample grid, whose it is."""
    alt: str
    columns: float = 1.0
    """How wide it is, in columns of the page; the page scrolls where it is wider than the screen."""


@dataclass(frozen=True)
class Looks:
    """What the pictures and masks of the centers look like."""

    colours: pd.DataFrame
    """One row a picture looked at: ``center``, mean ``R``, ``G``, ``B`` (0..255), CIELAB ``L``, ``a``, ``b``."""
    places: dict[str, np.ndarray]
    """Center -> mean of its masks that are not empty, (S, S) in 0..1; centers without one are absent."""


def area_share(samples: pd.DataFrame) -> pd.Series:
    """Foreground as a share of the image, of the samples that have any."""
    found = samples[samples["area_px"] > 0]
    return found["area_px"] / (found["width"] * found["height"])


def evenly(positions: np.ndarray, most: int) -> np.ndarray:
    """At most so many of them, evenly spaced."""
    return positions[np.linspace(0, len(positions) - 1, min(len(positions), most)).round().astype(int)]


# ---- how many


def splits(folder: Path, samples: pd.DataFrame, centers: dict[str, str]) -> Chart:
    """Train, validation and test by center."""
    told = _bars(folder / "splits.png", samples["center"], samples["split"], SPLITS, centers)
    return Chart("splits.png", "The length of a piece is how many images train, validate or test.", told)


def holdings(folder: Path, samples: pd.DataFrame, centers: dict[str, str], finding: str) -> Chart:
    """Classes by center, the most frequent ones; where there are no labels, how large the finding is."""
    if samples["label"].notna().any():
        frequent = list(samples["label"].value_counts().index)
        kept = frequent if len(frequent) <= len(LABELS) else frequent[: len(LABELS) - 1]
        rest = f"{len(frequent) - len(kept)} other classes"
        what = samples["label"].where(samples["label"].isin(kept), rest)
        colours = dict(zip(sorted(kept), LABELS, strict=False)) | {rest: OTHERS}
        text = "The length of a piece is how many images of the class the center holds"
        text += "." if len(kept) == len(frequent) else f"; the {len(kept)} most frequent classes have a colour."
    else:
        nothing = f"no {finding}"
        what = size_bins(samples["area_px"]).replace(SIZES[0], nothing).where(samples["area_px"].notna(), "no mask")
        colours = dict(zip((nothing, *SIZES[1:]), SIZE_COLOURS, strict=True)) | {"no mask": NO_MASK}
        text = f"The length of a piece is how many images the center holds with a {finding} of that area."
    told = _bars(folder / "holdings.png", samples["center"], what, colours, centers)
    return Chart("holdings.png", text, told)


def classes(folder: Path, samples: pd.DataFrame, centers: dict[str, str]) -> Chart:
    """A matrix of classes by centers."""
    from matplotlib.colors import PowerNorm
    from matplotlib.figure import Figure

    counts = pd.crosstab(samples["label"], samples["center"])[list(centers)]
    share = (counts / counts.sum()).to_numpy()
    width = max(COLUMN_IN, 2.4 + 0.46 * len(centers))
    figure = Figure(figsize=(width, 0.9 + 0.27 * len(counts)))
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", norm=PowerNorm(0.5, 0, 1), aspect="auto")
    for (row, column), count in np.ndenumerate(counts.to_numpy()):
        ink = "white" if share[row, column] > 0.3 else INK if count else SOFT
        axes.text(column, row, f"{count:,}" if count else "·", ha="center", va="center", color=ink, fontsize=9)
    slanted = len(centers) > 4
    axes.set_yticks(range(len(counts)), [short(name, 30) for name in counts.index])
    axes.set_xticks(range(len(centers)), [_marked(*center) for center in centers.items()], fontsize=10)
    axes.xaxis.tick_top()
    for label, role in zip(axes.get_xticklabels(), centers.values(), strict=True):
        label.set(color=_ink(role), ha="left" if slanted else "center", rotation=40 if slanted else 0)
        label.set_rotation_mode("anchor")
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(1, len(centers)) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, len(counts)) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="minor", size=0)
    _save(figure, folder / "classes.png")
    text = "A number counts images; the darker, the larger the share of the class within its center."
    return Chart("classes.png", text, _told(counts.T), width / COLUMN_IN)


def _bars(path: Path, center: pd.Series, what: pd.Series, colours: dict[str, str], centers: dict[str, str]) -> str:
    """Stacked bars, a row a center, its total at the end; what nobody holds is left out. Returns it in words."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    counts = pd.crosstab(center, what).reindex(index=list(centers), columns=list(colours), fill_value=0)
    counts = counts.loc[:, counts.any()]
    columns = 3 if len(counts.columns) <= 3 else 2
    lines = -(-len(counts.columns) // columns)
    figure = Figure(figsize=(COLUMN_IN, 0.55 + 0.2 * lines + 0.34 * len(centers)))
    axes = figure.subplots()
    total = np.zeros(len(counts))
    for name in counts.columns:
        piece = {"color": colours[name], "edgecolor": "white", "linewidth": 0.7, "label": name}
        axes.barh(range(len(counts)), counts[name], 0.7, total, **piece)
        total += counts[name].to_numpy()
    for row, length in enumerate(total):
        axes.text(length + 0.012 * total.max(), row, f"{length:,.0f}", va="center", fontsize=9, color=SOFT)
    _rows_of_centers(axes, centers)
    axes.set(xlim=(0, 1.13 * total.max()), ylim=(len(counts) - 0.5, -0.5), xlabel="images")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    figure.legend(loc="outside upper left", ncols=columns, handlelength=1, handleheight=1, columnspacing=1.2)
    _save(figure, path)
    return _told(counts)


# ---- how large, and where


def sizes(folder: Path, samples: pd.DataFrame, centers: dict[str, str]) -> Chart:
    """Width against height, a panel a center."""
    figure, panels = _panels(len(centers), 0.8)
    found = samples.groupby(["center", "width", "height"]).size().rename("count").reset_index()
    every = found.drop_duplicates(["width", "height"])
    for axes, (center, role) in zip(panels, centers.items(), strict=True):
        own = found[found["center"] == center]
        axes.scatter(every["width"], every["height"], s=3, color=FAINT, linewidths=0)
        area = 8 + 130 * own["count"] / own["count"].sum()
        axes.scatter(own["width"], own["height"], s=area, color=_paint(role), alpha=0.5, linewidths=0)
        number = f"{len(own)} size{'s' if len(own) > 1 else ''}"
        axes.text(0.97, 0.04, number, transform=axes.transAxes, ha="right", fontsize=8.5, color=SOFT)
        _panel_title(axes, center, role)
        axes.set(xscale="log", xlim=(0.7 * every["width"].min(), 1.25 * every["width"].max()))
        axes.set(yscale="log", ylim=(0.6 * every["height"].min(), 1.35 * every["height"].max()))
        axes.minorticks_off()
        axes.set_xticks(*_ticks(every["width"]))
        axes.set_yticks(*_ticks(every["height"]))
        axes.grid()
    figure.supxlabel("width, px", fontsize=10, color=SOFT)
    figure.supylabel("height, px", fontsize=10, color=SOFT)
    _save(figure, folder / "sizes.png")
    common = found.sort_values(["count", "width", "height"], ascending=False).drop_duplicates("center")
    told = "; ".join(f"{row.center}: mostly {row.width} × {row.height}" for row in common.itertuples())
    text = "A dot is an image size, the larger the more images of the center have it; grey: sizes of all centers."
    return Chart("sizes.png", text, told)


def _ticks(sides: pd.Series) -> tuple[list[int], list[str]]:
    """The smallest and the largest side, and one between them where there is room; with their labels."""
    low, high = int(sides.min()), int(sides.max())
    middle = [int(round((low * high) ** 0.5, -1))] if high > 2.5 * low else []
    ticks = [low, *middle, high] if high > 1.25 * low else [high]
    return ticks, [str(tick) for tick in ticks]


def areas(folder: Path, samples: pd.DataFrame, centers: dict[str, str], finding: str) -> Chart:
    """How much of the image the masks take, a hill a center."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter

    figure = Figure(figsize=(COLUMN_IN, 0.8 + 0.42 * len(centers)))
    axes = figure.subplots()
    lowest = min(10.0 ** np.floor(np.log10(area_share(samples).min())), 0.1)
    bins, told = np.geomspace(lowest, 1, 41), []
    for row, (center, role) in enumerate(centers.items()):
        share, colour = area_share(samples[samples["center"] == center]), _paint(role)
        axes.axhline(row, color=RULE, linewidth=0.8)
        if share.empty:
            axes.text(lowest * 1.1, row - 0.08, "none outlined", color=SOFT, fontsize=9, va="bottom")
            continue
        height = np.histogram(share, bins)[0]
        axes.stairs(row - 0.78 * height / height.max(), bins, baseline=row, fill=True, color=colour, alpha=0.35)
        low, middle, high = share.quantile([0.25, 0.5, 0.75])
        axes.plot([low, high], [row, row], color=colour, linewidth=3, solid_capstyle="round")
        axes.plot(middle, row, "o", color=colour, markeredgecolor="white", markersize=7)
        told.append(f"{center}: median {middle:.1%} of the image")
    _rows_of_centers(axes, centers)
    axes.set(xscale="log", xlim=(lowest, 1), ylim=(len(centers) - 0.7, -0.95))
    axes.set_xlabel(f"area of the {finding}, share of the image")
    axes.xaxis.set_major_formatter(FuncFormatter(_percent))
    axes.minorticks_off()
    axes.spines["left"].set_visible(False)
    _save(figure, folder / "areas.png")
    text = f"The hill is the distribution over images that show a {finding}, the dot its median, the bar its quartiles."
    return Chart("areas.png", text, "; ".join(told))


def places(folder: Path, centers: dict[str, str], looks: Looks, finding: str) -> Chart:
    """The mean mask, a panel a center."""
    from matplotlib.ticker import FuncFormatter

    figure, panels = _panels(len(centers), 1.06)
    nowhere = np.zeros_like(next(iter(looks.places.values())))
    highest = max(place.max() for place in looks.places.values())
    for axes, (center, role) in zip(panels, centers.items(), strict=True):
        shown = axes.imshow(looks.places.get(center, nowhere), cmap="magma", vmin=0, vmax=highest)
        if center not in looks.places:
            axes.text(0.5, 0.5, "none outlined", transform=axes.transAxes, ha="center", va="center", color="white")
        _panel_title(axes, center, role)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    bar = figure.colorbar(shown, ax=panels, location="bottom", aspect=45, shrink=0.8, pad=0.02)
    bar.ax.xaxis.set_major_formatter(FuncFormatter(_percent))
    bar.set_label(f"images whose {finding} covers the place")
    bar.outline.set_visible(False)
    _save(figure, folder / "places.png")
    text = f"The mean of the masks of images that show a {finding}, each image stretched to a square."
    return Chart("places.png", text, f"Mean mask of {', '.join(looks.places)}")


# ---- what colour


def channels(folder: Path, centers: dict[str, str], looks: Looks) -> Chart:
    """Mean colour of every center, and each channel with its spread over images."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Rectangle

    rgb = looks.colours.groupby("center")[list(CHANNELS)]
    means, spreads = rgb.mean(), rgb.std(ddof=0)
    figure = Figure(figsize=(COLUMN_IN, 0.95 + 0.42 * len(centers)))
    axes = figure.subplots()
    for row, center in enumerate(centers):
        axes.add_patch(Rectangle((-26, row - 0.38), 22, 0.76, facecolor=tuple(means.loc[center] / 255), linewidth=0))
        for offset, (channel, (_, colour, mark)) in zip((-0.22, 0, 0.22), CHANNELS.items(), strict=True):
            mean, spread, y = means.loc[center, channel], spreads.loc[center, channel], row + offset
            axes.plot([mean - spread, mean + spread], [y, y], color=colour, linewidth=2, alpha=0.45)
            axes.plot(mean, y, mark, color=colour, markersize=5.5, markeredgecolor="white", markeredgewidth=0.6)
    _rows_of_centers(axes, centers)
    axes.set(xlim=(-28, 255), ylim=(len(centers) - 0.5, -0.5), xlabel="mean of the channel, 0 to 255")
    axes.set_xticks(range(0, 256, 50))
    axes.spines["left"].set_visible(False)
    handles = [Line2D([], [], color=c, marker=mark, linewidth=2, label=name) for name, c, mark in CHANNELS.values()]
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    _save(figure, folder / "channels.png")
    told = "; ".join(f"{center}: {', '.join(f'{mean:.0f}' for mean in means.loc[center])}" for center in centers)
    text = (
        "The square is the center's mean colour, a mark the mean of a channel, its line one standard deviation over "
        "images to each side."
    )
    return Chart("channels.png", text, f"Mean red, green and blue. {told}")


def hues(folder: Path, centers: dict[str, str], looks: Looks) -> Chart:
    """Images in the a*b* plane of CIELAB, a panel a center."""
    figure, panels = _panels(len(centers), 1.0)
    colours = looks.colours
    everyone = colours.iloc[evenly(np.arange(len(colours)), 1200)]
    plane = colours[["a", "b"]].to_numpy()
    middle, half = (plane.min(axis=0) + plane.max(axis=0)) / 2, max(np.ptp(plane, axis=0).max() * 0.55, 5)
    for axes, (center, role) in zip(panels, centers.items(), strict=True):
        own = colours[colours["center"] == center]
        few = own.iloc[evenly(np.arange(len(own)), 600)]
        axes.scatter(everyone["a"], everyone["b"], s=3, color=FAINT, linewidths=0)
        axes.scatter(few["a"], few["b"], s=9, c=few[list(CHANNELS)].to_numpy() / 255, linewidths=0)
        axes.plot(own["a"].mean(), own["b"].mean(), "+", color=INK, markersize=11, markeredgewidth=1.8)
        _panel_title(axes, center, role)
        axes.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half), aspect=1)
        axes.grid()
    figure.supxlabel("a* (green to red)", fontsize=10, color=SOFT)
    figure.supylabel("b* (blue to yellow)", fontsize=10, color=SOFT)
    _save(figure, folder / "hues.png")
    text = (
        "A dot is an image in its own mean colour, the cross the center's mean; grey: all centers. Centers whose "
        "clouds lie apart can be told apart by colour alone."
    )
    return Chart("hues.png", text, "Mean a* and b* of the images of each center")


# ---- samples


def grid(
    path: Path, center: str, shown: Sequence[tuple[np.ndarray, np.ndarray | None, str | None]], finding: str
) -> Chart:
    """(Picture, mask, label) of one center side by side, masks outlined."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import PlaceHolderLayoutEngine

    labelled = any(isinstance(label, str) for _, _, label in shown)
    columns, above = (3, 0.24) if labelled else (4, 0.04)
    side = COLUMN_IN / columns - 0.04
    height = -(-len(shown) // columns) * (side + above)
    # One pair of axes in inches, y downwards: much faster than one for each picture.
    figure = Figure(figsize=(COLUMN_IN, height), layout=PlaceHolderLayoutEngine(False, False))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    for index, (picture, mask, label) in enumerate(shown):
        left, top = index % columns * (side + 0.04) + 0.02, index // columns * (side + above) + above
        edges = (left, left + side, top + side, top)
        axes.imshow(picture, extent=edges, interpolation="bicubic", aspect="auto")
        if mask is not None and mask.any():
            for colour, width in (("black", 2.4), (OUTLINE, 1.3)):
                axes.contour(mask > 0, [0.5], colors=colour, linewidths=width, extent=edges, origin="upper")
        elif mask is not None:
            box = {"facecolor": "black", "alpha": 0.6, "linewidth": 0, "pad": 1.5}
            axes.text(left + 0.06, top + side - 0.06, f"no {finding}", color="white", fontsize=8, bbox=box)
        if labelled:
            axes.text(left + side / 2, top - 0.05, short(str(label), 24), ha="center", fontsize=8.5, color=SOFT)
    axes.set(xlim=(0, COLUMN_IN), ylim=(height, 0))
    _save(figure, path, 150)
    return Chart(path.name, center, f"{len(shown)} images of {center}")


# ---- what charts share


def _panels(count: int, aspect: float) -> "tuple[Figure, list[Axes]]":
    """``count`` panels, at most three in a row, sharing their axes; ``aspect`` is a panel's height over its width."""
    from matplotlib.figure import Figure

    columns = min(count, 3)
    rows = -(-count // columns)
    figure = Figure(figsize=(COLUMN_IN, 0.45 + rows * (COLUMN_IN / max(columns, 2) * aspect + 0.1)))
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axes in panels[count:]:
        axes.remove()
    for axes in panels[:count]:
        axes.tick_params(labelsize=9, labelcolor=SOFT)
    for axes in panels[max(count - columns, 0) : count]:
        axes.tick_params(labelbottom=True)
    return figure, list(panels[:count])


def _panel_title(axes: "Axes", center: str, role: str) -> None:
    axes.set_title(_marked(center, role), loc="left", fontsize=10, color=_ink(role), pad=4)


def _rows_of_centers(axes: "Axes", centers: dict[str, str]) -> None:
    """Centers down the side, in order, and lines to read values by."""
    axes.set_yticks(range(len(centers)), [_marked(*center) for center in centers.items()])
    for label, role in zip(axes.get_yticklabels(), centers.values(), strict=True):
        label.set_color(_ink(role))
    axes.grid(axis="x")


def _paint(role: str) -> str:
    return HOLDOUT if role == "holdout" else TRAIN


def _ink(role: str) -> str:
    return HOLDOUT if role == "holdout" else INK


def _marked(center: str, role: str) -> str:
    return short(center, 16) + (" ◇" if role == "holdout" else "")


def _percent(value: float, _: Any) -> str:
    return f"{100 * value:g} %"


def _told(counts: pd.DataFrame) -> str:
    """The chart in words, for those who do not see it: rows are centers."""
    return "; ".join(
        f"{center}: " + ", ".join(f"{name} {count}" for name, count in row.items() if count)
        for center, row in counts.iterrows()
    )


def _save(figure: "Figure", path: Path, dpi: int = DPI) -> None:
    figure.savefig(path, dpi=dpi, metadata={"Software": None})  # no version of matplotlib in the file
