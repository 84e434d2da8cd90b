"""How evenly a method serves the centers: the worst of them, the spread.

Worst clients and spread: Li et al., Fair Resource Allocation in Federated Learning, ICLR 2020.
"""

import numpy as np
import pandas as pd

from fedkvasir.evaluation.groups import ROLES, Runs, tested
from fedkvasir.evaluation.protocol import center_table, headline, is_shared, networks, task_of
from fedkvasir.metrics.segmentation import by_image

SCOPES = {**{scope: [role] for scope, role in ROLES.items()}, "all": [*ROLES.values()]}
COLUMNS = (
    "scope", "centers", "mean", "weighted", "worst_center", "worst", "second_worst_center", "second_worst",
    "percentile_10", "sd", "range",
)  # fmt: skip


def fairness(runs: Runs) -> pd.DataFrame:
    """One row a scope (``seen``, ``unseen``, ``all``), of the headline metric at the scope's centers.

    Columns: scope, centers; mean (uniform over centers), weighted (by the centers' images); worst_center, worst,
    second_worst_center, second_worst; percentile_10 (over images, under each of several networks; NaN for
    classification, where an image has no score, and of shared records); sd (of these centers, not of a sample of them)
    and range (best less worst), NaN for one center. Of several runs a center's score is the mean; a center without a
    score counts nowhere. Raises UserError as :func:`~fedkvasir.evaluation.groups.tested`.
    """
    tables = tested({"the run": runs})["the run"]
    own, rows = _center_scores(tables), []
    for scope, roles in SCOPES.items():
        centers = own[own.index.isin(roles, level="role")]
        records = [table[table["role"].isin(roles)] for table in tables]
        rows.append({"scope": scope, "centers": len(centers), **(_spread(centers, records) if len(centers) else {})})
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _spread(centers: pd.DataFrame, records: Runs) -> dict[str, object]:
    score = centers["score"].to_numpy()
    row = {"mean": score.mean(), "weighted": np.average(score, weights=centers["images"])}
    for name, place in (("worst", 0), ("second_worst", 1)):
        if place < len(centers):
            row |= {f"{name}_center": centers.index[place][1], name: score[place]}
    if task_of(records[0]) == "segmentation" and not is_shared(records[0]):
        # By role: in a study an image may be tested where its center trains and where it is held out.
        parts = [own for table in records for _, held in table.groupby("role") for own in networks(held)]
        row["percentile_10"] = pd.concat([by_image(own)["dice"] for own in parts]).quantile(0.1)
    if len(score) > 1:
        row |= {"sd": score.std(), "range": np.ptp(score)}
    return row


def _center_scores(tables: Runs) -> pd.DataFrame:
    """images and score of every center with a score, the worst first; index (role, center)."""
    rows = pd.concat([center_table(table) for table in tables])
    rows = rows.rename(columns={headline(task_of(tables[0])): "score"})
    return rows.groupby(["role", "center"])[["images", "score"]].mean().dropna().sort_values("score", kind="stable")
