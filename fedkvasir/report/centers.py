"""What was found at every center: the answer, the table and its intervals, pictures, what was taken for what."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from fedkvasir.data.partition import SIZES
from fedkvasir.errors import UserError
from fedkvasir.evaluation.groups import ABSENT, ROLES, shown
from fedkvasir.evaluation.intervals import intervals
from fedkvasir.evaluation.protocol import headline, is_shared, summarise, task_of
from fedkvasir.evaluation.suite import ALL, alarms, by_size, challenge, suite
from fedkvasir.metrics import classification, segmentation
from fedkvasir.metrics.endocv2021 import OFFICIAL
from fedkvasir.metrics.segmentation import DEFAULT
from fedkvasir.plan import Plan
from fedkvasir.report import charts
from fedkvasir.report.charts import Mark, Marks, Reliability, Spread
from fedkvasir.report.tables import TWO, Column, Estimate, Interval, Row, Table, Value, bracket, three_decimals
from fedkvasir.scenario import POOLED

TITLES = {
    "dice": "Dice", "iou": "IoU", "precision": "Precision", "recall": "Recall", "dice_images": "Dice over images",
    "macro_f1": "Macro F1", "accuracy": "Accuracy",
}  # fmt: skip
OTHERS = {
    "f2": "F2", "specificity": "Specificity", "accuracy": "Accuracy", "mcc": "MCC", "hd": "Hausdorff, px",
    "hd95": "HD95, px", "assd": "ASSD, px", "nsd": "NSD", "balanced_accuracy": "Balanced accuracy", "f1": "F1",
    "auroc": "AUROC", "average_precision": "Average precision",
}  # fmt: skip
"""Titles of what is in the suite alone."""
WITHHELD = "withheld"
"""In place of a count of few images or groups, that stays at the hospital."""
COUNTS = ("images", "groups")
ELSEWHERE = ("missed", "negatives")
"""Columns of a table of centers that the table of misses and false alarms shows beside what they are shares of."""
INTERVAL = "95 % interval"
BINS = 25
MANY, LOWEST = 40, 12
"""With more centers than this a chart shows how they are spread, and so many of the lowest."""
NONE = Interval(math.nan, math.nan)


@dataclass(frozen=True)
class Uncertainty:
    """The 95 % intervals of a run's headline scores."""

    bounds: Mapping[tuple[str, str], Interval] = field(default_factory=dict)
    """(scope, center) of :func:`~fedkvasir.evaluation.intervals.intervals` -> interval; center is empty but for
    scope ``center``."""
    warning: str = ""
    """What has to be said beside them, once."""
    other_classes: bool = False
    """Not all centers show the same classes, over which their scores are means."""

    def of(self, scope: str, center: str = "") -> Interval:
        return self.bounds.get((scope, center), NONE)


def uncertainty(records: pd.DataFrame) -> Uncertainty:
    """Of the test records under the best round's weights; where there can be none, the reason is the warning."""
    try:
        found = intervals([records])
    except UserError as error:
        return Uncertainty(warning=f"none, {error}")
    bounds = {(row.scope, row.center): Interval(row.low, row.high) for row in found.itertuples()}
    # The gap is of all centers: what is to be said of it is to be said of each of them.
    warning = str(found["warning"].iloc[-1])
    # Which classes a hospital shows it need not tell; that some are not there it does.
    if is_shared(records):
        return Uncertainty(bounds, warning, ABSENT in warning)
    classes = {shown(own) for _, own in records.groupby("center")} - {frozenset()}
    return Uncertainty(bounds, warning, len(classes) > 1)


def in_order(plan: Plan) -> pd.DataFrame:
    """``plan.centers`` in the report's order, who trains first, then holdouts, by name; ``part`` is the role in words.

    A center that was cut into hospitals keeps their common test set under its own name.
    """
    centers = plan.centers.rename_axis("center").sort_values(["role", "center"], ascending=[False, True])
    holds = plan.holdings["train"].reindex(centers.index).gt(0)
    trains = centers["train"].gt(0).map({True: "trains", False: "common test set"})
    lends = "images pooled" if plan.scenario.federation.train == POOLED else "trains"
    part = trains.mask(holds, lends)
    return centers.assign(part=part.where(centers["role"] == "train", "holdout"))


# ---- the answer


