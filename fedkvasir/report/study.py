"""A study as one HTML file: which method generalises better, how sure that is, and everything it rests on."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from fedkvasir.data.catalog import Card
from fedkvasir.errors import UserError
from fedkvasir.evaluation.protocol import headline
from fedkvasir.files import write_atomic
from fedkvasir.methods import of_study
from fedkvasir.metrics.segmentation import scored
from fedkvasir.plan import Plan
from fedkvasir.points import LOCAL, cautions, in_words
from fedkvasir.report import TEMPLATES, comparison
from fedkvasir.report.centers import TITLES
from fedkvasir.report.crossing import Crossing, TableOf, crossing_of
from fedkvasir.report.findings import Findings, answer, find, seeds_in_words
from fedkvasir.report.sections import CLEAN, RULES, cards, download, environment
from fedkvasir.report.tables import ONE, TWO, Column, Row, Table, Value, without_empty
from fedkvasir.report.tuning import importance_table, sentences, settings_table
from fedkvasir.runs import Run
from fedkvasir.scenario import LOCALS, POOLED
from fedkvasir.study import Study

KINDS = {
    "holdout": "Holdouts are tested and take no part in training",
    "leave-one-center-out": "Each center in turn is left out: trained on the others, tested on all of it",
    "within": "Tested at the hospitals that train, on other patients",
    "cross-site": "Trained at every hospital alone, and at all together; tested at every one",
}
BASELINES = {
    POOLED: "one network, all images in one place",
    LOCAL: "every hospital alone; its own test images are scored by its own network, those of a center that is held "
    "out, or that hospitals share, by the mean over these hospitals' networks",
    LOCALS: "the hospitals' own networks as one, by the mean of their probabilities",
    "cyclic": "one network that goes from hospital to hospital",
}
ALL, EACH = "all", "each alone"
"""Who trains, in the table of steps."""
IDENTITY = ("method", "holdout", "hospital", "setting", "seed")
"""Columns of the index that say which run a row is."""


@dataclass(frozen=True)
class Outcome:
    """What a study has found so far."""

    study: Study
    index: pd.DataFrame
    runs: Mapping[str, Run]
    """The finished runs of the index by their folder's name."""
    findings: Findings | None
    why: str
    """Why nothing can be compared, where nothing can."""
    tables: Mapping[str, Table]
    crossing: Crossing | None

    @property
    def finished(self) -> bool:
        """No run is left to be done; some may have failed."""
        return not set(self.index["state"]) & {"waiting", "running"}

    @property
    def command(self) -> str:
        """What goes on with it."""
        return "fedkvasir sweep" if self.study.scenario.sweep else "fedkvasir run"

    @property
    def progress(self) -> str:
        counts = Counter(self.index["state"])
        others = "".join(f", {counts[state]} {state}" for state in ("stopped", "failed") if counts[state])
        return f"{counts['finished']} of {len(self.index)} runs finished{others}"

    @property
    def lacking(self) -> Sequence[str]:
        """Methods that are not compared with all seeds, and with which they are."""
        if self.findings is None:
            return []
        seeds = {method.name: method.seeds for method in self.findings.methods}
        held = {name: seeds.get(name, ()) for name in self.index["method"].unique()}
        wanted = len(self.study.protocol.seeds)
        return [
            f"{name} has {seeds_in_words(own) if own else 'none'}" for name, own in held.items() if len(own) < wanted
        ]

    @property
    def alarms(self) -> Sequence[str]:
        """What makes its scores no result at all; each said once, not once a method."""
        texts = [f"test and training data overlap: {overlap}" for overlap in self.overlaps]
        if self.rule == "oracle":
            texts.append("every round was chosen by the holdout: upper bounds, not results")
        return texts

    @property
    def overlaps(self) -> Sequence[str]:
        """Of test and training data, where runs were made all the same."""
        return self._once(lambda plan: plan.leaks)

    @property
    def unchecked(self) -> Sequence[str]:
        """Overlaps that could not be looked for."""
        return self._once(lambda plan: plan.unchecked)

    @property
    def cautions(self) -> Sequence[str]:
        """In what the runs that are finished are not on a par."""
        done = self.index[self.index["state"] == "finished"]
        return cautions((row.method, self.runs[row.run].plan.scenario) for row in done.itertuples())

    @property
    def warnings(self) -> Sequence[str]:
        """Of the runs' plans, besides overlaps, and of how their rounds were chosen."""
        unscored = [f"{name}: {run.unscored}" for name, run in self.runs.items() if run.unscored]
        return [*self._once(lambda plan: plan.cautions), *unscored]

    def _once(self, texts: Callable[[Plan], Sequence[str]]) -> Sequence[str]:
        """What the plans of the runs say, each once."""
        return list(dict.fromkeys(chain.from_iterable(texts(run.plan) for run in self.runs.values())))

    @property
    def rule(self) -> str:
        """How rounds were selected."""
        return self.study.protocol.select or self.study.scenario.evaluation.select

    @property
    def failures(self) -> Sequence[str]:
        """Every run that failed, and why."""
        failed = self.index[self.index["state"] == "failed"]
        return [f"{in_words(*(row[key] for key in IDENTITY))}: {row['reason']}" for row in failed.to_dict("records")]

    @property
    def rendered(self) -> bool:
        return all(run.plan.rendered for run in self.runs.values())

    @property
    def pictures(self) -> bool:
        """In reports of its runs: hospitals that keep their per-image records keep their pictures."""
        return not all(len(run.shared) for run in self.runs.values())

    @property
    def cards(self) -> Sequence[Card]:
        """Of the datasets that any run holds images of."""
        found = {card.title: card for run in self.runs.values() for card in cards(run.plan)}
        return [found[title] for title in sorted(found)]


