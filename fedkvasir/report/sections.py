"""What the report says, section by section: records in, words, tables and charts out."""

import base64
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from fedkvasir.data.catalog import Card
from fedkvasir.data.datasets import DATASETS
from fedkvasir.evaluation.protocol import headline, summarise
from fedkvasir.metrics import segmentation
from fedkvasir.models import ensemble
from fedkvasir.plan import Plan
from fedkvasir.report import charts
from fedkvasir.report.charts import Dot, Line, three_decimals
from fedkvasir.runs import Checkpoint, Run

TITLES = {
    "dice": "Dice", "iou": "IoU", "precision": "Precision", "recall": "Recall", "dice_images": "Dice over images",
    "missed": "Missed", "negatives": "Negatives", "macro_f1": "Macro F1", "accuracy": "Accuracy",
}  # fmt: skip
REDUCTIONS = {
    "segmentation": "Dice, IoU, precision and recall: mean over the images of a group (a patient, a video sequence, a "
    "cluster of near-duplicates), then over the groups of a center. Seen and unseen: uniform mean over centers, "
    "however many images they hold; the gap is seen minus unseen, taken before rounding. Dice over images is the plain "
    "mean over a center's images. Missed counts images whose polyp was not touched by one pixel: Dice 0, in every "
    "mean. Negatives counts images without polyp and without alarm; they are in no mean.",
    "classification": "Macro F1, precision and recall: over all images of a center, then uniform mean over the classes "
    "that occur there. Accuracy: share of a center's images. Seen and unseen: uniform mean over centers, however many "
    "images they hold; the gap is seen minus unseen, taken before rounding.",
}
RULES = {
    "train-val": "the round with the highest {metric} on the training centers' validation images, uniform "
    "mean over centers, the earliest of equals. No test image and no holdout had a say.",
    "last": "the last round, whatever its scores.",
    "oracle": "the round with the highest {metric} on the holdouts' own test images, uniform mean over "
    "centers. That is looking at the answer: an upper bound, never a result.",
}
LEAK = "LEAKAGE: "
"""How the plan begins a warning that test and training data overlap."""
GALLERY_BYTES = 7_000_000
"""Of pictures as text; leaves the whole report below 8 MB however many centers there are."""


@dataclass(frozen=True)
class Row:
    head: str
    role: str
    """train, holdout, or empty for a line that is no center."""
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    caption: str
    columns: tuple[str, ...]
    rows: tuple[Row, ...]
    footer: tuple[Row, ...] = ()
    head: str = "Center"


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


def describe(run: Run) -> dict[str, Any]:
    """Everything the template shows. ``None`` or empty: not there, or not there yet."""
    plan, scenario = run.plan, run.plan.scenario
    metric, rule = TITLES[headline(scenario.task)], scenario.evaluation.select
    state, rounds = _state(run), run.rounds
    scores = run.table() if run.finished else pd.DataFrame()
    gallery, left_out = _gallery(run.folder / "gallery", plan, metric)
    # An ensemble in which nothing is trained has a round 0 and no curve.
    curves = rounds if state["rounds"] else rounds.head(0)
    losses, validation = _lines(curves, "train", "loss"), _lines(curves, *_selected_on(plan))
    cost = pd.concat([rounds, *(member.rounds for member in run.members.values())])
    best_label = "best: round" if run.finished else "best so far: round"
    return {
        "plan": plan,
        "scenario": scenario,
        "name": run.folder.resolve().name,
        "state": state,
        "metric": metric,
        "answer": _answer(scores, scenario.task) if len(scores) else None,
        "cards": _cards(plan),
        "rendered": plan.rendered,
        "leaks": [text.removeprefix(LEAK) for text in plan.warnings if text.startswith(LEAK)],
        "warnings": [text for text in plan.warnings if not text.startswith(LEAK)],
        "scores": _scores(scores, plan) if len(scores) else None,
        "members": _members(run, metric) if run.finished and run.members else None,
        "rounds": _rounds(run, state["rounds"]),
        "reduction": REDUCTIONS[scenario.task],
        "picture": _picture(run.samples, scores, scenario.task) if len(scores) else None,
        "legend": [
            (charts.swatch(line), line.name) for line in {line.name: line for line in losses + validation}.values()
        ],
        "curves": {
            "Training loss": charts.rounds_chart(losses, "Training loss", state["best_round"], best_label),
            _title_of_selection(plan, metric): charts.rounds_chart(
                validation, _title_of_selection(plan, metric), state["best_round"], best_label
            ),
        },
        "rule": RULES[rule].format(metric=metric),
        "gallery": gallery,
        "left_out": left_out,
        "cost": _cost(cost, plan) if len(cost) else None,
        "holdings": _holdings(plan),
        "environment": _environment(json.loads((run.folder / "environment.json").read_text()), plan),
        "key": charts.key,
    }


