"""What the report of a run says, section by section: records in, words, tables and charts out."""

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from fedkvasir import ensembles
from fedkvasir.data.catalog import Card
from fedkvasir.data.datasets import DATASETS
from fedkvasir.evaluation.intervals import DRAWS
from fedkvasir.evaluation.protocol import center_table, headline, is_shared
from fedkvasir.evaluation.selection import looked_at
from fedkvasir.evaluation.suite import speed
from fedkvasir.files import read_json
from fedkvasir.metrics.classification import BINS
from fedkvasir.metrics.endocv2021 import OFFICIAL
from fedkvasir.plan import Plan
from fedkvasir.report import centers, charts
from fedkvasir.report.centers import LOWEST, MANY, TITLES, Uncertainty, in_order, uncertainty
from fedkvasir.report.charts import Line, Reliability, Spread
from fedkvasir.report.published import published_table
from fedkvasir.report.tables import ONE, RENDERED, WHOLE, Column, Row, Table, csv_text, three_decimals
from fedkvasir.runs import Checkpoint, Run, failure_text

REDUCTIONS = {
    "segmentation": "Dice, IoU, precision and recall: mean over the images of a group (a patient, a video sequence, a "
    "cluster of near-duplicates), then over the groups of a center. Seen and unseen: uniform mean over centers, "
    "however many images they hold; the gap is seen minus unseen, taken before rounding. Dice over images is the plain "
    "mean over a center's images. An image whose polyp was not touched by one pixel has Dice 0 and is in every mean, "
    "an image without polyp and without alarm is in none. Where only one of truth and prediction shows something all "
    "four are 0: precision of a missed polyp, and recall of a false alarm, too. Masks are scored at each image's "
    "native size, at threshold {threshold}.",
    "classification": "Macro F1, precision and recall: over all images of a center, then uniform mean over the classes "
    "that occur there. Accuracy: share of a center's images. Seen and unseen: uniform mean over centers, however many "
    "images they hold; the gap is seen minus unseen, taken before rounding.",
}
RULES = {
    "train-val": "the round with the highest {metric} on the training centers' validation images, uniform "
    "mean over centers, the earliest of equals.{clean}",
    "last": "the last round, whatever its scores.",
    "oracle": "the round with the highest {metric} on the holdouts' own test images, uniform mean over "
    "centers. That is looking at the answer: an upper bound, never a result.",
}
CLEAN = " No test image and no holdout had a say."
"""Of the rule ``train-val``, where nothing is on both sides."""
FIGURES = ("spread", "calibration", "curve-")
"""How the names of tables begin that hold a figure's numbers."""
GALLERY_BYTES, LINES_BYTES = 6_500_000, 3_600
"""Of pictures as text, less what every center's lines in the tables take: a report of 1,000 centers is below 8 MB."""


@dataclass(frozen=True)
class Case:
    """One picture of the gallery."""

    rank: str
    says: str
    sample: str
    jpeg: str
    """base64"""


@dataclass(frozen=True)
class Strip:
    """The cases of one center."""

    center: str
    role: str
    cases: tuple[Case, ...]


@dataclass(frozen=True)
class Picture:
    caption: str
    chart: Markup
    data: str
    """The name of the table that holds its numbers."""


@dataclass(frozen=True)
class Found:
    """The test records of a finished run under the best round's weights, and what follows from them.

    They are one row an image, or what hospitals tell of theirs (``stayed``).
    """

    tested: pd.DataFrame
    table: pd.DataFrame
    sure: Uncertainty
    spreads: Sequence[Spread]
    """Segmentation."""
    reliabilities: Sequence[Reliability]
    """Classification."""

    @property
    def stayed(self) -> bool:
        """Per-image records stayed at the hospitals."""
        return is_shared(self.tested)

    @property
    def many(self) -> bool:
        """Too many centers for a mark each."""
        return len(self.table) > MANY