def outcome_of(study: Study) -> Outcome:
    """Read a study's records, of an unfinished one what is there."""
    return _outcome(study.folder.resolve(), (study.folder / "runs.parquet").read_bytes())


@lru_cache(maxsize=1)  # the page and the terminal ask for the same, and bootstraps take seconds
def _outcome(folder: Path, index_file: bytes) -> Outcome:
    """index_file: runs.parquet; once a run more is finished it is another."""
    study = Study(folder)
    index = study.index
    done = index[index["state"] == "finished"]
    runs = {name: study.run(name) for name in done["run"]}
    if gone := [name for name, run in runs.items() if not run.finished]:
        raise UserError(
            f"{folder}: {len(gone)} of {len(runs)} finished runs are gone, e.g. {gone[0]}; put their folders back "
            "beside the study's, or carry it out again"
        )
    findings, why = None, ""
    try:
        findings = find(of_study(study), "all")
    except UserError as error:
        why = str(error)
    counted = done[done["chosen"]]
    table_of = cache(lambda name: runs[name].table())
    crossing = crossing_of(index, counted, runs, table_of, TITLES[headline(study.scenario.task)])
    tables: dict[str, Table | None] = {}
    if findings:
        tables |= comparison.tables(findings)
        del tables["runs"]  # by method; the study's own come last
        tables["missed"], tables["alone"] = _missed(findings), _alone(findings, counted, runs, table_of)
    tables["crossing"] = crossing.table if crossing else None
    tables["steps"] = _steps(index, counted, runs) if len(counted) else None
    tables["settings"], tables["importance"] = settings_table(index, study), importance_table(index, study)
    tables["runs"] = _runs(index, TITLES[headline(study.scenario.task)])
    there = {name: table for name, table in tables.items() if table is not None}
    return Outcome(study, index, runs, findings, why, there, crossing)


def study_tables(study: Study) -> dict[str, Table]:
    """Every table of a study's report by name; of an unfinished study, those that are there."""
    return dict(outcome_of(study).tables)


def build_study(study: Study) -> Path:
    """Write ``report.html`` into the study's folder and return its path; of an unfinished study, what is there.

    The same folder gives the same bytes.
    """
    path = study.folder / "report.html"
    write_atomic(path, TEMPLATES.get_template("study.html").render(_describe(outcome_of(study))))
    return path