def answer(table: pd.DataFrame, task: str, sure: Uncertainty) -> str:
    """The run's result as a sentence; says what cannot be said."""
    summary, name = summarise(table, task), TITLES[headline(task)]
    scored = table[table[summary.metric].notna()]
    holdouts = list(scored.loc[scored["role"] == "holdout", "center"])
    seen, unseen = (
        _with(score, sure.of(scope)) for scope, score in (("seen", summary.seen), ("unseen", summary.unseen))
    )
    if not len(scored):
        return f"No test image can be scored: none shows anything to be found, where {name} says nothing; see alarms."
    if not holdouts:
        why = (
            "no held-out image can be scored"
            if (table["role"] == "holdout").any()
            else "no hospital was held out, so this says nothing about others"
        )
        text = f"{name} {seen} at hospitals that trained; {why}"
    elif math.isnan(summary.seen):
        text = f"{name} {unseen} {_place(holdouts)}, which took no part; no training center has a score"
    else:
        text = f"{name} {seen} at hospitals that trained, {unseen} {_place(holdouts)}, which took no part: "
        text += _gap(summary.gap, sure.of("gap"), sure.other_classes)
    last = _with(summary.worst, sure.of("center", summary.worst_center))
    return text + (f"; worst center {summary.worst_center} {last}." if len(scored) > 1 else ".")


def _with(score: float, interval: Interval) -> str:
    return f"{TWO(score)} {bracket(*interval, TWO)}".rstrip()


def _place(centers: list[str]) -> str:
    if len(centers) == 1:
        return f"at {centers[0]}"
    named = f"{', '.join(centers[:-1])} and {centers[-1]}" if len(centers) <= 4 else f"{len(centers)} hospitals"
    return f"on average at {named}"


def _gap(gap: float, interval: Interval, other_classes: bool) -> str:
    if other_classes:
        return f"{_with(gap, interval)} apart, but not all of them show the same classes"
    if abs(gap) < 0.005:
        return f"a gap of 0.00 {bracket(*interval, TWO)}".rstrip()
    chance = ", which may be chance" if interval.low < 0 < interval.high else ""
    if gap > 0:
        return f"a gap of {_with(gap, interval)}{chance}"
    return f"no gap, {_with(-gap, Interval(-interval.high, -interval.low))} better than at home{chance}"


# ---- tables


def scores_table(table: pd.DataFrame, plan: Plan, sure: Uncertainty) -> Table:
    """The table of centers with its seen, unseen, gap and worst lines; intervals stand beside the headline metric."""
    parts, summary = in_order(plan)["part"], summarise(table, plan.scenario.task)
    names = [column for column in table.columns if column not in ("center", "role", *ELSEWHERE)]

    def line(head: str, role: str, part: str, values: Mapping[Any, Any], interval: Interval) -> Row:
        cells: list[Value] = [part]
        for name in names:
            cells.append(_cell(values.get(name), name in COUNTS))
            if name == summary.metric:
                cells.append(interval)
        return Row(head, role, tuple(cells))

    rows = [
        line(row["center"], row["role"], parts[row["center"]], row, sure.of("center", row["center"]))
        for row in table.to_dict("records")
    ]
    footer, means = [], {}
    for scope, role in ROLES.items():
        own = table.loc[table["role"] == role, names]
        if len(own):
            sums = {name: own[name].sum() for name in names if name in COUNTS}
            means[scope] = own.mean()
            footer.append(line(f"{scope.capitalize()}, mean", role, "", {**means[scope], **sums}, sure.of(scope)))
    if math.isfinite(summary.gap):
        gaps = (means["seen"] - means["unseen"]).drop(list(COUNTS), errors="ignore")
        footer.append(line("Gap", "", "", gaps.to_dict(), sure.of("gap")))
    if summary.worst_center:
        worst = {summary.metric: summary.worst}
        footer.append(line(f"Worst: {summary.worst_center}", "", "", worst, sure.of("center", summary.worst_center)))
    columns = [Column("Role")]
    for name in names:
        columns.append(Column(TITLES.get(name, name.capitalize())))
        if name == summary.metric:
            columns.append(Column(INTERVAL))
    caption = "Test images of every center under the best round's weights"
    return Table(caption, tuple(columns), tuple(rows), tuple(footer))


