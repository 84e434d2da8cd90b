"""What a hospital may answer: whatever a stranger sends is taken as it has to be, or not at all, and ends no run."""

import io
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import pandas as pd
from flwr.app import ConfigRecord, Message, MetricRecord
from flwr.common.constant import ErrorCode

from fedkvasir import exchange
from fedkvasir.algorithms.base import arrays_of, from_record
from fedkvasir.evaluation.comparison import SignedRanks
from fedkvasir.evaluation.groups import STATISTICS
from fedkvasir.evaluation.intervals import DRAWS
from fedkvasir.evaluation.protocol import metric_names
from fedkvasir.evaluation.shared import COLUMNS, MINIMUM, PAIRED, WORDS
from fedkvasir.metrics.classification import PREFIX
from fedkvasir.metrics.segmentation import DISTANCES, scored
from fedkvasir.plan import Plan
from fedkvasir.scenario import Scenario

COST = ("samples", "steps", "seconds", "peak_mib")
"""What a hospital tells of its training, beside the loss and whether it kept a state."""


def complaint(reply: Message | None, alike: dict[str, exchange.State], images: int | None = None) -> str:
    """Why a reply to a train message cannot be averaged; empty where it can.

    alike: record name -> arrays like those that must come back: the same records, names, shapes and types, no more and
    no fewer, all of them finite. images: that the hospital trains with, by the plan; None where that is not known.
    """
    if reply is None:
        return "no answer before the deadline"
    if reply.has_error():
        return str(reply.error.reason)
    try:
        states = {name: from_record(record) for name, record in arrays_of(reply.content).items()}
        shapes = {name: _shapes(state) for name, state in states.items()}
    except Exception:  # numpy's readers have many; whatever a stranger sends must not end the run
        return "sent arrays that cannot be read"
    if shapes != {name: _shapes(state) for name, state in alike.items()}:
        return "sent arrays of other names, shapes or types"
    told = {name: record for name, record in reply.content.items() if isinstance(record, MetricRecord)}
    metrics = {key: type(value) for record in told.values() for key, value in record.items()}
    if told.keys() != {"metrics"} or metrics.keys() != {"loss", "state", *COST} or list in metrics.values():
        return "sent other metrics than it was asked for"
    arrays = [np.array(list(metrics_of(reply).values())), *(a for state in states.values() for a in state.values())]
    if not all(np.isfinite(array).all() for array in arrays):
        return "sent values that are not numbers"
    if images is not None and (trained := metrics_of(reply)["samples"]) != images:
        return f"trained with {trained:g} images, and said before the first round that it has {images}"
    return ""


def unscored(reply: Message | None, task: str) -> str:
    """Why a reply does not tell how well a model does; empty where it does."""
    if reply is None:
        return "no answer before the deadline"
    if reply.has_error():
        return str(reply.error.reason)
    told = [record for name in ("scores", "cost") if isinstance(record := reply.content.get(name), ConfigRecord)]
    if len(told) < 2 or not {type(value) for record in told for value in record.values()} <= {int, float}:
        return "sent no scores"
    scores = cast(dict[str, float], told[0])
    within = not any(score < 0 or score > 1 for score in scores.values())  # NaN: nothing to be found
    return "" if scores.keys() == {*metric_names(task)} and within else "sent no scores"


def unheard(reply: Message | None) -> bool:
    """Is there no answer, nor an error of the hospital's own?"""
    gone = (ErrorCode.NODE_UNAVAILABLE, ErrorCode.MESSAGE_UNAVAILABLE)
    return reply is None or (reply.has_error() and reply.error.code in gone)


def metrics_of(reply: Message) -> dict[str, float]:
    return cast(dict[str, float], dict(reply.content["metrics"]))


def records_in(reply: Message, name: str, plan: Plan, place: dict[str, str], remote: bool) -> pd.DataFrame | None:
    """A hospital's ``samples`` or ``shared`` in a reply; None where they cannot be read, or are not made as such.

    place: its center, role and split. remote: it is a stranger's; of a simulation there may be a thousand a round.
    """
    scenario, images = plan.scenario, int(plan.centers.loc[place["center"], place["split"]])
    try:
        table = _table(reply, name)
        if name == "shared":
            made_so = is_share(table, scenario.task, images) and "checkpoint" not in table
        else:
            made_so = not remote or is_samples(table, scenario, plan.classes, place, images)
    except Exception:  # as in complaint: whatever a stranger sends
        return None
    return table if made_so else None


def comparison_in(reply: Message, center: str, role: str, task: str, images: int) -> pd.DataFrame | None:
    """What a hospital made of two methods in a reply; None where it cannot be read, or :func:`is_paired` is not so."""
    try:
        table = _table(reply, "paired")
        made_so = is_paired(table, center, role, task, images)
    except Exception:  # as in complaint: whatever a stranger sends
        return None
    return table if made_so else None


def _table(reply: Message, name: str) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(cast(bytes, cast(ConfigRecord, reply.content[name])["parquet"])))


def _shapes(state: exchange.State) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    return {name: (array.shape, array.dtype) for name, array in state.items()}


