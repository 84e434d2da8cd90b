"""What hospitals trained alone, or all together, at every center: how far it carries."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from fedkvasir.evaluation.protocol import headline
from fedkvasir.report.findings import in_list, seeds_in_words
from fedkvasir.report.tables import Column, Row, Table, three_decimals
from fedkvasir.runs import Run

SHARES = 6, 50
"""Percent of colour in the cells with the lowest and the highest score; text is readable on all of them."""
TableOf = Callable[[str], pd.DataFrame]
"""A run's folder -> its scores by center, read once however many tables need them."""


@dataclass(frozen=True)
class Crossing:
    """Every network at every center: a row a hospital that trained alone, then a line a method of all hospitals."""

    table: Table
    home: frozenset[tuple[str, str]]
    """(hospital, center) where a hospital's network meets the hospital's own test images."""
    holdouts: frozenset[str]

    @property
    def ends(self) -> tuple[float, float]:
        """The lowest and the highest score."""
        scores = [value for row in (*self.table.rows, *self.table.footer) for value in row.cells]
        finite = [score for score in scores if isinstance(score, float) and math.isfinite(score)]
        return min(finite, default=math.nan), max(finite, default=math.nan)

    def share(self, score: float) -> int:
        """Percent of colour."""
        low, high = self.ends
        return round(SHARES[0] + (SHARES[1] - SHARES[0]) * (score - low) / ((high - low) or 1.0))

    @property
    def sentence(self) -> str:
        """How far what was learned alone carries; descriptive, without a test."""
        places: dict[str, list[float]] = {"at home": [], "at the other hospitals": [], "at holdouts": []}
        for row in self.table.rows:
            for center, score in zip(self.table.titles, row.cells, strict=True):
                out = "at holdouts" if center in self.holdouts else "at the other hospitals"
                if isinstance(score, float) and math.isfinite(score):
                    places["at home" if (row.head, center) in self.home else out].append(score)
        means = [f"{three_decimals(float(np.mean(scores)))} {place}" for place, scores in places.items() if scores]
        return f"On average a hospital's own network scores {', '.join(means)}"


def crossing_of(
    index: pd.DataFrame, counted: pd.DataFrame, runs: Mapping[str, Run], table_of: TableOf, metric: str
) -> Crossing | None:
    """Of a study in which hospitals train alone, over the seeds that all rows have; None where there is none, or where
    each center in turn is left out."""
    if not (counted["hospital"] != "").any() or index["holdout"].nunique() > 1:
        return None
    rows_of = counted.groupby("seed")[["hospital", "method"]].apply(lambda own: len(own.drop_duplicates()))
    seeds = rows_of.index[rows_of == len(counted[["hospital", "method"]].drop_duplicates())]
    if seeds.empty:
        return None
    counted, lines, home = counted[counted["seed"].isin(seeds)], [], set[tuple[str, str]]()
    for (hospital, method), own in counted.groupby(["hospital", "method"], sort=False):
        tables = [table_of(name) for name in own["run"]]
        scores = pd.concat(tables).groupby("center")[headline(runs[own["run"].iloc[0]].plan.scenario.task)].mean()
        lines.append((hospital, method, scores))
        hospitals = runs[own["run"].iloc[0]].plan.scenario.data.hospitals
        home |= {(hospital, center) for center in (hospital, hospitals.get(hospital, "")) if center in scores}
    tested = set[str]().union(*(scores.index for _, _, scores in lines))
    holdouts = tested & {*index["holdout"].iloc[0].split("+")}
    centers = [*sorted(tested - holdouts), *sorted(holdouts)]

    def row(head: str, scores: pd.Series) -> Row:
        return Row(head, "", tuple(float(score) for score in scores.reindex(centers)))

    rows = tuple(row(hospital, scores) for hospital, _, scores in sorted(lines, key=lambda line: line[0]) if hospital)
    footer = tuple(row(method, scores) for hospital, method, scores in lines if not hospital)
    out = f"; {in_list(sorted(holdouts))} held out" if holdouts else ""
    if len(seeds) < index["seed"].nunique():
        out += f"; {seeds_in_words(seeds)}, which all have"
    caption = f"{metric} at every center (columns) of what was trained at one hospital, or at all of them (rows){out}"
    table = Table(caption, tuple(map(Column, centers)), rows, footer, head="Trained at")
    return Crossing(table, frozenset(home), frozenset(holdouts))
