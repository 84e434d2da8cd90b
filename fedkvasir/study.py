"""A study: the runs of a protocol or a sweep, and an index of them that is right at any moment.

OUT/<scenario>-<hash8>/         a run folder each; a finished run, whoever asked for it, is not run again
OUT/<scenario>-study-<hash8>/   scenario.yaml, runs.parquet (the index), report.html; of a sweep <scenario>-sweep-...
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from fedkvasir.errors import UserError, reason_of
from fedkvasir.evaluation.protocol import headline, summarise
from fedkvasir.evaluation.selection import selection_score
from fedkvasir.files import lock, read_table, write_atomic
from fedkvasir.plan import NUMBERS
from fedkvasir.points import Point
from fedkvasir.runs import Run
from fedkvasir.scenario import LOCALS, Protocol, Scenario, differing, load
from fedkvasir.sweep import axes_of, changes_of, explores, protocol_of, tried

INDEX = (
    "method", "holdout", "hospital", "seed", "setting", "chosen", "state", "reason", "validation", "seen", "unseen",
    "wall_s", "run", "hash",
)  # fmt: skip
"""Columns of runs.parquet, the first as :class:`~fedkvasir.points.Point` names them; the scenario's keys that differ
follow. chosen: it counts in the tables; state: waiting, running, finished, failed, or stopped because it was behind
others; reason: why it failed, was stopped or was run again; validation: the score that rounds and settings are chosen
by; seen, unseen: uniform means over centers."""


@dataclass(eq=False)
class Line:
    """A line of the index."""

    point: Point
    chosen: bool = False
    state: str = "waiting"
    reason: str = ""
    validation: float = math.nan
    seen: float = math.nan
    unseen: float = math.nan
    wall_s: float = math.nan
    run: str = ""
    hash: str = ""

    def note(self, run: Run) -> None:
        """What a finished run says. Raises UserError where it is damaged; nothing is noted then."""
        summary, validation = summarise(run.table(), run.plan.scenario.task), validation_score(run)
        wall_s = run.result["wall_s"]
        self.state, self.reason, self.run, self.hash = "finished", "", run.folder.name, run.plan.hash
        self.validation, self.seen, self.unseen, self.wall_s = validation, summary.seen, summary.unseen, wall_s

    def fail(self, error: Exception) -> None:
        """It could not be run to its end."""
        self.state, self.reason = "failed", reason_of(error)


Changed = Callable[[Line], None]
"""Told of every line whose state has changed."""
Work = Callable[[Sequence[Line], Changed], None]
"""Runs lines, one after another or many at a time, and says of each what became of it; also of those that are finished
already."""


class Study:
    """A study's folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @staticmethod
    def of(scenario: Scenario, out: Path) -> "Study":
        """The study of a scenario with a protocol, or a sweep, in a folder named by all that can change its numbers."""
        blocks = [block for block in (scenario.protocol, scenario.sweep) if block is not None]
        identity = [NUMBERS, scenario.decisive(), *(block.model_dump(mode="json") for block in blocks)]
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return Study(out.resolve() / f"{scenario.name}-{'sweep' if scenario.sweep else 'study'}-{digest[:8]}")

    @staticmethod
    def there(folder: Path) -> bool:
        return (folder / "runs.parquet").is_file()

    @cached_property
    def scenario(self) -> Scenario:
        if not self.there(self.folder):
            raise UserError(f"{self.folder} is not a study (it holds no runs.parquet)")
        return load(self.folder / "scenario.yaml")

    @property
    def protocol(self) -> Protocol:
        return protocol_of(self.scenario)

    @property
    def index(self) -> pd.DataFrame:
        """One row a run; see :data:`INDEX`."""
        return read_table(self.folder / "runs.parquet")

    def run(self, name: str) -> Run:
        """A run of the index."""
        return Run(self.folder.parent / name)

    def writing(self) -> AbstractContextManager[None]:
        """Hold the folder as its one writer. Raises UserError if another live process does."""
        return lock(self.folder / "lock", wait=False)

    def carry_out(
        self,
        scenario: Scenario,
        work: Work,
        watch: Callable[[Line, int, int], None] = lambda line, number, of: None,
        known: Callable[[Scenario], Run | None] | None = None,
    ) -> None:
        """Run every point; one that fails is listed with its reason, and the others are run all the same.

        watch: told of a line whose state has changed, its number and how many there are. known: the run of a scenario
        on the images of now, where one was begun: a finished one stands in the index from the beginning.
        What ends ``work`` ends it (a full disk, Ctrl-C); the same call goes on.
        """
        by_cell, seeds = tried(scenario), protocol_of(scenario).seeds
        first = [Line(point) for _, points in by_cell for point in points]
        if explores(scenario):
            later = [Line(cell.seeded(other)) for other in seeds[1:] for cell, _ in by_cell]
        else:
            first += [Line(line.point.seeded(other)) for other in seeds[1:] for line in list(first)]
            later = []
        lines = first + later
        write_atomic(self.folder / "scenario.yaml", scenario.dump())

        remarks = self._remarks()

        def write() -> None:
            chosen, taken = {cell.cell: best_setting(lines, cell) for cell, _ in by_cell}, set()
            for other in lines:
                place = *other.point.cell, other.point.seed
                own = other.state == "finished" and other.point.setting == chosen[other.point.cell]
                other.chosen = own and place not in taken  # optuna may ask for a setting twice
                taken |= {place} if own else set()
                if other.state == "finished":
                    other.reason = other.reason or remarks.get(other.run, "")
            self._write(lines)

        def changed(line: Line) -> None:
            write()
            watch(line, lines.index(line) + 1, len(lines))

        def look_up(lines: Sequence[Line]) -> None:
            for line in lines:
                with suppress(UserError):  # told when it is run
                    if known and (run := known(line.point.scenario)) and run.finished:
                        line.note(run)

        if scenario.sweep is None or not scenario.sweep.explores:
            look_up(first)
        elif self.there(self.folder):  # what is run depends on what was
            self._recall(scenario, first, look_up, known or (lambda own: True))
        write()
        for batch in _in_order(first):
            work(batch, changed)
        for line in later:
            settings = {other.point.setting: other.point for other in first if other.point.cell == line.point.cell}
            best = best_setting(lines, line.point)
            if best is None:
                line.state, line.reason = "failed", "none of its settings could be run"
                changed(line)
            else:
                line.point = settings[best].seeded(line.point.seed)
        look_up([line for line in later if line.state != "failed"])
        for batch in _in_order([line for line in later if line.state != "failed"]):
            work(batch, changed)

    def _remarks(self) -> dict[str, str]:
        """What the index says of how finished runs came about, by run; nothing without one, or where it is broken."""
        with suppress(UserError):
            if self.there(self.folder):
                rows = self.index.query("state == 'finished'")
                return dict(zip(rows["run"], rows["reason"], strict=True))
        return {}

    def _recall(
        self,
        scenario: Scenario,
        lines: Sequence[Line],
        look_up: Callable[[Sequence[Line]], None],
        there: Callable[[Scenario], object],
    ) -> None:
        """What the index knows of settings that were tried: which they are, what is finished, what was stopped.

        there: was it on the images of now?
        """
        free: dict[tuple[Any, ...], list[Line]] = {}
        for line in lines:
            free.setdefault((*line.point.cell, line.point.seed), []).append(line)
        try:
            rows = self.index.itertuples()
        except UserError:  # a broken index costs what it knew
            return
        for row in rows:
            own = free.get((row.method, row.holdout, row.hospital, row.seed), ())
            mine = next((one for one in own if one.state == "waiting" and one.point.setting in (row.setting, "")), None)
            if mine and mine.point.setting != row.setting:  # optuna chose it
                changes = changes_of(row.setting, axes_of(scenario, mine.point))
                mine.point = mine.point.at(changes or {})
            if mine is None or mine.point.setting != row.setting:
                continue
            if row.state == "finished":
                look_up([mine])
            elif row.state == "stopped" and self._holds(row.run, mine.point.scenario) and there(mine.point.scenario):
                mine.state, mine.reason, mine.validation, mine.run = row.state, row.reason, row.validation, row.run

    def _holds(self, name: str, scenario: Scenario) -> bool:
        """Is the run still there, and that of this scenario?"""
        with suppress(UserError):
            return self.run(name).plan.scenario.decides_as(scenario)
        return False

    def _write(self, lines: list[Line]) -> None:
        keys = [key for key in differing([line.point.keys for line in lines]) if key != "seed"]
        table = pd.DataFrame(
            [
                {name: getattr(line if hasattr(line, name) else line.point, name) for name in INDEX}
                | {key: line.point.keys.get(key, "") for key in keys}
                for line in lines
            ]
        )
        write_atomic(self.folder / "runs.parquet", table.to_parquet(index=False))


