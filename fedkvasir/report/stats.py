"""Who holds what, in pictures: one page and its PNGs, from samples, their small pictures and their masks."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from fedkvasir.errors import UserError
from fedkvasir.files import atomic_folder, write_atomic
from fedkvasir.randomness import derive_seed
from fedkvasir.report import TEMPLATES, stats_charts
from fedkvasir.report.stats_charts import SPLITS, STYLE, Chart, Looks, area_share, evenly

LOOKED_AT = 2000
"""Pictures of a center that colour and place are taken from, evenly spaced in its list."""
SHOWN = 12
"""Pictures of a center in its sample grid."""
BORDER = 20
"""Pixels with no channel above this are the black around the picture: left out of colours."""
NO_LABEL = "no label"


@dataclass(frozen=True)
class Section:
    title: str
    charts: tuple[Chart, ...]
    intro: str = ""


def build_stats(
    out: Path,
    samples: pd.DataFrame,
    picture: Callable[[int], np.ndarray],
    mask: Callable[[int], np.ndarray | None],
    title: str,
    real: bool,
    finding: str = "polyp",
    seed: int = 0,
) -> Path:
    """Write the folder ``out`` with ``index.html`` and its PNGs; the same input gives the same bytes. Returns the page.

    samples: one row a sample: ``sample``, ``dataset``, ``center``, ``role`` and ``split`` (null outside a scenario),
    ``group`` and ``label`` (or null), ``width``, ``height`` (native, px), ``area_px`` (foreground of the native mask,
    0 where it is empty, null where there is none). picture, mask: (S, S, 3) uint8 RGB and (S, S) uint8 (0 =
    background) or null, by position in ``samples``. real: pictures of patients; else rendered. finding: what the masks
    show. seed: which samples are shown. Raises UserError where ``out`` is there already.
    """
    import matplotlib.style

    if out.exists():
        raise UserError(f"{out} exists already; choose another folder with --out or remove it")
    samples, centers = samples.reset_index(drop=True), _in_order(samples)
    if samples["label"].notna().any():
        samples["label"] = samples["label"].fillna(NO_LABEL)
    looks = _look(samples, centers, picture, mask)
    with atomic_folder(out) as folder, matplotlib.style.context(["default", STYLE]):
        facts = {
            "title": title,
            "real": real,
            "summary": _summary(samples, centers),
            "table": _table(samples, centers, finding),
            "holdouts": "holdout" in centers.values(),
            "sections": [
                *_sections(folder, samples, centers, looks, finding),
                _grids(folder, samples, centers, picture, mask, finding, seed),
            ],
        }
        write_atomic(folder / "index.html", TEMPLATES.get_template("stats.html").render(facts))
    return out / "index.html"


def _in_order(samples: pd.DataFrame) -> dict[str, str]:
    """Center -> role, those that train first, then by name, numbers in names by value."""
    roles = samples.groupby("center")["role"].first().fillna("train")

    def key(name: str) -> tuple[bool, list[Any]]:
        return roles[name] == "holdout", [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]

    return {name: str(roles[name]) for name in sorted(roles.index, key=key)}


def _look(
    samples: pd.DataFrame,
    centers: dict[str, str],
    picture: Callable[[int], np.ndarray],
    mask: Callable[[int], np.ndarray | None],
) -> Looks:
    """Walk once over the pictures and masks of every center, at most :data:`LOOKED_AT` of each."""
    rows, places = [], {}
    for center in centers:
        total, count = np.zeros(()), 0
        for position in evenly(np.flatnonzero(samples["center"] == center), LOOKED_AT).tolist():
            pixels = picture(position)
            lit = pixels.max(axis=2) > BORDER
            rows.append((center, *(pixels[lit] if lit.any() else pixels.reshape(-1, 3)).mean(axis=0)))
            found = mask(position) if samples["area_px"][position] > 0 else None
            if found is not None and found.any():
                total, count = total + (found > 0), count + 1
        if count:
            places[center] = total / count
    colours = pd.DataFrame(rows, columns=["center", "R", "G", "B"])
    rgb = colours[["R", "G", "B"]].to_numpy(dtype=np.float32)[:, None] / 255
    colours[["L", "a", "b"]] = cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)[:, 0]
    return Looks(colours, places)


def _summary(samples: pd.DataFrame, centers: dict[str, str]) -> str:
    datasets = sorted(samples["dataset"].unique())
    held = "one center" if len(centers) == 1 else f"{len(centers)} centers"
    named = ", ".join(datasets[:6]) + (f" and {len(datasets) - 6} more" if len(datasets) > 6 else "")
    return f"{len(samples):,} images of {held}, from {named}."


def _table(samples: pd.DataFrame, centers: dict[str, str], finding: str) -> dict[str, Any]:
    """``columns``, a row (center, role, cells) a center, and the cells for all of them."""
    split, masked, labelled = (samples[column].notna().any() for column in ("split", "area_px", "label"))

    def cells(own: pd.DataFrame) -> dict[str, str]:
        named, share = own["group"].notna().any(), area_share(own)
        row = {
            "Images": f"{len(own):,}",
            "Groups": f"{own['group'].fillna(own['sample']).nunique():,}" if named else "not named",
        }
        if split:
            row |= {name.capitalize(): f"{(own['split'] == name).sum():,}" for name in SPLITS}
        if labelled:
            row["Classes"] = str(own.loc[own["label"] != NO_LABEL, "label"].nunique())
        if masked:
            row["Empty masks"] = f"{(own['area_px'] == 0).sum():,}"
            row[f"Median {finding} area"] = f"{share.median():.1%}" if len(share) else "–"
        return row | {"Median size": f"{own['width'].median():.0f} × {own['height'].median():.0f}"}

    every = cells(samples)
    return {
        "columns": list(every),
        "rows": [(name, role, cells(samples[samples["center"] == name]).values()) for name, role in centers.items()],
        "all": every.values() if len(centers) > 1 else (),
    }


def _sections(
    folder: Path, samples: pd.DataFrame, centers: dict[str, str], looks: Looks, finding: str
) -> list[Section]:
    """Everything but the samples."""
    holdings = stats_charts.holdings(folder, samples, centers, finding)
    split = samples["split"].notna().any()
    sections = [
        Section("Who holds what", (stats_charts.splits(folder, samples, centers), holdings) if split else (holdings,))
    ]
    if samples["label"].notna().any():
        sections.append(Section("Class balance", (stats_charts.classes(folder, samples, centers),)))
    sizes = stats_charts.sizes(folder, samples, centers)
    if looks.places:
        areas = stats_charts.areas(folder, samples, centers, finding)
        sections.append(Section(f"Image size and {finding} size", (sizes, areas)))
        places = stats_charts.places(folder, centers, looks, finding)
        sections.append(Section(f"Where the {finding} lies", (places,)))
    else:
        sections.append(Section("Image size", (sizes,)))
    colour = (stats_charts.channels(folder, centers, looks), stats_charts.hues(folder, centers, looks))
    intro = (
        f"Means over the pixels of an image that are brighter than the black around it (a channel above {BORDER}), of "
        f"at most {LOOKED_AT:,} images of a center, evenly spaced in its list."
    )
    return [*sections, Section("Colour", colour, intro)]


def _grids(
    folder: Path,
    samples: pd.DataFrame,
    centers: dict[str, str],
    picture: Callable[[int], np.ndarray],
    mask: Callable[[int], np.ndarray | None],
    finding: str,
    seed: int,
) -> Section:
    """Some pictures of every center, masks outlined."""
    charts = []
    for number, center in enumerate(centers, start=1):
        positions = _choose(samples[samples["center"] == center], derive_seed(seed, "stats", center))
        shown = [(picture(place), mask(place), samples["label"][place]) for place in positions]
        charts.append(stats_charts.grid(folder / f"samples-{number:02d}.png", center, shown, finding))
    outlined = f" The green line is the outline of the {finding}." if samples["area_px"].notna().any() else ""
    intro = f"Up to {SHOWN} images of a center, drawn with seed {seed}, each stretched to a square.{outlined}"
    return Section("Samples", tuple(charts), intro)


def _choose(own: pd.DataFrame, seed: int) -> list[int]:
    """Positions of up to :data:`SHOWN` samples: each class in turn, a group again only when all groups are in."""
    own = own.iloc[np.random.default_rng(seed).permutation(len(own))]
    own = own.assign(label=own["label"].fillna(""), group=own["group"].fillna(own["sample"]))
    own = own.assign(again=own.groupby("group").cumcount()).sort_values("again", kind="stable")
    own = own.assign(turn=own.groupby("label").cumcount()).sort_values(["again", "turn"], kind="stable")
    return [int(position) for position in own.head(SHOWN).sort_values("label", kind="stable").index]
