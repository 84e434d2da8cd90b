"""What a person sees in a terminal: the plan, the progress of a run, its table."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from textwrap import fill
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fedkvasir.evaluation.groups import STAYED
from fedkvasir.evaluation.protocol import headline, metric_names, summarise
from fedkvasir.plan import Plan
from fedkvasir.points import cautions, in_words
from fedkvasir.report.centers import TITLES, Uncertainty, uncertainty
from fedkvasir.report.findings import Findings, answer, ranking_sentence
from fedkvasir.report.published import published_table
from fedkvasir.report.sections import members_table, missing
from fedkvasir.report.study import outcome_of
from fedkvasir.report.tables import Column, Estimate, Interval, Row, Value, bracket
from fedkvasir.report.tables import Table as ReportTable
from fedkvasir.runs import Event, Run, failure_text
from fedkvasir.scenario import POOLED, Scenario
from fedkvasir.study import Line, Study
from fedkvasir.sweep import explores, protocol_of, tried

if TYPE_CHECKING:
    from fedkvasir.estimate import Estimate as Cost

PHASES = {"train": "training", "val": "validating", "test": ""}
SELECTED = {
    "train-val": "by the training centers' validation",
    "last": "the last round, no selection",
    "oracle": "BY THE HOLDOUT ITSELF: an upper bound, not a result",
}


class Screen:
    """Progress bars on a terminal, plain lines elsewhere, only the result when quiet."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self.quiet = quiet
        self._progress: Progress | None = None
        self._bar: Any = None
        self._began_s = 0.0

    def say(self, text: str) -> None:
        """A line that `--quiet` leaves out."""
        if not self.quiet:
            self.console.print(text)

    def warn(self, text: str) -> None:
        """A line that `--quiet` leaves in."""
        self.tell("warning", [text])

    def tell(self, word: str, texts: Iterable[str], colour: str = "yellow") -> None:
        """A line each, behind a word that says what they are; `--quiet` leaves them in."""
        for text in texts:
            self.console.print(f"[{colour}]{word}[/{colour}] {escape(text)}")

    @contextmanager
    def bars(self) -> Iterator[None]:
        """Show one bar at a time while the block runs, where there is a terminal to show it on."""
        if self.quiet or not self.console.is_terminal:
            yield
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=self.console, transient=True) as self._progress:
            try:
                yield
            finally:
                self._progress, self._bar = None, None

    def start(self, what: str, total: int | None) -> None:
        """A new bar in the place of the last; without a total it only says that something is going on."""
        if self._progress is not None:
            if self._bar is not None:
                self._progress.remove_task(self._bar)
            self._bar = self._progress.add_task(what, total=total)

    def advance(self, center: str) -> None:
        """One more hospital has answered."""
        if self._progress is not None and self._bar is not None:
            self._progress.advance(self._bar)

    def preparing(self, what: str, done: int, total: int) -> None:
        """Progress of pictures being rendered or decoded."""
        if done == 1:
            self.start(what, total)
            self._began_s = time.monotonic()
        self.advance(what)
        if done == total:
            took_s = time.monotonic() - self._began_s
            rate = f" in {took_s:.1f} s, {total / took_s:.0f} a second" if took_s > 0 else ""
            self.say(f"{what}: {total} images{rate} (once; kept for the next run)")

    def progress(self, plan: Plan, event: Event) -> None:
        """A bar for each phase, a line for each failure."""
        facts = event.facts
        if event.kind == "phase":
            what = f"round {event.round}/{facts['rounds']}" if facts["phase"] != "test" else "testing"
            self.start(f"{what} {PHASES[facts['phase']]}", facts["centers"])
        elif event.kind == "failure":
            self.tell("failed", [failure_text(facts)])

    def event(self, plan: Plan, event: Event) -> None:
        """:meth:`progress`, and a line for each member, round and resumption."""
        facts = event.facts
        self.progress(plan, event)
        if event.kind == "member":
            done = "   finished before" if facts["done"] else ""
            which = f"member {facts['number']}/{facts['of']}: {facts['member']}" if facts["member"] else "the ensemble"
            self.say(f"[bold]{which}[/bold]{done}")
        elif event.kind == "resume":
            self.say(f"going on after round {event.round} of {facts['rounds']}")
        elif event.kind == "round":
            metric = headline(plan.scenario.task)
            score = "" if facts["score"] is None else f"   validation {TITLES[metric]} {facts['score']:.3f}"
            mark = "   best so far" if facts["best"] == event.round and facts["score"] is not None else ""
            which = f"round {event.round}/{facts['rounds']}"
            self.say(f"{which}   loss {facts['loss']:.3f}{score}   {facts['seconds']:.0f} s{mark}")
        elif event.kind == "test":
            self.say(f"testing round {facts['best']} ({SELECTED[facts['select']]}) at every center")

    def plan(self, plan: Plan, cost: "Cost") -> None:
        """`--dry-run`: who holds what, splits, steps, time, memory."""
        scenario = plan.scenario
        self.console.print(f"[bold]{plan.name}[/bold]  {escape(scenario.question)}")
        groups, rows = plan.samples.groupby("center")["group"].nunique(), []
        groups[POOLED] = plan.samples.loc[plan.samples["split"] == "train", "group"].nunique()
        for center, row in plan.centers.iterrows():
            steps = plan.steps_per_round(str(center)) if row["train"] else 0
            numbers = *(int(row[split]) for split in ("train", "val", "test")), int(groups[center]), steps
            rows.append(Row(str(center), row["role"], (row["role"], *(number or math.nan for number in numbers))))
        columns = map(Column, ("role", "train", "val", "test", "groups", "steps a round"))
        self._table(ReportTable("", tuple(columns), tuple(rows), head="center"))
        if scenario.task == "classification":
            counts = ", ".join(f"{name} {count}" for name, count in plan.class_counts.items())
            self.console.print(f"training images of each class: {escape(counts)}")
        encoder = f", {scenario.model.encoder}" if scenario.model.encoder else ""
        self.console.print(
            f"{scenario.algorithm.name}, {scenario.federation.rounds} rounds of {scenario.training.epochs} local "
            f"epoch(s) in batches of {scenario.training.batch_size}; "
            f"{scenario.model.name}{encoder}, {cost.parameters / 1e6:.1f} M parameters, "
            f"{scenario.data.image_size} px, {plan.device} {plan.precision}"
        )
        self.console.print(
            f"about {duration(cost.total_s)} with {cost.workers} worker(s) ({cost.step_s:.2f} s a step), "
            f"about {cost.worker_mib:.0f} MiB a worker"
        )
        self.warnings(plan)

    def cells(self, scenario: Scenario) -> None:
        """`--dry-run` of a study: what is compared, and how many runs that makes."""
        found, protocol = tried(scenario), protocol_of(scenario)
        rows = (
            Row(cell.method, "", (cell.holdout, cell.hospital or "all", cell.scenario.federation.rounds, len(points)))
            for cell, points in found
        )
        columns = map(Column, ("held out", "trains", "rounds", "settings"))
        self._table(ReportTable("", tuple(columns), tuple(rows), head="method"))
        settings, others = sum(len(points) for _, points in found), len(protocol.seeds) - 1
        more = others * (len(found) if explores(scenario) else settings)
        seeds = f"seed {protocol.seeds[0]}"
        if others and explores(scenario) and settings > len(found):
            seeds += f", the best of each row then with {others} more"
        elif others:
            seeds = f"{others + 1} seeds"
        self.console.print(f"{protocol.kind}: {settings + more} runs, {settings} with {seeds}")
        self.tell("warning", cautions((point.method, point.scenario) for _, points in found for point in points))

    def line(self, line: Line, number: int, of: int) -> None:
        """A run of a study that is finished, was stopped or has failed."""
        point = line.point
        what = in_words(*point.cell, point.setting, point.seed)
        if line.state == "failed":
            self.console.print(f"{number}/{of} {escape(what)}: [red]failed[/red], {escape(line.reason)}")
        elif line.state == "stopped":
            self.say(f"{number}/{of} {escape(what)}: stopped, {escape(line.reason)}")
        elif line.state == "finished":
            scores = {"validation": line.validation, "seen": line.seen, "unseen": line.unseen}
            said = ", ".join(f"{name} {score:.3f}" for name, score in scores.items() if score == score)
            self.say(f"{number}/{of} {escape(what)}: {said}, {duration(line.wall_s)}")

    def study(self, study: Study) -> None:
        """Methods against each other, what they say in words, what failed, and where the report is."""
        outcome = outcome_of(study)
        self.tell("take care", outcome.alarms, "red")
        if outcome.findings:
            self._table(outcome.tables["scores"])
            self._cautions(outcome.findings)
            self.console.print(f"\n{escape(answer(outcome.findings))}\n")
            self.tell("not computed", outcome.findings.missing)
            self.tell("warning", outcome.cautions)
        else:
            self.console.print(f"nothing to compare: {escape(outcome.why)}")
        for name in ("crossing", "alone"):
            if name in outcome.tables:
                self._table(outcome.tables[name])
                self.console.print()
        self.tell("failed", outcome.failures, "red")
        if outcome.lacking:
            self.tell("seeds", [f"with which all runs of a method are finished: {'; '.join(outcome.lacking)}"])
        if outcome.runs and not outcome.rendered and outcome.pictures:
            titles = ", ".join(card.title for card in outcome.cards)
            self.console.print(f"the reports of the runs contain patient images ({titles})")
        report = study.folder / "report.html"
        where = f"study {study.folder}" + (f", report {report}" if report.is_file() else "")
        self.console.print(f"{outcome.progress}; {where}")

    def warnings(self, plan: Plan) -> None:
        self.tell("warning", plan.warnings)

    def _cautions(self, findings: Findings) -> None:
        self.tell("leakage not ruled out", findings.unchecked)
        self.tell("intervals", findings.cautions)
        self.tell("test images", filter(None, [findings.other_images]))

    def comparison(self, findings: Findings, tables: Mapping[str, ReportTable]) -> None:
        """Methods against each other: tables, what they say in words, what was left out."""
        self.tell("take care", findings.alarms, "red")
        self._table(tables["scores"])
        self._cautions(findings)
        rankings = [ranking_sentence(scope, ranking) for scope, ranking in findings.rankings.items()]
        for said in (*findings.sentences, *rankings):
            self.console.print(f"\n{escape(said)}")
        if findings.pairs:
            family = f"Holm over {len(findings.pairs)} comparison(s)"
            self.console.print(f"\nWilcoxon's signed-rank test over groups, {family}")
        self.tell("note", findings.notes)
        self.tell("not computed", findings.missing)
        for name in ("centers", "ranks", "fairness", "runs"):
            if name in tables:
                self.console.print()
                # A method has a line a scope, a center one scope.
                self._table(tables[name], kept=int(name == "fairness"))

    def _table(self, table: ReportTable, kept: int = 0) -> None:
        """As wide as it is into a file or a pipe; on a narrow terminal with intervals below their scores, and
        where that is not enough in parts that have the first ``kept`` columns in common."""
        view = table_text(table)
        needed = self.console.measure(view, options=self.console.options.update(width=10_000)).maximum
        if not self.console.is_terminal:
            Console(file=self.console.file, highlight=False, width=needed).print(view)
        elif needed <= self.console.width:
            self.console.print(view)
        else:
            for number, part in enumerate(parts(table, kept, self._fits)):
                if number:
                    self.console.print()
                self.console.print(table_text(part, narrow=True))

    def _fits(self, table: ReportTable) -> bool:
        """No number and no word has to be broken."""
        view, options = table_text(table, narrow=True), self.console.options.update(width=10_000)
        return self.console.measure(view, options=options).minimum <= self.console.width

    def result(self, run: Run) -> None:
        """The table of centers and what follows from it."""
        plan, table, sure = run.plan, run.table(), uncertainty(run.records)
        self._table(center_table(table, plan.scenario.task, sure))
        self.console.print(summary_text(table, plan.scenario.task, sure))
        result = run.result
        chosen = f"chosen {SELECTED[run.chosen_by]}" if run.chosen_by != "last" else SELECTED["last"]
        which = f"round {result['best_round']} of {result['rounds']}"
        if run.members:
            self._table(members_table(run))
            which = "every member at its best round"
        over = "means over groups" if plan.scenario.task == "segmentation" else "scores over a center's images"
        self.console.print(f"{which}, {chosen}; {over}, 95 % intervals in brackets")
        self.tell("selection", filter(None, [run.unscored]))
        self.tell("intervals", filter(None, [sure.warning]))
        if lacking := missing(run):
            self.tell("not computed", [f"{'; '.join(lacking)}: {STAYED}"])
        self._beside_published(run)
        self.warnings(plan)
        self.tell("failed", map(failure_text, result["failures"]))
        best, last = result["best_sha256"], result["weights_sha256"]
        if last:
            both = f"{best} (best, round {result['best_round']}), {last} (last)"
            self.console.print(f"weights sha256 {last if best == last else both}")
        report = run.folder / "report.html"
        self.console.print(f"run folder {run.folder}" + (f", report {report}" if report.is_file() else ""))

    def _beside_published(self, run: Run) -> None:
        """Ours and theirs, what theirs was, and where it was printed; nothing where the scenario names nothing."""
        if (table := published_table(run)) is None:
            return
        # The metric and our number stand in every part; models, in brackets whose they are, are what can be many.
        self.console.print()
        self._table(table, kept=sum("(" not in title for title in table.titles))
        for text in (*table.warnings, *table.notes):
            self.console.print(escape(text))
        self.console.print()