def is_samples(
    table: pd.DataFrame, scenario: Scenario, classes: Sequence[str], place: Mapping[str, str], images: int
) -> bool:
    """Whether a stranger's table is one center's part of samples.parquet (docs/records.md), and no number in it is one
    that cannot be.

    place: center, role and split, which are every row's; images: that there are of them, by the plan.
    """
    masks, evaluation = scenario.task == "segmentation", scenario.evaluation
    pixels = ["height", "width", "tp", "fp", "fn", "tn"]
    words = [*place, "sample", "group", *(["class", "scoring"] if masks else ["label"])]
    numbers = [*pixels, *DISTANCES, "threshold", "tolerance_px"] if masks else [PREFIX + name for name in classes]
    if {*table.columns} != {*words, *numbers}:
        return False
    values, each = table[numbers], ["sample", "class", "scoring"] if masks else ["sample"]
    if not (
        table[words].map(lambda word: isinstance(word, str)).to_numpy().all()
        and all(isinstance(dtype, np.dtype) and dtype.kind in "fi" for dtype in values.dtypes)
        and all((table[name] == value).all() for name, value in place.items())
        and table["sample"].nunique() == images
        and len(table) == images * (len(classes) * len(evaluation.scoring) if masks else 1)
        and not table.duplicated(each).any()
        and table[["sample", "group"]].drop_duplicates()["sample"].is_unique
    ):
        return False
    if not masks:
        within = values.ge(0).to_numpy().all() and np.allclose(values.sum(axis=1), 1, atol=1e-3)
        return bool(within and {*table["label"]} <= {*classes})
    lengths, diagonals = table[["hd", "hd95", "assd"]], np.hypot(table["height"], table["width"])
    native = scored(table)
    return bool(
        {*table["class"]} <= {*classes}
        and {*table["scoring"]} <= {*evaluation.scoring}
        and all(values[name].dtype.kind == "i" for name in pixels)
        and values[pixels].ge(0).to_numpy().all()
        and (native[["tp", "fp", "fn", "tn"]].sum(axis=1) == native["height"] * native["width"]).all()
        and (lengths.isna() | lengths.ge(0) & lengths.le(diagonals + 1e-6, axis=0)).to_numpy().all()
        and table["nsd"].dropna().between(0, 1).all()
        and (table["threshold"] == evaluation.threshold).all()
        and (table["tolerance_px"] == evaluation.tolerance_px).all()
    )


def is_share(table: pd.DataFrame, task: str, images: int) -> bool:
    """Whether a stranger's table is as ``shared.share`` makes that of one center: a report can be made of it.

    images: that the center is tested on, by the plan.
    """
    if not {*COLUMNS} <= {*table.columns}:
        return False
    words, numbers = table[[*WORDS]], table[["value", "images", "groups"]]
    scores, draws = (table[table["kind"] == kind] for kind in ("score", "draws"))
    both = pd.concat([scores, draws])
    return bool(
        words.map(lambda word: isinstance(word, str)).to_numpy().all()
        and all(dtype.kind in "fi" for dtype in numbers.dtypes)
        and not table.duplicated(["kind", "class", "metric", "reduction", "size"]).any()
        and {*scores["metric"]} >= {*metric_names(task)}
        and both["value"].dropna().between(0, 1).all()
        and both["groups"].dropna().between(1, images).all()
        and (scores["images"] == images).all()
        and scores["groups"].notna().all()
        and len(draws) <= 1
        and all(getattr(own, "dtype", None) == np.float64 and own.shape == (DRAWS,) for own in draws["draws"])
        and not any(((own < 0) | (own > 1)).any() for own in draws["draws"])
    )


def is_paired(table: pd.DataFrame, center: str, role: str, task: str, images: int) -> bool:
    """Whether a stranger's table is as ``shared.compare_here`` makes that of one center in one role: ``shared.combine``
    can take it, and no number in it is one that cannot be.

    images: that either method is tested on there; there are no more groups.
    """
    if len(table) != 1 or not {*PAIRED} <= {*table.columns}:
        return False
    row, numbers = table.iloc[0], table[["difference", "median", "groups", "wins", "ties", "losses", "won"]]
    draws, tied = row["draws"], row["tied"]
    words = [row[name] for name in ("center", "role", "metric", "note")]
    if not (
        all(isinstance(word, str) for word in words)
        and words[:-1] == [center, role, STATISTICS[task].title]
        and all(isinstance(dtype, np.dtype) and dtype.kind in "fi" for dtype in numbers.dtypes)
        and getattr(draws, "dtype", None) == np.float64
        and draws.shape == (DRAWS,)
    ):
        return False
    if numbers.isna().to_numpy().all():
        return bool(np.isnan(draws).all())
    if getattr(tied, "dtype", None) != np.int64 or tied.ndim != 1 or not len(tied):
        return False
    difference, median, *counts, won = numbers.iloc[0].astype(np.float64)
    groups, wins, ties, losses = counts
    if not (
        abs(difference) <= 1
        and abs(median) <= 1
        and not np.isinf(draws).any()
        and all(count >= 0 and count % 1 == 0 for count in counts)
        and MINIMUM <= groups <= images
        and wins + ties + losses == groups == tied.sum()
        and tied[0] == ties
        and (tied[1:] > 0).all()
    ):
        return False
    ranks = SignedRanks(won, tuple(map(int, tied))).ranks
    return bool(ranks[: int(wins)].sum() <= won <= ranks[int(losses) :].sum())