def suite_table(shared: pd.DataFrame, plan: Plan) -> Table:
    """Every metric of every center, of shared records: nobody else can make it of them."""
    found, masks = suite(shared), plan.scenario.task == "segmentation"
    reduction, of = ("group", plan.classes) if masks else ("macro", (ALL,))
    found = found[(found["reduction"] == reduction) & found["class"].isin(of)]
    metrics = list(found["metric"].unique())
    wide = found.pivot(index=["role", "center", "class"], columns="metric", values="value")[metrics]
    wide.columns = pd.MultiIndex.from_product([metrics, ["mean"]])
    # Where there is a score, a hospital that tells none of the metrics has some.
    scored = shared[(shared["kind"] == "score") & (shared["metric"] == headline(task_of(shared)))]
    places = {*scored.dropna(subset="value")[["role", "center"]].itertuples(index=False, name=None)}
    kept_back = [place[:2] in places and bool(wide.loc[place].isna().all()) for place in wide.index]
    wide[kept_back] = math.inf
    how = "mean over groups" if masks else "uniform mean over the classes that occur"
    titles = [Column({**TITLES, **OTHERS}.get(name, name)) for name in metrics]
    return _by_center(f"Every metric, {how}", titles, wide, plan, _silent(shared))


def sizes_table(samples: pd.DataFrame, plan: Plan) -> Table | None:
    """Segmentation: the headline metric by the size of what an image shows; None where no image shows anything."""
    found = by_size(samples)
    # A withheld number is not that of a center without such an image.
    withheld = found["images"].isna()
    found["images"] = found["images"].astype(float).mask(withheld, math.inf)
    found["value"] = found["value"].mask(withheld, math.inf)
    found = found[(found["metric"] == segmentation.HEADLINE) & (found["reduction"] == "group")]
    sizes = [size for size in SIZES if (found["size"] == size).any()]
    if not sizes:
        return None
    wide = found.pivot(index=["role", "center", "class"], columns="size", values=["images", "value"])
    wide = pd.concat({size: wide.xs(size, axis=1, level="size") for size in sizes}, axis=1)
    titles = [
        f"{size[0].upper()}{size[1:]}: {of}" for size in sizes for of in ("images", TITLES[segmentation.HEADLINE])
    ]
    wide = wide.rename(columns={"images": "sum", "value": "mean"}, level=1)
    wide = wide.fillna({(size, "sum"): 0 for size in sizes})
    caption = f"{TITLES[segmentation.HEADLINE]} by size at native resolution, of the images that show something"
    note = (
        "Sizes are areas of the truth in pixels of the native image, of which the same number is a larger part of a "
        "smaller picture: centers whose pictures differ in size do not have the same polyps in a column. "
        f"{TITLES[segmentation.HEADLINE]} is a mean over groups, without an interval: of few images it says little."
    )
    return _by_center(caption, [*map(Column, titles)], wide, plan, _silent(samples), (note,))


def alarms_table(samples: pd.DataFrame, plan: Plan) -> Table:
    """Segmentation: what was missed where there is something, what was seen where there is nothing."""
    found = alarms(samples).set_index(["role", "center", "class"])
    for count, of, rate in (("missed", "polyps", "missed_rate"), ("false_alarms", "negatives", "false_alarm_rate")):
        found[rate] = found[rate].mask(found[[count, of]].isna().any(axis=1), math.inf)
    found = found.astype(float).fillna(dict.fromkeys(("polyps", "missed", "negatives", "false_alarms"), math.inf))
    shows = plan.classes[0] if len(plan.classes) == 1 else "it"
    titles = {
        "polyps": f"Images with {shows}", "missed": "Missed", "missed_rate": "Share missed",
        "negatives": f"Without {shows}", "false_alarms": "False alarms", "false_alarm_rate": "Share with alarm",
    }  # fmt: skip
    wide = found[list(titles)]
    wide.columns = pd.MultiIndex.from_tuples([(name, "mean" if "rate" in name else "sum") for name in titles])
    caption = "Missed, and false alarms; of several centers counts are sums and shares the means of theirs"
    note = (
        "Missed: not one pixel of it was found, Dice 0. False alarm: something was seen in an image that shows "
        "nothing. Seen and unseen: sums of images, uniform means over centers of the shares."
    )
    return _by_center(caption, [*map(Column, titles.values())], wide, plan, _silent(samples), (note,))