def describe(run: Run) -> dict[str, Any]:
    """Everything the template shows. ``None`` or empty: not there, or not there yet."""
    plan, scenario = run.plan, run.plan.scenario
    metric, rule = TITLES[headline(scenario.task)], run.chosen_by
    state, found, curves = _state(run), _found(run), _curves(run)
    gallery, left_out = _gallery(run.folder / "gallery", plan, metric)
    tables, lines = _tables(run, found), {line.name: line for _, own in curves.values() for line in own}
    best, best_label = state["best_round"], "best: round" if run.finished else "best so far: round"
    return {
        "plan": plan,
        "scenario": scenario,
        "name": run.folder.resolve().name,
        "state": state,
        "failures": [failure_text(failure) for failure in state["failures"]],
        "metric": metric,
        "answer": centers.answer(found.table, scenario.task, found.sure) if found else None,
        "cards": cards(plan),
        "rendered": plan.rendered,
        "said": _said(plan),
        "tables": tables,
        "download": partial(download, tables),
        "missing": missing(run) if found else [],
        "rounds": _rounds(run, state["rounds"]),
        "pictures": _pictures(found, scenario.task) if found else (),
        "many": found is not None and found.many,
        "calibration": _calibration(found.reliabilities) if found and found.reliabilities else None,
        "bins": BINS,
        "legend": [(charts.swatch(line), line.name) for line in lines.values()],
        "curves": [
            Picture(title, charts.rounds_chart(own, title, best, best_label), data)
            for data, (title, own) in curves.items()
        ],
        "chosen_by": rule,
        "rule": RULES[rule].format(metric=metric, clean="" if plan.leaks else CLEAN),
        "gallery": gallery,
        "left_out": left_out,
        "environment": [*environment(run), *(("Note", note) for note in _facts(run)["notes"])],
    }


def run_tables(run: Run, figures: bool = True) -> dict[str, Table]:
    """Every table of a run's report by name; of an unfinished run, those that are there.

    figures: those too that only hold a figure's numbers.
    """
    tables = _tables(run, _found(run))
    return {name: table for name, table in tables.items() if figures or not name.startswith(FIGURES)}


def _found(run: Run) -> Found | None:
    """None of a run that is not finished, or has no test image."""
    if not run.finished:
        return None
    records = run.records
    tested = records[(records["checkpoint"] == "best") & (records["split"] == "test")] if len(records) else records
    if not len(tested):
        return None
    table, masks, stayed = center_table(records), run.plan.scenario.task == "segmentation", is_shared(tested)
    spreads = centers.spreads(tested, table) if masks and not (stayed and len(table) <= MANY) else []
    curves = [] if masks or stayed else centers.reliabilities(tested)
    return Found(tested, table, uncertainty(records), spreads, curves)


def missing(run: Run) -> list[str]:
    """What cannot be computed as per-image records stayed at the hospitals; nothing where they did not."""
    if not len(run.shared):
        return []
    if run.plan.scenario.task == "segmentation":
        texts = ["how the scores of a center's images are spread"]
        texts += ["EndoCV2021's scores"] if OFFICIAL in run.plan.scenario.evaluation.scoring else []
    else:
        texts = ["which class was taken for which", "calibration curves"]
    if run.plan.scenario.published:
        texts.append("beside published numbers, those of several hospitals' images together")
    return [*texts, "any picture: there is no gallery"]


def _tables(run: Run, found: Found | None) -> dict[str, Table]:
    plan, task = run.plan, run.plan.scenario.task
    tables = {}
    if found:
        scores = centers.scores_table(found.table, plan, found.sure)
        tables["centers"] = replace(scores, warnings=_warnings(run, found.sure), notes=_notes(plan))
        if beside := published_table(run):
            tables["published"] = beside
        told = not found.stayed or (found.tested["kind"] == "suite").any()
        if found.stayed and told:
            tables["suite"] = centers.suite_table(found.tested, plan)
        if task == "segmentation" and told:
            tables["alarms"] = centers.alarms_table(found.tested, plan)
            if sizes := centers.sizes_table(found.tested, plan):
                tables["sizes"] = sizes
        if OFFICIAL in plan.scenario.evaluation.scoring and not found.stayed:
            tables["challenge"] = centers.challenge_table(run.samples)
        if task == "classification" and not found.stayed:
            matrices = centers.confusion_tables(found.tested)
            tables |= {f"confusion-{scope}": table for scope, table in matrices.items()}
    if run.finished and run.members:
        tables["members"] = members_table(run)
    cost = pd.concat([run.rounds, *(member.rounds for member in run.members.values())])
    if len(cost):
        tables["cost"] = _cost(cost, plan)
    if found and len(run.rounds):
        tables["speed"] = _speed(speed(run.rounds, _facts(run)), plan)
    tables["holdings"] = _holdings(plan)
    if found and found.spreads:
        tables["spread"] = centers.spreads_table(found.spreads, "Centers" if found.many else "Images of every center")
    if found and found.reliabilities:
        tables["calibration"] = centers.calibration_table(found.reliabilities)
    return tables | {name: _curve_table(title, lines) for name, (title, lines) in _curves(run).items()}


