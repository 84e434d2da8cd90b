"""Several methods side by side: tables, charts and a page out of what a comparison finds."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from fedkvasir.evaluation.groups import ROLES
from fedkvasir.evaluation.intervals import DRAWS
from fedkvasir.files import write_atomic
from fedkvasir.report import TEMPLATES, charts
from fedkvasir.report.centers import NONE
from fedkvasir.report.charts import Mark, Marks
from fedkvasir.report.findings import FAIRNESS, Findings, is_shown, long_csv, ranking_sentence
from fedkvasir.report.tables import RENDERED, TWO, Column, Estimate, Row, Table, p_value


def tables(findings: Findings) -> dict[str, Table]:
    """Every table of the page by name."""
    found = {"scores": _scores(findings), "centers": _centers(findings)}
    if findings.pairs:
        found["pairs"] = _pairs(findings)
    if findings.rankings:
        found["ranks"] = _ranks(findings)
    return found | {"fairness": _fairness(findings), "runs": _runs(findings)}


def said(findings: Findings) -> list[str]:
    """Warnings that the page has elsewhere."""
    return [*([RENDERED] if findings.rendered else []), *(f"Take care: {alarm}." for alarm in findings.alarms)]


def _scores(findings: Findings) -> Table:
    """A method a row: seen, unseen, gap, as far as there are such centers, and the worst center."""
    every = pd.concat(findings.scores.values())
    scopes = [scope for scope in (*ROLES, "gap") if every.loc[every["scope"] == scope, "score"].notna().any()]
    rows = []
    for method in findings.methods:
        found = findings.scores[method.name]
        summaries = [_estimate(found[found["scope"] == scope].iloc[0]) for scope in scopes]
        centers = found[(found["scope"] == "center") & found["score"].notna()]
        last = centers.loc[centers["score"].idxmin()] if len(centers) else None
        worst = ("", Estimate(math.nan, *NONE)) if last is None else (str(last["center"]), _estimate(last))
        rows.append(Row(method.name, "", (*summaries, *worst)))
    titles = (*map(str.capitalize, scopes), "Worst center", f"{findings.metric} there")
    caption = f"{findings.metric} of every method with its 95 % interval"
    warnings = said(findings)
    warnings += [f"Leakage not ruled out: {text}." for text in findings.unchecked]
    warnings += [f"Intervals: {caution}." for caution in findings.cautions]
    warnings += [f"Test images {findings.other_images}."] if findings.other_images else []
    note = (
        "Seen: uniform mean over centers that trained; unseen: over holdouts; the gap is seen minus unseen. 95 % "
        f"interval: percentile bootstrap, {DRAWS:,} draws, each of whole groups within every center, and of how much "
        "each seed counts. It is about these centers and does not speak of a hospital that is not among them; that of "
        "the worst center takes no account of its being picked."
    )
    columns = tuple(map(Column, titles))
    return Table(caption, columns, tuple(rows), head="Method", warnings=tuple(warnings), notes=(note,))


def _centers(findings: Findings) -> Table:
    """A center a row, a method a column."""
    held: dict[tuple[str, str], dict[str, Estimate]] = {}
    for method in findings.methods:
        found = findings.scores[method.name]
        for row in found[found["scope"] == "center"].to_dict("records"):
            center = str(row["center"])
            held.setdefault((method.scopes[center], center), {})[method.name] = _estimate(row)
    names = [method.name for method in findings.methods]
    rows = tuple(
        Row(center, ROLES[scope], (scope, *(own.get(name, "") for name in names)))
        for (scope, center), own in sorted(held.items())
    )
    caption = f"{findings.metric} of every method at every center with its 95 % interval"
    return Table(caption, (Column("Scope"), *map(Column, names)), rows)


def _pairs(findings: Findings) -> Table:
    rows = [
        Row(
            f"{pair.first} − {pair.second}",
            "",
            (
                pair.scope,
                Estimate(pair.difference, pair.low, pair.high),
                pair.median,
                f"{pair.wins}, {pair.ties}, {pair.losses}",
                pair.rank_biserial,
                pair.p,
                pair.p_holm,
            ),
        )
        for pair in findings.pairs
    ]
    columns = (
        Column("Scope"),
        Column(f"Difference in {findings.metric}"),
        Column(f"Median of groups{_group_metric(findings)}"),
        Column("Won, tied, lost"),
        Column("Rank-biserial", TWO),
        Column("p", p_value),
        Column("p after Holm", p_value),
    )
    how = "ranks within centers" if findings.missing else "all centers of a scope together"
    holm = f"; Holm over all {len(rows)} comparisons" if len(rows) > 1 else ""
    note = (
        "Wilcoxon's signed-rank test on the groups' means over a method's seeds (Pratt's zeros), two-sided, "
        f"{how}{holm}. Better is said only where p after Holm is below 0.05 and the interval of the difference lies on "
        "the same side of zero; that a method is better, only where both have several seeds. A dash: not tested, fewer "
        "than six groups that differ."
    )
    caption = "Every comparison, on the images that both have"
    warnings = tuple(f"{text}." for text in findings.notes)
    return Table(caption, columns, tuple(rows), head="Difference", warnings=warnings, notes=(note,))


def _group_metric(findings: Findings) -> str:
    """Said only where groups are judged by something else than the table's metric."""
    pair = findings.pairs[0]
    return "" if pair.group_metric == pair.metric else f", {pair.group_metric}"


