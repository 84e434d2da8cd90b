"""What lies on both sides of train and test, shown: every pair of the same picture side by side on one page."""

import base64
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from fedkvasir.data.audit import KINDS
from fedkvasir.errors import UserError
from fedkvasir.files import atomic_folder, write_atomic
from fedkvasir.report import TEMPLATES

MEANINGS = {
    "exact": "the same pixels",
    "near": "the same picture re-encoded or resized, or a neighbouring video frame",
    "crop": "the same content under another border, or with an edge cut off",
    "mirror": "the same content mirrored",
}
SHOWN = 200
"""Pairs with their pictures; the CSV holds all. Keeps the page below 8 MB."""
HEIGHT_PX, WIDTH_PX = 160, 256
"""What a picture must fit into."""


@dataclass(frozen=True)
class Side:
    """One of the two pictures of a pair."""

    sample: str
    center: str
    split: str
    width: int
    height: int
    jpeg: str
    """base64"""


@dataclass(frozen=True)
class Pair:
    kind: str
    correlation: str
    sides: tuple[Side, Side]


@dataclass(frozen=True)
class Group:
    """A group on both sides: its images by side and the centers that hold them."""

    name: str
    train: int
    test: int
    centers: str


def build_leakage_report(
    out: Path,
    samples: pd.DataFrame,
    pairs: pd.DataFrame,
    leaks: pd.DataFrame,
    picture: Callable[[int], np.ndarray],
    real: bool,
) -> Path:
    """Write the folder ``out`` with ``index.html`` and ``pairs.csv``; the same input gives the same bytes.

    samples: ``sample``, ``center``, ``group``, ``split``, ``width``, ``height`` (native, px); pairs, leaks: see
    :mod:`fedkvasir.data.audit`. picture: (S, S, 3) uint8 RGB by position in ``samples``. real: pictures of patients;
    else rendered. Returns the page. Raises UserError where ``out`` is there already.
    """
    if out.exists():
        raise UserError(f"{out} exists already; choose another folder with --out or remove it")
    listing = _listing(samples, pairs)
    shown = [_pair(samples, row, picture) for _, row in listing.head(SHOWN).iterrows()]
    across = int(listing["both_sides"].sum())
    kinds = listing.groupby("kind")["both_sides"].agg(["size", "sum"]).reindex(list(KINDS), fill_value=0)
    facts = {
        "verdict": _verdict(leaks),
        "found": len(leaks) > 0,
        "images": len(samples),
        "centers": samples["center"].nunique(),
        "real": real,
        "kinds": [(kind, MEANINGS[kind], int(row["size"]), int(row["sum"])) for kind, row in kinds.iterrows()],
        "pairs": len(listing),
        "groups": _groups(samples, leaks),
        "leaking": shown[:across],
        "joined": shown[across:],
        "left_out": len(listing) - len(shown),
    }
    with atomic_folder(out) as folder:
        listing.drop(columns=["i", "j"]).to_csv(folder / "pairs.csv", index=False)
        write_atomic(folder / "index.html", TEMPLATES.get_template("leakage.html").render(facts))
    return out / "index.html"


def _listing(samples: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """One row a pair, worst first: on both sides, then of two centers, then the kind that is hardest to see.

    Of a pair on both sides the first is the one in training.
    """
    test = (samples["split"] == "test").to_numpy()
    i, j = pairs["i"].to_numpy(np.int64), pairs["j"].to_numpy(np.int64)
    i, j = np.where(test[i] & ~test[j], j, i), np.where(test[i] & ~test[j], i, j)
    listing = pairs.assign(i=i, j=j, both_sides=test[i] != test[j])
    for name, places in (("first", i), ("second", j)):
        own = samples.iloc[places]
        listing[name] = own["sample"].to_numpy()
        listing[f"{name}_center"], listing[f"{name}_split"] = own["center"].to_numpy(), own["split"].to_numpy()
    listing["two_centers"] = listing["first_center"] != listing["second_center"]
    listing["rank"] = listing["kind"].map({kind: -place for place, kind in enumerate(KINDS)})
    order = ["both_sides", "two_centers", "rank", "first", "second"]
    listing = listing.sort_values(order, ascending=[False, False, True, True, True], ignore_index=True)
    return listing.drop(columns=["two_centers", "rank"])


def _verdict(leaks: pd.DataFrame) -> str:
    pictures = leaks.loc[leaks["kind"] == "picture", "test"].nunique()
    groups = int((leaks["kind"] == "group").sum())
    named = [
        f"{count} {word if count == 1 else word + 's'}"
        for count, word in ((pictures, "picture"), (groups, "group"))
        if count
    ]
    if not named:
        return "No picture and no group lies on both sides of train and test."
    return f"{' and '.join(named)} {'lies' if pictures + groups == 1 else 'lie'} on both sides of train and test."


def _groups(samples: pd.DataFrame, leaks: pd.DataFrame) -> list[Group]:
    found = []
    for name in leaks.loc[leaks["kind"] == "group", "test"]:
        own = samples[samples["group"] == name]
        test = own["split"] == "test"
        found.append(Group(name, int((~test).sum()), int(test.sum()), ", ".join(sorted(own["center"].unique()))))
    return found


def _pair(samples: pd.DataFrame, row: pd.Series, picture: Callable[[int], np.ndarray]) -> Pair:
    first, second = (_side(samples.iloc[place], picture(place)) for place in (row["i"], row["j"]))
    return Pair(row["kind"], f"{row['correlation']:.4f}", (first, second))


def _side(sample: pd.Series, pixels: np.ndarray) -> Side:
    """The square picture back in its own proportions."""
    scale = min(HEIGHT_PX / sample["height"], WIDTH_PX / sample["width"])
    size = max(round(scale * sample["width"]), 1), max(round(scale * sample["height"]), 1)
    small = cv2.resize(np.ascontiguousarray(pixels), size, interpolation=cv2.INTER_AREA)
    jpeg = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    text = base64.b64encode(jpeg.tobytes()).decode()
    return Side(sample["sample"], sample["center"], sample["split"], *size, text)