def _describe(outcome: Outcome) -> dict[str, Any]:
    """Everything the template shows."""
    scenario, protocol = outcome.study.scenario, outcome.study.protocol
    metric, names = TITLES[headline(scenario.task)], list(outcome.index["method"].unique())
    compared = comparison.describe(outcome.findings) if outcome.findings else {}
    return compared | {
        "outcome": outcome,
        "scenario": scenario,
        "protocol": protocol,
        "block": yaml.safe_dump(_blocks(outcome.study), sort_keys=False, allow_unicode=True),
        "kind": KINDS[protocol.kind],
        "names": names,
        "seeds": seeds_in_words(protocol.seeds),
        "metric": metric,
        "rule": RULES[outcome.rule].format(metric=metric, clean="" if outcome.overlaps else CLEAN),
        "alarms": outcome.alarms,
        "answer": answer(outcome.findings) if outcome.findings else "",
        "baselines": {name: BASELINES[name] for name in names if name in BASELINES},
        "equal": _equal(outcome.tables.get("steps")),
        "tuning": sentences(outcome.index, outcome.study, not outcome.overlaps) if "settings" in outcome.tables else [],
        "environment": _environment(outcome.runs.values()),
        "tables": outcome.tables,
        "download": partial(download, outcome.tables),
    }


def _blocks(study: Study) -> dict[str, Any]:
    """What makes the study of the scenario."""
    sweep = study.scenario.sweep
    blocks = {"protocol": study.protocol.model_dump(mode="json")}
    return blocks | ({"sweep": sweep.model_dump(mode="json")} if sweep else {})


# ---- in words


def _equal(steps: Table | None) -> bool:
    """Every method took as many steps as any other, with every seed, as far as its runs are finished."""
    whole = [row.cells[1:] for row in steps.rows if row.cells[0] in (ALL, EACH)] if steps else []
    of_seeds = [{total for total in totals if isinstance(total, int)} for totals in zip(*whole, strict=True)]
    return all(len(totals) <= 1 for totals in of_seeds)


def _environment(runs: Iterable[Run]) -> list[tuple[str, str]]:
    """On what the runs were computed; what differs, with how many runs."""
    counts: dict[str, Counter[str]] = {}
    for run in runs:
        for name, value in environment(run):
            counts.setdefault(name, Counter())[value] += 1
    return [
        (name, "; ".join(value if len(found) == 1 else f"{value} ({count} runs)" for value, count in found.items()))
        for name, found in counts.items()
    ]


# ---- tables


def _alone(findings: Findings, counted: pd.DataFrame, runs: Mapping[str, Run], table_of: TableOf) -> Table | None:
    """Hospitals whose own test images a method serves better than the hospital's own network does, means over the seeds
    that both have; hospitals that are parts of one source share its test images, and each has a network."""
    metric = headline(findings.methods[0].runs[0].plan.scenario.task)

    def at_home(rows: pd.DataFrame, center: str) -> pd.Series:
        """Seed -> score at a center that trains, of several networks their mean."""
        scores: dict[int, list[float]] = {}
        for row in rows.itertuples():
            table = table_of(str(row.run))
            home = table[(table["center"] == center) & (table["role"] == "train")]
            scores.setdefault(int(row.seed), []).extend(home[metric])
        return pd.Series({seed: float(np.mean(own)) for seed, own in scores.items() if own}, dtype=float).dropna()

    alone: dict[str, tuple[str, pd.Series]] = {}
    for hospital, own in counted[counted["method"] == LOCAL].groupby("hospital"):
        plan = runs[own["run"].iloc[0]].plan
        source = plan.scenario.data.hospitals.get(
            str(hospital), str(hospital)
        )  # of what was cut, it has the test images
        center = source if plan.centers["test"].get(source, 0) else str(hospital)
        alone[str(hospital)] = center, at_home(own, center)
    names = [method.name for method in findings.methods if method.name != LOCAL]
    if not alone or not names:
        return None
    rows = []
    for name in names:
        worse, better = [], 0
        for hospital, (center, own) in alone.items():
            with_others = at_home(counted[counted["method"] == name], center)
            both = own.index.intersection(with_others.index)
            if len(both) and with_others[both].mean() > own[both].mean():
                better += 1
            elif len(both):
                worse.append(hospital)
        compared = better + len(worse)
        share = better / compared if compared else math.nan
        rows.append(Row(name, "", (compared, better, share, ", ".join(worse))))
    columns = (Column("Hospitals"), Column("Better"), Column("Share", TWO), Column("Not better"))
    caption = f"Hospitals at which {findings.metric} is higher than with their own network, means over seeds"
    return Table(caption, columns, tuple(rows), head="Method")