def _ranks(findings: Findings) -> Table:
    rows = tuple(
        Row(method.name, "", tuple(ranking.ranks[method.name] for ranking in findings.rankings.values()))
        for method in findings.methods
    )
    columns = tuple(Column(f"On {scope} centers", TWO) for scope in findings.rankings)
    metric = next(iter(findings.rankings.values())).metric
    return Table(f"Average rank over groups by {metric}, 1 is best", columns, rows, head="Method")


def _fairness(findings: Findings) -> Table:
    names = [name for name in FAIRNESS if any(own[name].notna().any() for own in findings.fairness.values())]
    rows = []
    for method, found in findings.fairness.items():
        there = found[found["centers"] > 0]
        # Where all centers have one role the last line, of all, would say the same again.
        for row in (there if len(there) == len(found) else there.iloc[:-1]).to_dict("records"):
            rows.append(Row(method, "", (row["scope"], int(row["centers"]), *(float(row[name]) for name in names))))
    columns = (Column("Scope"), Column("Centers"), *(Column(FAIRNESS[name]) for name in names))
    caption = f"{findings.metric}: how evenly a method serves the centers"
    return Table(caption, columns, tuple(rows), head="Method")


def _runs(findings: Findings) -> Table:
    """A run a row, by method."""
    rows = tuple(
        Row(method.name, "", (run.plan.scenario.seed, best_round, run.folder.resolve().name, ", ".join(method.differs)))
        for method in findings.methods
        for best_round, run in zip(method.best_rounds, method.runs, strict=True)
    )
    columns = tuple(map(Column, ("Seed", "Best round", "Run folder", "Differs from others in")))
    return Table("The runs of every method", columns, rows, head="Method")


def _estimate(row: Mapping[Any, Any] | pd.Series) -> Estimate:
    return Estimate(float(row["score"]), float(row["low"]), float(row["high"]))


# ---- the page


def build_comparison(findings: Findings, out: Path) -> Path:
    """Write ``comparison.html``, ``comparison.csv`` and a ``critical-difference-<scope>.svg``; returns the page.

    The same runs give the same bytes.
    """
    write_atomic(out / "comparison.csv", long_csv(findings))
    described, page = describe(findings), out / "comparison.html"
    for scope, chart in described["ranks"].items():
        write_atomic(out / f"critical-difference-{scope}.svg", charts.standalone(chart))
    write_atomic(page, TEMPLATES.get_template("comparison.html").render(described))
    return page


def describe(findings: Findings) -> dict[str, Any]:
    """Everything the template shows."""
    plans = [run.plan for method in findings.methods for run in method.runs]
    return {
        "findings": findings,
        "names": [method.name for method in findings.methods],
        "questions": list(dict.fromkeys(plan.scenario.question for plan in plans if plan.scenario.question)),
        "runs": len(plans),
        "alarms": findings.alarms,
        "said": said(findings),
        "rendered": findings.rendered,
        "differ": [said for pair, said in zip(findings.pairs, findings.sentences, strict=True) if is_shown(pair)],
        # So many sentences nobody reads: those that show a difference stand out, the others can be opened.
        "many": len(findings.pairs) > 6,
        "tables": tables(findings),
        "scores": _scores_chart(findings),
        "differences": {scope: _differences_chart(findings, scope) for scope in findings.scopes},
        "ranks": _rank_charts(findings),
        "rankings": [ranking_sentence(scope, ranking) for scope, ranking in findings.rankings.items()],
        "download": None,
    }


def _scores_chart(findings: Findings) -> Markup:
    rows = []
    for name, found in findings.scores.items():
        marks = [(role, _estimate(found[found["scope"] == scope].iloc[0])) for scope, role in ROLES.items()]
        rows.append(Marks(name, "", tuple(Mark(role, own) for role, own in marks if math.isfinite(own.value))))
    return charts.estimates_chart(rows, findings.metric)


def _differences_chart(findings: Findings, scope: str) -> Markup:
    rows = [
        Marks(f"{pair.first} − {pair.second}", "", (Mark("", Estimate(pair.difference, pair.low, pair.high)),))
        for pair in findings.pairs
        if pair.scope == scope
    ]
    title = f"difference in {findings.metric} on {scope} centers"
    return charts.estimates_chart(
        rows, title, means=[("no difference", Mark("", Estimate(0.0, *NONE)))] if rows else []
    )


def _rank_charts(findings: Findings) -> dict[str, Markup]:
    return {
        scope: charts.critical_difference_chart(ranking.ranks, ranking.critical_difference, ranking.cliques)
        for scope, ranking in findings.rankings.items()
        if math.isfinite(ranking.critical_difference)
    }