def center_table(table: pd.DataFrame, task: str, sure: Uncertainty) -> ReportTable:
    """One row a center, training centers first; its interval beside the headline metric."""
    metrics = [*metric_names(task), *(("dice_images",) if task == "segmentation" else ())]
    rows = []
    for row in table.to_dict("records"):
        numbers: list[Value] = [float(row[name]) for name in metrics]
        numbers[metrics.index(headline(task))] = Estimate(row[headline(task)], *sure.of("center", row["center"]))
        rows.append(Row(row["center"], row["role"], (row["role"], int(row["images"]), *numbers)))
    columns = map(Column, ("role", "images", *(TITLES[name] for name in metrics)))
    return ReportTable("", tuple(columns), tuple(rows), head="center")


def summary_text(table: pd.DataFrame, task: str, sure: Uncertainty) -> str:
    """Seen, unseen, gap and worst in one line."""
    summary = summarise(table, task)
    if not summary.worst_center:
        return f"{TITLES[summary.metric]}: no score, as no test image shows anything to be found"
    parts = [
        f"{word} {value:.3f} {_ends(sure.of(word))}".rstrip()
        for word, value in (("seen", summary.seen), ("unseen", summary.unseen), ("gap", summary.gap))
        if value == value
    ]
    worst = f"worst {summary.worst:.3f} {_ends(sure.of('center', summary.worst_center))}".rstrip()
    return f"{TITLES[summary.metric]}: {', '.join(parts)}, {worst} ({summary.worst_center})"