def _said(plan: Plan) -> list[str]:
    """Warnings that the page has elsewhere."""
    warnings = [RENDERED] if plan.rendered else []
    warnings += [f"Test and training data overlap: {leak}." for leak in plan.leaks]
    if plan.scenario.evaluation.select == "oracle":
        warnings.append("An upper bound, not a result: the round was chosen by looking at the holdout.")
    return [*warnings, *(f"Leakage not ruled out: {text}." for text in plan.unchecked)]


def _warnings(run: Run, sure: Uncertainty) -> tuple[str, ...]:
    warnings = _said(run.plan)
    warnings += [f"Intervals: {sure.warning}."] if sure.warning else []
    return *warnings, *([f"Selection: {run.unscored}."] if run.unscored else [])


def _notes(plan: Plan) -> tuple[str, ...]:
    scenario = plan.scenario
    return (
        f"{REDUCTIONS[scenario.task].format(threshold=scenario.evaluation.threshold)} A dash: nothing to score.",
        f"95 % interval: percentile bootstrap of {TITLES[headline(scenario.task)]}, {DRAWS:,} draws of whole groups "
        "within every center. It is about these centers and this one training: it does not speak of a hospital that is "
        "not in the table, nor of another seed; that of the worst center takes no account of its being picked.",
    )


def download(tables: Mapping[str, Table], name: str) -> Markup:
    """A link that saves a table, or the numbers of a figure, as CSV out of the page itself."""
    data = base64.b64encode(csv_text(tables[name]).encode()).decode()
    link = '<a class="csv" download="{}.csv" href="data:text/csv;base64,{}" aria-label="CSV: {}">CSV</a>'
    return Markup(link).format(name, data, tables[name].caption)


def _pictures(found: Found, task: str) -> list[Picture]:
    metric = TITLES[headline(task)]
    by_center = centers.scores_chart(found.table, task, found.sure)
    which = f"the {LOWEST} lowest of {len(found.table):,} centers, each" if found.many else "every center"
    pictures = [Picture(f"{metric} of {which} with its 95 % interval", by_center, "centers")]
    if found.spreads:
        what, whose = ("a center", "every center") if found.many else ("an image", "every image, by center")
        spread = charts.spreads_chart(found.spreads, f"{metric} of {what}")
        pictures.append(Picture(f"{metric} of {whose}", spread, "spread"))
    return [picture for picture in pictures if picture.chart]


def _calibration(curves: Sequence[Reliability]) -> Picture:
    errors, calibrated = (
        ", ".join(f"{three_decimals(getattr(curve, of))} at {curve.name} centers" for curve in curves)
        for of in ("error", "calibrated")
    )
    title = f"Expected calibration error, mean over centers: {errors} (of a calibrated network on so few images"
    return Picture(f"{title} {calibrated})", charts.reliability_chart(curves), "calibration")


def _state(run: Run) -> dict[str, Any]:
    """What ``result.json`` says, or will say: rounds done, best round, seconds, failures, the weights' sha256."""
    if run.finished:
        return {**run.result, "finished": True}
    last = run.committed() or Checkpoint(0, {}, {})
    return {
        "rounds": last.round,
        "best_round": last.best,
        "wall_s": last.wall_s,
        "failures": last.failures,
        "weights_sha256": None,
        "finished": False,
    }


def _facts(run: Run) -> dict[str, Any]:
    """environment.json"""
    return read_json(run.folder / "environment.json")


def cards(plan: Plan) -> list[Card]:
    """Of the datasets that the plan's images are from."""
    return [DATASETS[name].card for name in sorted(plan.samples["dataset"].unique())]


# ---- tables


def members_table(run: Run) -> Table:
    """An ensemble against its members, with links to their own reports."""
    comparison, metric = run.comparison(), TITLES[headline(run.plan.scenario.task)]
    scores = [column for column in comparison if column not in ("model", "best_round", "wall_s")]
    rows = []
    for row in comparison.to_dict("records"):
        ensemble = row["model"] == "ensemble"
        best, link = ("", "") if ensemble else (int(row["best_round"]), f"members/{row['model']}/report.html")
        cells = (*(float(row[column]) for column in scores), best, float(row["wall_s"]))
        rows.append(Row(row["model"], "", cells, link))
    titles = [str(column).capitalize() if column in ("seen", "unseen") else str(column) for column in scores]
    columns = (*map(Column, titles), Column("Best round"), Column("Wall time, s", WHOLE))
    caption = f"{metric} of every member under its own best round, and of the ensemble they form"
    return Table(caption, columns, tuple(rows[:-1]), (rows[-1],), head="Model")