def one_by_one(execute: Callable[[Scenario], Run]) -> Work:
    """One run after another, in this process. A full disk and Ctrl-C end it.

    execute: runs a scenario to its end, or opens its finished run.
    """

    def work(lines: Sequence[Line], changed: Changed) -> None:
        for line in lines:
            if line.state == "finished":
                changed(line)
                continue
            line.state = "running"
            changed(line)
            try:
                line.note(execute(line.point.scenario))
            except OSError:
                raise
            except Exception as error:  # whatever it was, it is this run's own and must not end the others
                line.fail(error)
            finally:
                if line.state == "running":
                    line.state = "waiting"
                changed(line)

    return work


def _in_order(lines: Sequence[Line]) -> Iterator[Sequence[Line]]:
    """Ensembles of hospitals' own models come after these."""
    yield [line for line in lines if line.point.method != LOCALS]
    yield [line for line in lines if line.point.method == LOCALS]


def best_setting(lines: Sequence[Line], point: Point) -> str | None:
    """Of the settings of a point's cell, the one with the best mean validation score over its seeds; of those
    finished with most seeds, and the first of equals. None where nothing is finished.
    """
    own = [line for line in lines if line.point.cell == point.cell and line.state == "finished"]
    scores: dict[str, dict[int, float]] = {}
    for line in own:  # a setting that optuna asked for twice counts once
        validation = line.validation if line.validation == line.validation else -1.0
        scores.setdefault(line.point.setting, {})[line.point.seed] = validation
    return max(scores, key=lambda setting: (len(scores[setting]), sum(scores[setting].values())), default=None)


def validation_score(run: Run) -> float:
    """The score of a run's best round on validation images, uniform over its training centers; NaN without that of
    each of them."""
    samples, best, wanted = run.samples, run.result["best_round"], {*run.plan.holders("train", "val")}
    if len(run.shared):  # hospitals told their scores
        rounds = run.rounds
        told = rounds[(rounds["phase"] == "val") & (rounds["round"] == best) & (rounds["role"] == "train")]
        told = told[told["metric"] == headline(run.plan.scenario.task)]
        return float(told["value"].mean()) if {*told["center"]} == wanted else math.nan
    own = samples[(samples["split"] == "val") & (samples["checkpoint"] == str(best))]
    return selection_score(own, "train-val") if len(own) and {*own["center"]} == wanted else math.nan
