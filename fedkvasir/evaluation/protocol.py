"""From per-image records to the table of centers: seen, unseen, gap, worst.

Reduction, everywhere: per image, then per group, then per center, then uniformly over centers. Where per-image records
stayed at the hospitals (:mod:`fedkvasir.evaluation.shared`) a center's scores are those that it sent.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from fedkvasir.metrics import classification, segmentation


def is_shared(records: pd.DataFrame) -> bool:
    """Whether records are what hospitals tell of theirs (:mod:`fedkvasir.evaluation.shared`), not one row an image."""
    return "kind" in records.columns


def task_of(records: pd.DataFrame) -> str:
    """Which task a table of records comes from."""
    if is_shared(records):
        return "segmentation" if (records["metric"] == segmentation.HEADLINE).any() else "classification"
    return "segmentation" if "tp" in records.columns else "classification"


def networks(records: pd.DataFrame) -> list[pd.DataFrame]:
    """Records of every network that was tested: of a study there may be several at a center, and with one seed, which a
    column ``run`` tells apart."""
    return [own for _, own in records.groupby("run")] if "run" in records.columns else [records]


def headline(task: str) -> str:
    """The metric that selection, seen, unseen and gap speak of."""
    return segmentation.HEADLINE if task == "segmentation" else classification.HEADLINE


def metric_names(task: str) -> tuple[str, ...]:
    return segmentation.METRICS if task == "segmentation" else classification.METRICS


def center_scores(samples: pd.DataFrame) -> dict[str, float]:
    """All metrics of one center's records of one split and checkpoint.

    Segmentation: mean over an image's classes, a group's images, then groups; ``dice_images`` is the plain mean over
    images, ``negatives`` counts images without polyp and without alarm (in no mean), ``missed`` polyps with Dice 0. A
    center that shows no polyp has no score but these counts. Classification: over all images.
    """
    (scores,) = scores_by_center(samples.assign(center="")).values()
    return scores


def scores_by_center(samples: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Center, in order of name -> :func:`center_scores`, of several networks their mean; the images of all centers are
    scored at once."""
    if is_shared(samples):
        # In a study the networks of several hospitals may be tested on the images of one center.
        scores_of = samples[samples["kind"] == "score"].groupby(["center", "metric"], sort=False)["value"].mean()
        return {str(center): own.droplevel(0).to_dict() for center, own in scores_of.groupby(level="center")}
    if len(parts := networks(samples)) > 1:
        of_each = pd.concat([pd.DataFrame.from_dict(scores_by_center(part), orient="index") for part in parts])
        return {str(center): row.to_dict() for center, row in of_each.groupby(level=0).mean().iterrows()}
    if task_of(samples) == "classification":
        return {str(center): classification.ratios(own) for center, own in samples.groupby("center")}
    samples = segmentation.scored(samples)
    missed = ((samples["tp"] == 0) & (samples["fn"] > 0)).groupby(samples["center"]).sum()
    # In a study an image may be tested at two centers: where its center trains, and where it is held out.
    samples = samples.assign(sample=samples["center"] + "\0" + samples["sample"])
    center_of = samples.groupby("sample", sort=False)["center"].first()
    silent = samples.groupby("sample", sort=False)[["tp", "fp", "fn"]].sum().sum(axis=1).eq(0).groupby(center_of).sum()
    scores: dict[str, dict[str, float]] = {}
    for center, own in segmentation.by_image(samples).groupby(center_of):
        counts = {"missed": int(missed[center]), "negatives": int(silent[center])}
        groups = own.groupby("group").mean()
        scores[str(center)] = {name: float(groups[name].mean()) for name in segmentation.METRICS}
        scores[str(center)] |= {"dice_images": float(own["dice"].mean()), **counts}
    return scores


def center_table(samples: pd.DataFrame, checkpoint: str = "best", split: str = "test") -> pd.DataFrame:
    """One row a center, training centers first: center, role, images, groups, then :func:`center_scores`."""
    chosen = samples[(samples["checkpoint"] == checkpoint) & (samples["split"] == split)]
    if chosen.empty:
        return pd.DataFrame()
    parts = []
    for role, own in chosen.groupby("role", sort=False):
        if is_shared(own):
            counts = own[own["kind"] == "score"].groupby("center")[["images", "groups"]].first().astype(int)
        else:
            counts = own.groupby("center").agg(images=("sample", "nunique"), groups=("group", "nunique"))
        counts.insert(0, "role", role)
        parts.append(counts.join(pd.DataFrame.from_dict(scores_by_center(own), orient="index")).reset_index())
    table = pd.concat(parts)
    return table.sort_values(["role", "center"], ascending=[False, True], ignore_index=True)


@dataclass(frozen=True)
class Summary:
    """Uniform means over centers of the headline metric; NaN where there is no such center."""

    metric: str
    seen: float
    unseen: float
    gap: float
    """seen - unseen: what is lost in a hospital that took no part."""
    worst: float
    worst_center: str


def summarise(table: pd.DataFrame, task: str) -> Summary:
    """Seen, unseen, gap and worst of a :func:`center_table`."""
    metric = headline(task)
    scores = table.set_index("center")[metric]
    roles = table.set_index("center")["role"]
    seen, unseen = (float(scores[roles == role].mean()) for role in ("train", "holdout"))
    scored = scores.dropna()
    worst = str(scored.idxmin()) if len(scored) else ""
    return Summary(metric, seen, unseen, seen - unseen, float(scored.min()) if worst else np.nan, worst)