def challenge_table(samples: pd.DataFrame) -> Table:
    """Segmentation: EndoCV2021's scores, corrected and as its own code computes them, of both sets."""
    titles = {
        "images": "Images", "dice": "Dice", "jaccard": "Jaccard", "f2": "F2", "ppv": "PPV", "recall": "Recall",
        "hausdorff": "Hausdorff", "score": "Score", "score_sd": "SD",
        "generalisation": "Generalisation", "deviation": "Deviation",
    }  # fmt: skip
    found = challenge(samples).reindex(columns=["scoring", "set", *titles]).astype({"images": object})
    found["scoring"] = found["scoring"].map({DEFAULT: "corrected", OFFICIAL: "official"})
    rows = tuple(Row(f"{code}, {name}", "", tuple(values)) for code, name, *values in found.itertuples(index=False))
    return Table("EndoCV2021's scores", tuple(map(Column, titles.values())), rows, head="Code")


def _cell(value: float | None, is_count: bool) -> Value:
    if value is None:
        return ""
    return WITHHELD if math.isinf(value) else int(value) if is_count else float(value)


def _silent(samples: pd.DataFrame) -> set[tuple[str, str]]:
    """(role, center) of hospitals that told their scores alone, as their groups are too few."""
    if not is_shared(samples):
        return set()
    tested = samples[(samples["split"] == "test") & (samples["checkpoint"] == "best")]
    scored, told = (
        {*own[["role", "center"]].itertuples(index=False, name=None)}
        for own in (tested[tested["kind"] == "score"], tested[tested["kind"] == "suite"])
    )
    return scored - told


def _by_center(
    caption: str,
    columns: Sequence[Column],
    values: pd.DataFrame,
    plan: Plan,
    silent: set[tuple[str, str]],
    notes: tuple[str, ...] = (),
) -> Table:
    """values: index role, center, class; second level of the columns: how a role's centers are put together. What a
    hospital withholds is infinite, and so is what it would be a part of. silent: (role, center) of hospitals of which
    there is nothing; then there is nothing of all of that role together either."""
    parts, several = in_order(plan)["part"], len(plan.classes) > 1

    def cells(line: pd.Series) -> tuple[Value, ...]:
        return tuple(_cell(value, how == "sum") for (_, how), value in line.items())

    rows, footer = [], []
    for scope, role in ROLES.items():
        own = values[values.index.get_level_values("role") == role]
        for (_, center, kind), line in own.iterrows():
            rows.append(Row(center, role, (parts[center], *([kind] if several else []), *cells(line))))
        lacking = sorted(center for of, center in silent if of == role)
        withheld = (*([""] if several else []), *[WITHHELD] * len(columns))
        rows += [Row(center, role, (parts[center], *withheld)) for center in lacking]
        for kind, of_class in own.groupby(level="class", sort=False):
            sums = of_class.sum()
            whole = pd.Series({key: sums[key] if key[1] == "sum" else of_class[key].mean() for key in own.columns})
            together = withheld[-len(columns) :] if lacking else cells(whole)
            footer.append(Row(f"{scope.capitalize()}, mean", role, ("", *([kind] if several else []), *together)))
    first = [Column("Role"), *([Column("Class")] if several else [])]
    return Table(caption, (*first, *columns), tuple(rows), tuple(footer), notes=notes)


def confusion_tables(tested: pd.DataFrame) -> dict[str, Table]:
    """Classification: seen and unseen centers' images by their label (rows) and what they were taken for."""
    tables = {}
    for scope, role in ROLES.items():
        own = tested[tested["role"] == role]
        if not len(own):
            continue
        counts = classification.confusion(own)
        rows = tuple(Row(str(name), "", tuple(map(int, line))) for name, line in counts.iterrows())
        caption = f"{scope.capitalize()} centers: images by label (rows) and by what they were taken for (columns)"
        tables[scope] = Table(caption, tuple(map(Column, counts.columns)), rows, head="Label")
    return tables


def spreads_table(spreads: Sequence[Spread], of: str) -> Table:
    """The numbers of :func:`~fedkvasir.report.charts.spreads_chart`; of: what was counted."""
    metric = TITLES[segmentation.HEADLINE]
    rows = [
        Row(f"{index / BINS:.2f} to {(index + 1) / BINS:.2f}", "", tuple(spread.counts[index] for spread in spreads))
        for index in range(BINS)
    ]
    footer = [
        Row(name, "", tuple(spread.quartiles[index] for spread in spreads))
        for index, name in enumerate(("First quartile", "Median", "Third quartile"))
    ]
    columns = tuple(Column(spread.name) for spread in spreads)
    return Table(f"{of} by their {metric}", columns, tuple(rows), tuple(footer), head=metric)


