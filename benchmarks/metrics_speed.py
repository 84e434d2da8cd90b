"""How long the per-image metrics of 1,000 masks of 1280 x 1024 take on one core.

    python benchmarks/metrics_speed.py

counts     tp, fp, fn, tn
distances  the same and the distances of the outlines (hd, hd95, assd, nsd)
official   what EndoCV2021's official mode records besides, from a prediction of 256 x 256

Masks are pairs of wavy outlines, from specks to half the picture, some of them empty, some apart. Drawing them is not
counted. Exit code 1 where counts take 5 s or more, or counts and distances 60 s or more.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from fedkvasir.environment import environment
from fedkvasir.files import write_atomic
from fedkvasir.metrics import endocv2021
from fedkvasir.metrics.boundary import distances
from fedkvasir.metrics.segmentation import count

HERE = Path(__file__).resolve().parent
HEIGHT, WIDTH = 1024, 1280
LIMITS_S = {"counts": 5.0, "distances": 60.0}
"""For 1,000 masks."""


def outline(rng: np.random.Generator, middle: np.ndarray, radius: float) -> np.ndarray:
    """(H, W) bool: a wavy disc."""
    angle = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    wave = 1 + sum(rng.normal(0, 0.1) * np.sin(k * angle + rng.random() * 6) for k in range(2, 7))
    corners = middle + radius * (wave * np.stack([np.cos(angle), np.sin(angle)])).T
    return cv2.fillPoly(np.zeros((HEIGHT, WIDTH), np.uint8), [np.rint(corners).astype(np.int32)], 1).astype(bool)


def pair(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A truth, and a prediction near it; one in twenty of either is empty, and so are both at times."""
    middle, radius = rng.random(2) * (WIDTH, HEIGHT), float(np.exp(rng.uniform(np.log(10), np.log(450))))
    truth = outline(rng, middle, radius)
    prediction = outline(rng, middle + rng.normal(0, radius / 3, 2), radius * rng.uniform(0.7, 1.3))
    return prediction & (rng.random() > 0.05), truth & (rng.random() > 0.05)


def measure(masks: int) -> dict[str, float]:
    """Seconds on the wall for each kind."""
    cv2.setNumThreads(1)
    rng, seconds = np.random.default_rng(0), dict.fromkeys(("counts", "distances", "official"), 0.0)
    for _ in range(masks):
        prediction, truth = pair(rng)
        small = cv2.resize(prediction.astype(np.uint8), (256, 256), interpolation=cv2.INTER_NEAREST).astype(bool)
        times = [time.perf_counter()]
        count(prediction, truth)
        times.append(time.perf_counter())
        distances(prediction, truth, 5.0)
        times.append(time.perf_counter())
        endocv2021.record(small, truth)
        times.append(time.perf_counter())
        counts, outlines, official = np.diff(times)
        seconds["counts"] += counts
        seconds["distances"] += counts + outlines
        seconds["official"] += official
    return seconds


def keep(table: pd.DataFrame, path: Path) -> None:
    """Write the rows in place of earlier ones of the same machine."""
    if path.is_file():
        before = pd.read_csv(path)
        table = pd.concat([before[before["machine"] != table.loc[0, "machine"]], table])
    write_atomic(path, table.round(3).to_csv(index=False))


def main() -> None:
    about, *_ = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--masks", type=int, default=1000)
    parser.add_argument("--results", type=Path, default=HERE / "results" / "metrics_speed.csv", help="the CSV")
    given = parser.parse_args()
    facts: dict[str, Any] = {"machine": environment("local", 1)["machine"]["processor"], "masks": given.masks}
    facts |= {"height": HEIGHT, "width": WIDTH}
    rows = [facts | {"what": what, "seconds": seconds} for what, seconds in measure(given.masks).items()]
    late = False
    for row in rows:
        limit_s = LIMITS_S.get(row["what"], np.inf) * given.masks / 1000
        late |= row["seconds"] >= limit_s
        bound = f", limit {limit_s:.2f} s" if np.isfinite(limit_s) else ""
        print(f"{row['what']:10} {row['seconds']:8.2f} s for {given.masks} masks of {WIDTH} x {HEIGHT}{bound}")
    keep(pd.DataFrame(rows), given.results)
    sys.exit(int(late))


if __name__ == "__main__":
    main()