def _missed(findings: Findings) -> Table | None:
    """Polyps of which nothing was found, by center; of segmentation, where there are per-image records."""
    scopes, rows = findings.methods[0].scopes, []
    centers = sorted(scopes, key=lambda center: (scopes[center], center))
    for method in findings.methods:
        samples = pd.concat(method.samples)
        if "tp" not in samples:
            return None
        samples = scored(samples)
        shown = samples[samples["tp"] + samples["fn"] > 0]
        percent = (shown["tp"] == 0).groupby(shown["center"]).mean() * 100
        rows.append(Row(method.name, "", tuple(float(share) for share in percent.reindex(centers))))
    caption = "Polyps of which no pixel was found, percent of those that the test images show, over all seeds"
    return Table(caption, tuple(Column(center, ONE) for center in centers), tuple(rows), head="Method")


def _steps(index: pd.DataFrame, counted: pd.DataFrame, runs: Mapping[str, Run]) -> Table:
    """Steps by method, of training alone by hospital too, and by seed; of runs that are not all finished none."""
    seeds = list(dict.fromkeys(index["seed"]))
    taken = counted.assign(steps=[_steps_of(runs[name]) for name in counted["run"]])
    rows = []
    for method, every in index.groupby("method", sort=False):
        parts = sorted(hospital for hospital in every["hospital"].unique() if hospital)
        for hospital in ("", *parts):
            cells: list[Value] = [hospital or (EACH if parts else ALL)]
            arms = every[every["hospital"] == hospital] if hospital else every
            for seed in seeds:
                own = taken[(taken["method"] == method) & (taken["seed"] == seed)]
                own = own[own["hospital"] == hospital] if hospital else own
                whole = len(own) == len(arms[["holdout", "hospital"]].drop_duplicates())
                cells.append(int(own["steps"].sum()) if whole else math.nan)
            rows.append(Row(str(method), "", tuple(cells)))
    columns = (Column("Trains"), *(Column(f"Seed {seed}") for seed in seeds))
    arms = index["holdout"].nunique()
    caption = "Steps of the optimizer" + (f", over {arms} centers left out in turn" if arms > 1 else "")
    return Table(caption, columns, tuple(rows), head="Method")


def _steps_of(run: Run) -> int:
    rounds = pd.concat([run.rounds, *(member.rounds for member in run.members.values())])
    return int(rounds.loc[(rounds["phase"] == "train") & (rounds["metric"] == "loss"), "steps"].sum())


def _runs(index: pd.DataFrame, metric: str) -> Table:
    """Every run, with a link to its own report."""
    rows = tuple(
        Row(
            row["method"],
            "",
            (
                row["holdout"],
                row["hospital"],
                row["setting"],
                str(row["seed"]),
                row["state"],
                row["reason"],
                *(float(row[name]) for name in ("validation", "seen", "unseen", "wall_s")),
            ),
            f"../{row['run']}/report.html" if row["state"] == "finished" else "",
        )
        for row in index.to_dict("records")
    )
    words = ("Held out", "Trains alone", "Setting", "Seed", "State", "Reason")
    numbers = (Column(f"Validation {metric}"), Column("Seen"), Column("Unseen"), Column("Wall time, s", ONE))
    return without_empty(Table("Every run of the study", (*map(Column, words), *numbers), rows, head="Method"))