def _ends(interval: Interval) -> str:
    """Brackets that rich does not take for a style."""
    return escape(bracket(*interval))


def table_text(table: ReportTable, narrow: bool = False) -> Table:
    """A table of a report; narrow: intervals below their scores, titles no wider than their columns have to be."""
    view = Table(box=None, pad_edge=False, header_style="bold", title=escape(table.caption), title_justify="left")
    lines = [(row, [row.head, *table.texts(row)]) for row in (*table.rows, *table.footer)]
    if narrow:
        lines = [(row, [text.replace(" [", "\n[") for text in texts]) for row, texts in lines]
    for index, title in enumerate((table.head, *table.titles)):
        width = max(map(len, chain(title.split(), *(texts[index].splitlines() for _, texts in lines))), default=1)
        title = escape(fill(title, width) if narrow else title)
        if index == 0 or table.is_text(index - 1):
            view.add_column(title, overflow="fold")
        elif narrow:
            view.add_column(title, justify="right", no_wrap=True, min_width=width)
        else:
            view.add_column(title, justify="right", no_wrap=table.is_estimate(index - 1), overflow="fold")
    for row, texts in lines:
        style = "bold" if row in table.footer else "cyan" if row.role == "holdout" else ""
        view.add_row(*map(escape, texts), style=style)
    return view


def parts(table: ReportTable, kept: int, fits: Callable[[ReportTable], bool]) -> Iterator[ReportTable]:
    """A table that is too wide as several, each of its first ``kept`` columns and as many of the others as fit.

    The first of them has the caption.
    """

    def of(columns: Sequence[int]) -> ReportTable:
        chosen = (*range(kept), *columns)
        rows, footer = (
            tuple(replace(row, cells=tuple(row.cells[index] for index in chosen)) for row in lines)
            for lines in (table.rows, table.footer)
        )
        return replace(table, columns=tuple(table.columns[index] for index in chosen), rows=rows, footer=footer)

    others = range(kept, len(table.columns))
    while others:
        count = next((count for count in range(len(others), 1, -1) if fits(of(others[:count]))), 1)
        yield of(others[:count])
        table, others = replace(table, caption=""), others[count:]


def duration(seconds: float) -> str:
    """``40 s``, ``12 min``."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def rows(header: tuple[str, ...], lines: Iterable[tuple[str, ...]]) -> None:
    """Print a plain table."""
    view = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(header):
        view.add_column(column, no_wrap=index == 0, overflow="fold")
    for line in lines:
        view.add_row(*line)
    Console(highlight=False).print(view)