def _rounds(run: Run, done: int) -> str:
    """What has been trained, in words."""
    rounds, scenario = run.plan.scenario.federation.rounds, run.plan.stage("").scenario
    parsed = ensembles.parse(scenario.model, scenario.task)
    if parsed is None:
        return f"{done} of {rounds} rounds"
    finished = sum(member.finished for member in run.members.values())
    fused = f"learned in {done} of {parsed.fusion.rounds} rounds" if parsed.fusion.name == "learned" else ""
    return f"{finished} of {len(run.members)} members of {rounds} rounds each, fusion {fused or parsed.fusion.name}"


# ---- over rounds


def _curves(run: Run) -> dict[str, tuple[str, list[Line]]]:
    """What is drawn over rounds: the name of its table -> (title, a line a center); nothing before round 1."""
    rounds, scenario = run.rounds, run.plan.scenario
    (phase, role), metric = looked_at(scenario.evaluation.select), headline(scenario.task)
    title = f"{'Holdout test' if phase == 'test' else 'Validation'} {TITLES[metric]}"
    curves = {
        "curve-loss": ("Training loss", _lines(rounds, "train", "train", "loss")),
        f"curve-{metric}": (title, _lines(rounds, phase, role, metric)),
    }
    return {name: curve for name, curve in curves.items() if any(line.points for line in curve[1])}


def _curve_table(title: str, lines: Sequence[Line]) -> Table:
    """The numbers of a chart over rounds."""
    values = [dict(line.points) for line in lines]
    rows = [
        Row(str(number), "", tuple(own.get(number, math.nan) for own in values))
        for number in sorted(set().union(*values))
    ]
    return Table(f"{title} by round", tuple(Column(line.name) for line in lines), tuple(rows), head="Round")


def _lines(rounds: pd.DataFrame, phase: str, role: str, metric: str) -> list[Line]:
    """One line a center, of more than :data:`MANY` their tenths; and their mean where there are several validated."""
    if rounds.empty:
        return []
    chosen = rounds[(rounds["phase"] == phase) & (rounds["metric"] == metric) & (rounds["role"] == role)]
    # An ensemble in which nothing is trained has a round 0 and no curve.
    chosen = chosen[chosen["round"] > 0]
    # The closing test repeats rounds that `oracle` has seen already, with the same values.
    values = chosen.drop_duplicates(["round", "center"]).pivot(index="round", columns="center", values="value")
    shown = values
    if len(values.columns) > MANY:
        tenths = {"lowest tenth of centers": 0.1, "median center": 0.5, "highest tenth of centers": 0.9}
        shown = pd.DataFrame({name: values.quantile(share, axis=1) for name, share in tenths.items()})
    lines = [Line(str(name), *charts.line_style(index, role), _points(shown[name])) for index, name in enumerate(shown)]
    if phase != "train" and len(lines) > 1:
        # Not of those alone that were heard of in a round.
        lines.append(
            Line("mean of centers", "mean", "", _points(values.dropna(axis=1, how="all").mean(axis=1, skipna=False)))
        )
    return lines


def _points(values: pd.Series) -> tuple[tuple[int, float], ...]:
    return tuple((int(place), float(value)) for place, value in values.items() if math.isfinite(value))


# ---- pictures


def _gallery(folder: Path, plan: Plan, metric: str) -> tuple[list[Strip], list[str]]:
    """A strip for every center that has one, and the centers left out for the report's size."""
    shown, left_out, size = [], [], LINES_BYTES * len(plan.centers)
    for center, role in in_order(plan)["role"].items():
        listing = folder / f"{center}.json"
        if not listing.is_file():
            continue
        cases = tuple(_case(folder, case, metric, plan.scenario.task) for case in read_json(listing))
        size += sum(len(case.jpeg) for case in cases)
        if size > GALLERY_BYTES:
            left_out.append(str(center))
        else:
            shown.append(Strip(str(center), role, cases))
    return shown, [*left_out[:10], *([f"{len(left_out) - 10} more"] if len(left_out) > 10 else [])]


def _case(folder: Path, case: dict[str, Any], metric: str, task: str) -> Case:
    if task == "segmentation":
        says = f"{metric} {case['score']:.2f}"
    else:
        says = f"labelled {case['truth']}, predicted {case['prediction']}; probability of the label {case['score']:.2f}"
    jpeg = base64.b64encode((folder / case["file"]).read_bytes()).decode()
    return Case(case["rank"], says, case["sample"], jpeg)


# ---- what it took, who took part