def calibration_table(curves: Sequence[Reliability]) -> Table:
    """The numbers of :func:`~fedkvasir.report.charts.reliability_chart`; the last line has the expected errors."""
    rows, bins = [], len(curves[0].bins)
    for index in range(bins):
        cells: list[Value] = []
        for curve in curves:
            images, confidence, accuracy = curve.bins[index]
            cells += [images, confidence, accuracy, abs(accuracy - confidence)]
        rows.append(Row(f"{index / bins:.3f} to {(index + 1) / bins:.3f}", "", tuple(cells)))
    whole: list[Value] = []
    for curve in curves:
        whole += [sum(images for images, _, _ in curve.bins), "", "", curve.error]
    titles = ("images", "confidence", "accuracy", "calibration error")
    columns = tuple(Column(f"{curve.name.capitalize()}: {title}") for curve in curves for title in titles)
    caption = "Calibration: images by confidence, the probability of the predicted class"
    return Table(
        caption,
        columns,
        tuple(rows),
        (Row("All images; error: mean over centers", "", tuple(whole)),),
        head="Confidence",
    )


# ---- pictures


def scores_chart(table: pd.DataFrame, task: str, sure: Uncertainty) -> Markup:
    """Every center's score with its interval, of more than :data:`MANY` the lowest, and the means of all that trained
    and of all that did not."""
    summary = summarise(table, task)
    shown = table.nsmallest(LOWEST, summary.metric) if len(table) > MANY else table
    rows = [
        Marks(center, role, (Mark(role, Estimate(score, *sure.of("center", center))),))
        for center, role, score in zip(shown["center"], shown["role"], shown[summary.metric], strict=True)
    ]
    means = [
        (f"{scope} {three_decimals(mean)}", Mark(role, Estimate(mean, *NONE)))
        for scope, role, mean in (("seen", "train", summary.seen), ("unseen", "holdout", summary.unseen))
        if math.isfinite(mean)
    ]
    return charts.estimates_chart(rows, TITLES[summary.metric], (0, 0.25, 0.5, 0.75, 1), means)


def spreads(tested: pd.DataFrame, table: pd.DataFrame) -> list[Spread]:
    """Segmentation: how the headline scores of a center's images are spread, with more than :data:`MANY` centers how
    those of the seen and of the unseen ones are; nothing where no image has one. table: of centers."""
    found, metric = [], segmentation.HEADLINE
    if len(table) > MANY:
        for scope, role in ROLES.items():
            own = table.loc[table["role"] == role, metric]
            if len(own):
                found.append(_spread(f"{scope}: {len(own)} center{'s' if len(own) > 1 else ''}", role, own))
    else:
        for center, role in zip(table["center"], table["role"], strict=True):
            found.append(_spread(center, role, segmentation.by_image(tested[tested["center"] == center])[metric]))
    return found if any(any(spread.counts) for spread in found) else []


def _spread(name: str, role: str, scores: pd.Series) -> Spread:
    counts, _ = np.histogram(scores.dropna(), BINS, (0, 1))
    low, middle, high = map(float, scores.quantile([0.25, 0.5, 0.75]))
    return Spread(name, role, tuple(map(int, counts)), (low, middle, high))


def reliabilities(tested: pd.DataFrame) -> list[Reliability]:
    """Classification: calibration of the images of all seen centers together, and of all unseen ones; the error is the
    mean over centers of theirs, of which those of two cannot balance each other."""
    found = []
    for scope, role in ROLES.items():
        own = tested[tested["role"] == role]
        if len(own):
            bins = classification.calibration(own)[["images", "confidence", "accuracy"]].itertuples(index=False)
            error, calibrated = (
                float(np.mean([of(part) for _, part in own.groupby("center")]))
                for of in (classification.expected_calibration_error, classification.calibrated_error)
            )
            triples = tuple((int(n), float(c), float(a)) for n, c, a in bins)
            found.append(Reliability(scope, role, error, calibrated, triples))
    return found