def _state(run: Run) -> dict[str, Any]:
    """What ``result.json`` says, or will say: rounds done, best round, seconds, failures, the weights' sha256."""
    if run.finished:
        return {**run.result, "finished": True}
    last = run.latest() or Checkpoint(0, {}, {})
    return {
        "rounds": last.round,
        "best_round": last.best,
        "wall_s": last.wall_s,
        "failures": last.failures,
        "weights_sha256": None,
        "finished": False,
    }


def _centers(plan: Plan) -> pd.DataFrame:
    """``plan.centers`` in the report's order, who trains first, then holdouts, by name; ``part`` is the role in words.

    A center that was cut into hospitals keeps their common test set under its own name.
    """
    centers = plan.centers.rename_axis("center").sort_values(["role", "center"], ascending=[False, True])
    trains = centers["train"].gt(0).map({True: "trains", False: "common test set"})
    return centers.assign(part=trains.where(centers["role"] == "train", "holdout"))


def _cards(plan: Plan) -> list[Card]:
    return [DATASETS[name].card for name in sorted(plan.samples["dataset"].unique())]


# ---- the answer


def _answer(table: pd.DataFrame, task: str) -> str:
    """The run's result as a sentence; says what cannot be said."""
    summary, name = summarise(table, task), TITLES[headline(task)]
    scored = table[table[summary.metric].notna()]
    unseen = list(scored.loc[scored["role"] == "holdout", "center"])
    if not len(scored):
        return f"No test image can be scored: none shows a polyp, none raised an alarm, and {name} says nothing there."
    if not unseen:
        why = (
            "no held-out image can be scored"
            if (table["role"] == "holdout").any()
            else "no hospital was held out, so this says nothing about others"
        )
        text = f"{name} {summary.seen:.2f} at hospitals that trained; {why}"
    elif math.isnan(summary.seen):
        text = f"{name} {summary.unseen:.2f} {_place(unseen)}, which took no part; no training center has a score"
    else:
        text = (
            f"{name} {summary.seen:.2f} at hospitals that trained, {summary.unseen:.2f} {_place(unseen)}, "
            f"which took no part: {_gap(summary.gap)}"
        )
    worst = f"; worst center {summary.worst_center} {summary.worst:.2f}" if len(scored) > 1 else ""
    return f"{text}{worst}."


def _place(centers: list[str]) -> str:
    if len(centers) == 1:
        return f"at {centers[0]}"
    named = f"{', '.join(centers[:-1])} and {centers[-1]}" if len(centers) <= 4 else f"{len(centers)} hospitals"
    return f"on average at {named}"


def _gap(gap: float) -> str:
    if abs(gap) < 0.005:
        return "no gap"
    return f"a gap of {gap:.2f}" if gap > 0 else f"no gap, {-gap:.2f} better than at home"