def _cost(rounds: pd.DataFrame, plan: Plan) -> Table:
    """Cost by center. An evaluation stands in one row a metric with the same cost in each: one of them counts."""
    once = rounds[rounds["metric"].isin(["loss", headline(plan.scenario.task)]) & (rounds["center"] != "")]
    training = once["phase"] == "train"
    sums = once.groupby("center")[["steps", "bytes_down", "bytes_up"]].sum()
    sums["train_s"] = once[training].groupby("center")["seconds"].sum()
    sums["evaluate_s"] = once[~training].groupby("center")["seconds"].sum()
    sums["peak_mib"] = once.groupby("center")["peak_mib"].max()
    sums = sums.fillna(0.0)
    rows = tuple(
        Row(str(center), row["role"], (row["part"], *_cost_cells(row)))
        for center, row in in_order(plan).join(sums, how="inner").iterrows()
    )
    total = pd.concat([sums.drop(columns="peak_mib").sum(), sums[["peak_mib"]].max()])
    columns = [Column("Role"), Column("Steps")]
    columns += [Column(title, ONE) for title in ("Training, s", "Evaluation, s", "Down, MB", "Up, MB")]
    columns += [Column("Peak memory, MiB", WHOLE)]
    notes = (
        "Down and up: weights and the algorithm's own arrays, to and from the center, for training and, as weights go "
        "out for them as well, validation and test, in units of 10⁶ bytes; over real sites a round's validation "
        "travels with the next one's training. Seconds are summed over centers, also where they worked at the same "
        "time. Peak memory, largest and not summed, is that of the process that worked for the center, or of its GPU; "
        "in simulation one process works for several centers.",
    )
    total_row = Row("All", "", ("", *_cost_cells(total)))
    return Table("Cost by center, all rounds", tuple(columns), rows, (total_row,), notes=notes)


def _cost_cells(cost: pd.Series) -> tuple[int | float, ...]:
    seconds = (float(cost["train_s"]), float(cost["evaluate_s"]))
    return int(cost["steps"]), *seconds, cost["bytes_down"] / 1e6, cost["bytes_up"] / 1e6, float(cost["peak_mib"])


def _speed(found: pd.DataFrame, plan: Plan) -> Table:
    """found: :func:`~fedkvasir.evaluation.suite.speed`."""
    parts = in_order(plan)["part"]

    def cells(own: Any) -> tuple[int | float, ...]:
        images, seconds = int(own["images"]), (float(own["seconds"]), float(own["network_s"]))
        return images, *(images / each for each in seconds), float(own["peak_mib"])

    rows = [Row(row["center"], row["role"], (parts[row["center"]], *cells(row))) for row in found.to_dict("records")]
    whole = found[["images", "seconds", "network_s"]].sum()
    total = Row("All", "", ("", *cells({**whole, "peak_mib": found["peak_mib"].max()})))
    columns = [Column("Role"), Column("Images evaluated"), Column("Images/s", ONE)]
    columns += [Column("Images/s, network alone", ONE), Column("Peak memory, MiB", WHOLE)]
    return Table("Speed of inference on test images", tuple(columns), tuple(rows), (total,))


def _holdings(plan: Plan) -> Table:
    """Who holds what."""
    own = plan.samples.groupby("center")
    held = plan.holdings.assign(dataset=own["dataset"].first(), groups=own["group"].nunique())
    held = in_order(plan)[["part"]].join(held, how="inner")
    counts = ["train", "val", "test", "groups"]
    rows = tuple(
        Row(str(center), row["role"], (row["part"], row["dataset"], *map(int, row[counts])))
        for center, row in held.iterrows()
    )
    columns = tuple(map(Column, ("Role", "Dataset", "Train", "Validation", "Test", "Groups")))
    total = Row("All", "", ("", "", *map(int, held[counts].sum())))
    return Table("Images by center and split", columns, rows, (total,))


def environment(run: Run) -> Sequence[tuple[str, str]]:
    """On what, and with which versions, a run was computed; over real sites, on what it was coordinated."""
    facts, plan = _facts(run), run.plan
    machine, versions = facts["machine"], facts["versions"]
    parts = [machine["processor"], *filter(None, [machine.get("instructions")]), f"{machine['cores']} cores"]
    parts += [f"{machine['memory_gib']} GiB memory", f"GPU: {', '.join(machine['gpus']) or 'none'}"]
    machines, system, python, packages = (
        f"Coordinator's {name}" if facts["engine"] == "sites" else name.capitalize()
        for name in ("machine", "system", "Python", "packages")
    )
    return (
        (machines, ", ".join(parts)),
        (system, machine["system"]),
        (
            "Computed on",
            f"{plan.device} in {plan.precision}, {plan.scenario.resources.threads_per_center} thread(s) a center",
        ),
        ("Engine", f"{facts['engine']}, {facts['workers']} worker(s)"),
        (python, facts["python"]),
        (packages, ", ".join(f"{name} {version}" for name, version in versions.items())),
    )
