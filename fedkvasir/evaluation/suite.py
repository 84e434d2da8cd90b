"""The whole standard suite as long tables: one row a value, with its reduction's name and what it leaves out.

Everything follows from samples.parquet and rounds.parquet (docs/records.md); no inference is run again. Where
per-image records stayed at the hospitals, :func:`suite`, :func:`by_size` and :func:`alarms` are what these told of
them, NaN where images or groups were too few.

Reductions inside a center: ``image``, every image counts once; ``group``, mean over a group's images, then over groups;
``micro``, counts summed first; ``macro``, mean over classes (classification); ``sum``, counts. Pixels and images of
different centers are never pooled: over centers there are the means ``uniform`` and ``weighted`` by their images.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from fedkvasir.data.partition import SIZES, size_bins
from fedkvasir.evaluation.groups import ROLES
from fedkvasir.evaluation.protocol import is_shared, task_of
from fedkvasir.metrics import classification, endocv2021
from fedkvasir.metrics.counts import COUNTS, ratios
from fedkvasir.metrics.segmentation import DEFAULT, DISTANCES, scored, shows_any

ALL, BACKGROUND = "all", "background"
KEYS = ["center", "role", "class", "metric", "reduction"]
OF_THE_REST = ("specificity", "accuracy")
"""Metrics that say something of a class that no image shows."""


def suite(samples: pd.DataFrame, checkpoint: str = "best", split: str = "test") -> pd.DataFrame:
    """Every metric of every center and class, under every reduction that it has.

    Columns: center, role, class, metric, reduction, value, images (of the center), excluded (images without a value, in
    no mean). Class ``all`` is the mean over classes, image by image under ``image`` and ``group``; where one class is
    segmented, over it and ``background``, as in DivergentNets' tables. Classification: ``all`` has the means
    (``macro``, ``micro``), and what speaks of all classes at once under ``image`` and ``group``.
    """
    if is_shared(samples):
        return _of_kind("suite", samples, checkpoint, split).reindex(columns=[*KEYS, "value", "images", "excluded"])
    chosen = _chosen(samples, checkpoint, split)
    describe = _segmentation if task_of(samples) == "segmentation" else _classification
    return _by_center(chosen, describe)


def by_size(samples: pd.DataFrame, checkpoint: str = "best", split: str = "test") -> pd.DataFrame:
    """:func:`suite` of the images that show a polyp (a class), by its area at native size; segmentation only.

    One column more, ``size``: a name of :data:`fedkvasir.data.partition.SIZES`, smallest first; ``images`` are those
    of the size.
    """
    if is_shared(samples):
        columns = [*KEYS, "value", "images", "excluded", "size"]
        return _of_kind("size", samples, checkpoint, split).reindex(columns=columns)
    chosen = _chosen(samples, checkpoint, split)
    bins = size_bins(chosen["tp"] + chosen["fn"])
    parts = [_by_center(chosen[bins == size], _shown).assign(size=size) for size in SIZES[1:] if (bins == size).any()]
    table = pd.concat(parts) if parts else pd.DataFrame(columns=[*KEYS, "value", "images", "excluded", "size"])
    return table.sort_values(["role", "center"], ascending=[False, True], kind="stable", ignore_index=True)


def over_centers(table: pd.DataFrame) -> pd.DataFrame:
    """Means of a :func:`suite`, or :func:`by_size`, over the centers of a role: each the same, and by their images.

    The columns of ``table`` without ``center``, and ``mean`` (``uniform``, ``weighted``) and ``centers`` (in the mean;
    one without a value is in none). images and excluded are sums over all centers of the role.
    """
    means = table[table["reduction"] != "sum"]
    keys = [name for name in (*KEYS, "size") if name in table.columns and name != "center"]
    rows = []
    for place, own in means.groupby(keys, sort=False):
        there = own.dropna(subset="value")
        sums = {name: own[name].sum(min_count=1) for name in ("images", "excluded")}  # of shared records unknown
        counts = {"centers": len(there), **sums}
        for name, weights in (("uniform", np.ones(len(there))), ("weighted", there["images"])):
            value = np.average(there["value"], weights=weights) if len(there) else np.nan
            rows.append(dict(zip(keys, place, strict=True)) | {"mean": name, "value": float(value)} | counts)
    return pd.DataFrame(rows, columns=[*keys, "mean", "value", "centers", "images", "excluded"])


def alarms(samples: pd.DataFrame, checkpoint: str = "best", split: str = "test") -> pd.DataFrame:
    """Misses and false alarms, one row a center and class; segmentation only.

    Columns: center, role, class, images; polyps (images that show it), missed (of those, Dice 0), missed_rate;
    negatives (images that do not show it), false_alarms (of those, with a predicted pixel), false_alarm_rate;
    true_negatives (negatives without an alarm: the images that are in no mean of Dice). A rate of none is NaN.
    """
    order = ["center", "role", "class", "images", "polyps", "missed", "missed_rate", "negatives", "false_alarms"]
    order += ["false_alarm_rate", "true_negatives"]
    if is_shared(samples):
        own = _of_kind("alarms", samples, checkpoint, split)
        counts = own.set_index(["center", "role", "class", "metric"])["value"].unstack()
        counts = counts.reindex(columns=order[4:]).rename_axis(columns=None)
        return _rates(counts.assign(images=counts["polyps"] + counts["negatives"]).reset_index())[order]
    chosen = _chosen(samples, checkpoint, split)
    shown = chosen["tp"] + chosen["fn"] > 0
    facts = pd.DataFrame(
        {
            "images": 1,
            "polyps": shown,
            "missed": shown & (chosen["tp"] == 0),
            "negatives": ~shown,
            "false_alarms": ~shown & (chosen["fp"] > 0),
        }
    ).astype(np.int64)
    table = facts.groupby([chosen["role"], chosen["center"], chosen["class"]], sort=True).sum().reset_index()
    return _rates(table)[order]


def _rates(table: pd.DataFrame) -> pd.DataFrame:
    table["missed_rate"] = table["missed"] / table["polyps"]
    table["false_alarm_rate"] = table["false_alarms"] / table["negatives"]
    table["true_negatives"] = table["negatives"] - table["false_alarms"]
    return table.sort_values(["role", "center"], ascending=[False, True], kind="stable", ignore_index=True)


def confusion(samples: pd.DataFrame, checkpoint: str = "best", split: str = "test") -> pd.DataFrame:
    """Which class was taken for which: one row a center and pair of classes; classification only.

    Columns: center, role, label, predicted, images.
    """
    parts = []
    for (role, center), own in _centers(_chosen(samples, checkpoint, split)):
        matrix = classification.confusion(own).rename_axis(index="label", columns="predicted")
        parts.append(matrix.stack().rename("images").reset_index().assign(center=center, role=role))
    columns = ["center", "role", "label", "predicted", "images"]
    return pd.concat(parts, ignore_index=True)[columns] if parts else pd.DataFrame(columns=columns)


def challenge(samples: pd.DataFrame, checkpoint: str = "best", split: str = "test") -> pd.DataFrame:
    """EndoCV2021's scores of seen and unseen images, one row a scoring that was recorded and a set; segmentation only.

    Columns: scoring (``default``: corrected; ``endocv2021-official``), set (``seen``: the training centers' test
    images, ``unseen``: the holdouts'), images, then :func:`fedkvasir.metrics.endocv2021.summarise`; and of the unseen
    set generalisation and deviation from the seen one. Means are over all images of a set, as in the challenge.
    """
    rows: list[dict[str, Any]] = []
    for scoring in (DEFAULT, endocv2021.OFFICIAL):
        official, seen = scoring == endocv2021.OFFICIAL, dict[str, float]()
        records = _chosen(samples, checkpoint, split, scoring)
        for name, role in ROLES.items():
            own = records[records["role"] == role]
            if own.empty:
                continue
            summary = endocv2021.summarise(endocv2021.by_image(own, official), official)
            row = {"scoring": scoring, "set": name, "images": own["sample"].nunique(), **summary}
            if name == "unseen" and seen:
                score, deviation = endocv2021.generalisation(seen, summary, official)
                row |= {"generalisation": score, "deviation": deviation}
            seen = summary
            rows.append(row)
    return pd.DataFrame(rows)


def speed(rounds: pd.DataFrame, environment: Mapping[str, Any]) -> pd.DataFrame:
    """How fast test images were evaluated, one row a center that was tested, and on what machine.

    rounds: rounds.parquet; environment: environment.json. Columns: center, role, images, seconds, frames_per_second,
    network_s, network_frames_per_second, peak_mib, processor, gpus, cores, engine, workers. seconds are those of the
    whole evaluation: reading, the network, scaling to native size, counts and distances, and the gallery; network_s
    those of the network's forward passes alone, the pictures that fill up a last batch included. Several workers share
    the machine; a real hospital has its own, which nobody names.
    """
    tests = rounds[rounds["phase"] == "test"].drop_duplicates(["round", "center", "seconds"])
    table = (
        tests.groupby(["role", "center"], sort=True)
        .agg(
            images=("samples", "sum"),
            seconds=("seconds", "sum"),
            network_s=("network_s", "sum"),
            peak_mib=("peak_mib", "max"),
        )
        .reset_index()
        .sort_values(["role", "center"], ascending=[False, True], kind="stable", ignore_index=True)
    )
    table["frames_per_second"] = table["images"] / table["seconds"]
    table["network_frames_per_second"] = table["images"] / table["network_s"]
    machine = environment["machine"]
    facts = {"processor": machine["processor"], "gpus": ", ".join(machine["gpus"]), "cores": machine["cores"]}
    if environment["engine"] == "sites":  # that machine is the coordinator's
        facts = {"processor": "", "gpus": "", "cores": np.nan}
    facts |= {"engine": environment["engine"], "workers": environment["workers"]}
    columns = ["center", "role", "images", "seconds", "frames_per_second", "network_s", "network_frames_per_second"]
    columns += ["peak_mib"]
    return table.astype({"images": np.int64})[columns].assign(**facts)


def _chosen(samples: pd.DataFrame, checkpoint: str, split: str, scoring: str = DEFAULT) -> pd.DataFrame:
    records = scored(samples, scoring)
    return records[(records["checkpoint"] == checkpoint) & (records["split"] == split)]


def _of_kind(kind: str, shared: pd.DataFrame, checkpoint: str, split: str) -> pd.DataFrame:
    """Shared records of one kind, training centers first."""
    own = shared[(shared["kind"] == kind) & (shared["checkpoint"] == checkpoint) & (shared["split"] == split)]
    return own.sort_values(["role", "center"], ascending=[False, True], kind="stable", ignore_index=True)


def _centers(records: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """((role, center), its records), training centers first, then by name."""
    parts = [((str(role), str(center)), own) for (role, center), own in records.groupby(["role", "center"], sort=True)]
    return sorted(parts, key=lambda part: part[0][0] != "train")


def _by_center(records: pd.DataFrame, describe: Callable[[pd.DataFrame], Iterator[dict[str, Any]]]) -> pd.DataFrame:
    rows = [
        {"center": center, "role": role} | row for (role, center), own in _centers(records) for row in describe(own)
    ]
    return pd.DataFrame(rows, columns=[*KEYS, "value", "images", "excluded"])


def _segmentation(own: pd.DataFrame) -> Iterator[dict[str, Any]]:
    parts = {str(name): part for name, part in own.groupby("class", sort=False)}
    if len(parts) == 1:
        # What is not the one class is background; of several, counts do not say which was taken for which.
        turned = own.rename(columns={"tp": "tn", "tn": "tp", "fp": "fn", "fn": "fp"})
        parts[BACKGROUND] = turned.drop(columns=list(DISTANCES), errors="ignore")
    scores = {name: _scores(part) for name, part in parts.items()}
    for name, part in parts.items():
        yield from _reduced(name, scores[name])
        yield from _pooled(name, part)
    together = pd.concat(scores.values(), join="inner").groupby("sample", sort=False)
    yield from _reduced(ALL, together.mean(numeric_only=True).assign(group=together["group"].first()))
    pooled = pd.DataFrame([_micro(part).iloc[0] for part in parts.values()]).mean()
    for metric, value in pooled.items():
        yield _row(ALL, metric, "micro", value, own["sample"].nunique())


def _shown(own: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for name, part in own.groupby("class", sort=False):
        yield from _reduced(str(name), _scores(part))
        yield from _pooled(str(name), part)


def _scores(part: pd.DataFrame) -> pd.DataFrame:
    """One class: its ratios and distances and the group of every image; index ``sample``."""
    distances = [name for name in DISTANCES if name in part.columns]
    values = _where_shown(part, ratios(part).join(part[distances]))
    return values.join(part["group"]).set_index(part["sample"])


def _micro(part: pd.DataFrame) -> pd.DataFrame:
    return _where_shown(part, ratios(_sums(part)))


def _where_shown(part: pd.DataFrame, values: pd.DataFrame) -> pd.DataFrame:
    """Of a class that no image shows there is but what speaks of the rest of the picture."""
    return values if shows_any(part) else values.reindex(columns=[*OF_THE_REST]).reindex(columns=values.columns)


def _sums(part: pd.DataFrame) -> pd.DataFrame:
    return part[list(COUNTS)].sum().to_frame().T


def _reduced(name: str, scores: pd.DataFrame) -> Iterator[dict[str, Any]]:
    values = scores.drop(columns="group")
    for reduction, means in (("image", values.mean()), ("group", values.groupby(scores["group"]).mean().mean())):
        for metric, value in means.items():
            yield _row(name, metric, reduction, value, len(values), int(values[metric].isna().sum()))


def _pooled(name: str, part: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for reduction, table in (("micro", _micro(part)), ("sum", _sums(part))):
        for metric, value in table.iloc[0].items():
            yield _row(name, metric, reduction, value, len(part))


def _classification(own: pd.DataFrame) -> Iterator[dict[str, Any]]:
    images = len(own)
    for name, values in classification.by_class(own).iterrows():
        for metric, value in values.items():
            yield _row(name, metric, "sum" if metric in COUNTS else "image", value, images)
    right = own["label"].to_numpy(dtype=object) == classification.predicted(own)
    each = pd.DataFrame({"accuracy": right, "nll": classification.negative_log_likelihood(own)}, dtype=np.float64)
    averages = {
        "macro": classification.macro(own),
        "micro": classification.micro(own),
        "image": classification.overall(own),
        "group": each.groupby(own["group"].to_numpy()).mean().mean().to_dict(),
    }
    for reduction, means in averages.items():
        for metric, value in means.items():
            yield _row(ALL, metric, reduction, value, images)


def _row(
    name: Any, metric: Any, reduction: str, value: Any, images: int, excluded: int | None = None
) -> dict[str, Any]:
    """excluded: null where images are not scored one by one: all of them or none."""
    number = float(value)
    missing = (images if np.isnan(number) else 0) if excluded is None else excluded
    row = {"class": str(name), "metric": str(metric), "reduction": reduction}
    return row | {"value": number, "images": images, "excluded": missing}