def _scores(table: pd.DataFrame, plan: Plan) -> Table:
    """The table of centers with its seen, unseen, gap and worst lines."""
    parts = _centers(plan)["part"]
    counts = ("images", "groups", "missed", "negatives")
    columns = [column for column in table.columns if column not in ("center", "role")]
    rows = [
        Row(
            row["center"],
            row["role"],
            (parts[row["center"]], *(_cell(row[name], name in counts) for name in columns)),
        )
        for _, row in table.iterrows()
    ]
    summary = summarise(table, plan.scenario.task)
    means = table.groupby("role")[columns].mean().reindex(["train", "holdout"])
    sums = table.groupby("role")[columns].sum().reindex(["train", "holdout"])
    footer = []
    for role, name in (("train", "Seen, mean"), ("holdout", "Unseen, mean")):
        if (table["role"] == role).any():
            cells = [_cell(sums.loc[role, c], True) if c in counts else _cell(means.loc[role, c]) for c in columns]
            footer.append(Row(name, role, ("", *cells)))
    if math.isfinite(summary.gap):
        gaps = means.loc["train"] - means.loc["holdout"]
        cells = ["" if c in counts else _cell(gaps[c]) for c in columns]
        footer.append(Row("Gap", "", ("", *cells)))
    if summary.worst_center:
        cells = [_cell(summary.worst) if name == summary.metric else "" for name in columns]
        footer.append(Row(f"Worst: {summary.worst_center}", "", ("", *cells)))
    titles = ("Role", *(TITLES.get(name, name.capitalize()) for name in columns))
    return Table("Test images of every center under the best round's weights", titles, tuple(rows), tuple(footer))


def _members(run: Run, metric: str) -> Table:
    """An ensemble against its members, with links to their own reports."""
    comparison = run.comparison()
    scores = [column for column in comparison if column not in ("model", "best_round", "wall_s")]
    rows = []
    for row in comparison.to_dict("records"):
        name, cells = row["model"], [three_decimals(float(row[column])) for column in scores]
        ensemble = name == "ensemble"
        head = name if ensemble else Markup('<a href="members/{0}/report.html">{0}</a>').format(name)
        rows.append(Row(head, "", (*cells, "" if ensemble else str(row["best_round"]), f"{row['wall_s']:,.0f}")))
    columns = (*(str(column).capitalize() if column in ("seen", "unseen") else str(column) for column in scores),)
    caption = f"{metric} of every member under its own best round, and of the ensemble they form"
    titles = (*columns, "Best round", "Wall time, s")
    return Table(caption, titles, tuple(rows[:-1]), (rows[-1],), head="Model")


def _rounds(run: Run, done: int) -> str:
    """What has been trained, in words."""
    scenario = run.plan.scenario
    rounds, parsed = scenario.federation.rounds, ensemble.parse(scenario.model, scenario.task)
    if parsed is None:
        return f"{done} of {rounds} rounds"
    finished = sum(member.finished for member in run.members.values())
    fused = f"learned in {done} of {parsed.fusion.rounds} rounds" if parsed.fusion.name == "learned" else ""
    return f"{finished} of {len(run.members)} members of {rounds} rounds each, fusion {fused or parsed.fusion.name}"


def _cell(value: Any, is_count: bool = False) -> str:
    return f"{int(value):,}" if is_count else three_decimals(float(value))


def _picture(samples: pd.DataFrame, table: pd.DataFrame, task: str) -> Markup:
    summary = summarise(table, task)
    tested = samples[(samples["checkpoint"] == "best") & (samples["split"] == "test")]
    dots = []
    for _, row in table.iterrows():
        quartiles = None
        if task == "segmentation":
            images = segmentation.by_image(tested[tested["center"] == row["center"]])[summary.metric].dropna()
            quartiles = (float(images.quantile(0.25)), float(images.quantile(0.75))) if len(images) else None
        dots.append(Dot(row["center"], row["role"], float(row[summary.metric]), quartiles))
    return charts.centers_chart(dots, TITLES[summary.metric], summary.seen, summary.unseen)


# ---- over rounds


def _selected_on(plan: Plan) -> tuple[str, str]:
    """(phase, metric) of the records that a round's score is made of."""
    oracle = plan.scenario.evaluation.select == "oracle"
    return "test" if oracle else "val", headline(plan.scenario.task)


def _title_of_selection(plan: Plan, metric: str) -> str:
    return f"{'Holdout test' if _selected_on(plan)[0] == 'test' else 'Validation'} {metric}"


def _lines(rounds: pd.DataFrame, phase: str, metric: str) -> list[Line]:
    """One line a center, and their mean where there are several validated."""
    if rounds.empty:
        return []
    role = "holdout" if phase == "test" else "train"
    chosen = rounds[(rounds["phase"] == phase) & (rounds["metric"] == metric) & (rounds["role"] == role)]
    # The closing test repeats rounds that `oracle` has seen already, with the same values.
    values = chosen.drop_duplicates(["round", "center"]).pivot(index="round", columns="center", values="value")
    lines = [
        Line(str(center), *charts.line_style(index, role), _points(values[center]))
        for index, center in enumerate(values.columns)
    ]
    if phase != "train" and len(lines) > 1:
        lines.append(Line("mean of centers", "mean", "", _points(values.mean(axis=1))))
    return lines


def _points(values: pd.Series) -> tuple[tuple[int, float], ...]:
    return tuple((int(place), float(value)) for place, value in values.items() if math.isfinite(value))


# ---- pictures


def _gallery(folder: Path, plan: Plan, metric: str) -> tuple[list[Strip], list[str]]:
    """A strip for every center that has one, and the centers left out for the report's size."""
    shown, left_out, size = [], [], 0
    for center, role in _centers(plan)["role"].items():
        listing = folder / f"{center}.json"
        if not listing.is_file():
            continue
        cases = tuple(_case(folder, case, metric, plan.scenario.task) for case in json.loads(listing.read_text()))
        size += sum(len(case.jpeg) for case in cases)
        if size > GALLERY_BYTES:
            left_out.append(str(center))
        else:
            shown.append(Strip(str(center), role, cases))
    return shown, left_out


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
    rows = [
        Row(str(center), row["role"], (row["part"], *_cost_cells(row)))
        for center, row in _centers(plan).join(sums, how="inner").iterrows()
    ]
    total = pd.concat([sums.drop(columns="peak_mib").sum(), sums[["peak_mib"]].max()])
    columns = ("Role", "Steps", "Training, s", "Evaluation, s", "Down, MB", "Up, MB", "Peak memory, MiB")
    return Table("Cost by center, all rounds", columns, tuple(rows), (Row("All", "", ("", *_cost_cells(total))),))


def _cost_cells(cost: pd.Series) -> tuple[str, ...]:
    return (
        f"{cost['steps']:,.0f}",
        f"{cost['train_s']:,.1f}",
        f"{cost['evaluate_s']:,.1f}",
        f"{cost['bytes_down'] / 1e6:,.1f}",
        f"{cost['bytes_up'] / 1e6:,.1f}",
        f"{cost['peak_mib']:,.0f}",
    )


def _holdings(plan: Plan) -> Table:
    """Who holds what."""
    own = plan.samples.groupby("center")
    centers = _centers(plan).assign(dataset=own["dataset"].first(), groups=own["group"].nunique())
    counts = ("train", "val", "test", "groups")
    rows = [
        Row(str(center), row["role"], (row["part"], row["dataset"], *(f"{row[name]:,}" for name in counts)))
        for center, row in centers.iterrows()
    ]
    columns = ("Role", "Dataset", "Train", "Validation", "Test", "Groups")
    total = Row("All", "", ("", "", *(f"{centers[name].sum():,}" for name in counts)))
    return Table("Images by center and split", columns, tuple(rows), (total,))


def _environment(facts: dict[str, Any], plan: Plan) -> Sequence[tuple[str, str]]:
    machine, versions = facts["machine"], facts["versions"]
    gpus = ", ".join(machine["gpus"]) or "none"
    return (
        (
            "Machine",
            f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB memory, GPU: {gpus}",
        ),
        ("System", machine["system"]),
        (
            "Computed on",
            f"{plan.device} in {plan.precision}, {plan.scenario.resources.threads_per_center} thread(s) a center",
        ),
        ("Engine", f"{facts['engine']}, {facts['workers']} worker(s)"),
        ("Python", facts["python"]),
        ("Packages", ", ".join(f"{name} {version}" for name, version in versions.items())),
    )
