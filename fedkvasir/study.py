"""A study: the runs of a protocol, and an index of them that is right at any moment.

OUT/<scenario>-<hash8>/         a run folder each; a finished run, whoever asked for it, is not run again
OUT/<scenario>-study-<hash8>/   scenario.yaml, runs.parquet (the index), report.html
"""

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from fedkvasir.errors import RunFailed, UserError
from fedkvasir.evaluation.protocol import summarise
from fedkvasir.evaluation.selection import selection_score
from fedkvasir.files import lock, write_atomic
from fedkvasir.points import Point, cells
from fedkvasir.runs import Run
from fedkvasir.scenario import Protocol, Scenario, differing, flat, load

INDEX = (
    "method", "holdout", "hospital", "seed", "setting", "chosen", "state", "reason", "validation", "seen", "unseen",
    "wall_s", "run", "hash",
)  # fmt: skip
"""Columns of runs.parquet, the first as :class:`~fedkvasir.points.Point` names them; the scenario's keys that differ
follow. chosen: it counts in the tables; state: waiting, running, finished, failed; reason: why it failed; validation:
the score that rounds and settings are chosen by; seen, unseen: uniform means over centers."""


@dataclass
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
        """What a finished run says."""
        summary = summarise(run.table(), run.plan.scenario.task)
        self.state, self.reason, self.run, self.hash = "finished", "", run.folder.name, run.plan.hash
        self.validation, self.seen, self.unseen = validation_score(run), summary.seen, summary.unseen
        self.wall_s = run.result["wall_s"]


class Study:
    """A study's folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    @staticmethod
    def of(scenario: Scenario, out: Path) -> "Study":
        """The study of a scenario with a protocol, in a folder named by everything that can change its numbers."""
        assert scenario.protocol is not None
        identity = [scenario.decisive(), scenario.protocol.model_dump(mode="json")]
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return Study(out.resolve() / f"{scenario.name}-study-{digest[:8]}")

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
        assert self.scenario.protocol is not None
        return self.scenario.protocol

    @property
    def index(self) -> pd.DataFrame:
        """One row a run; see :data:`INDEX`."""
        return pd.read_parquet(self.folder / "runs.parquet")

    def run(self, name: str) -> Run:
        """A run of the index."""
        return Run(self.folder.parent / name)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the folder as its one writer. Raises UserError if another live process does."""
        with lock(self.folder / "lock", wait=False):
            yield

    def carry_out(
        self,
        scenario: Scenario,
        execute: Callable[[Scenario], Run],
        watch: Callable[[Line, int, int], None] = lambda line, number, of: None,
    ) -> None:
        """Run every point; one that fails is listed with its reason, and the others are run all the same.

        execute: runs a scenario to its end, or opens its finished run. watch: told of the line, its number and how many
        there are, before and after each run. A full disk and Ctrl-C end it; the same call goes on.
        """
        protocol = scenario.protocol
        assert protocol is not None
        first, (seed, *seeds) = cells(scenario), protocol.seeds
        lines = [Line(point) for cell in first for point in cell.settings(protocol.tune)]
        lines += [Line(cell.seeded(other)) for other in seeds for cell in first]
        write_atomic(self.folder / "scenario.yaml", scenario.dump())
        self._write(lines)
        for number, line in enumerate(lines, start=1):
            if line.point.seed != seed and protocol.tune:
                chosen = _chosen(lines, line.point.cell)
                if chosen is None:
                    line.state, line.reason = "failed", "none of its settings could be run"
                    continue
                line.point = chosen.point.seeded(line.point.seed)
            line.state = "running"
            self._write(lines)
            watch(line, number, len(lines))
            try:
                line.note(execute(line.point.scenario))
            except OSError:
                raise
            except (UserError, RunFailed) as error:
                line.state, line.reason = "failed", str(error)
            except Exception as error:  # whatever it was, it is this run's own and must not end the others
                line.state, line.reason = "failed", f"{type(error).__name__}: {error}"
            finally:
                if line.state == "running":
                    line.state = "waiting"
                for other in lines:
                    other.chosen = other.state == "finished" and (
                        other.point.seed != seed or other is _chosen(lines, other.point.cell)
                    )
                self._write(lines)
            watch(line, number, len(lines))

    def _write(self, lines: list[Line]) -> None:
        settings = [flat(line.point.scenario.decisive()) for line in lines]
        keys = [key for key in differing(settings) if key != "seed"]
        table = pd.DataFrame(
            [
                {name: getattr(line if hasattr(line, name) else line.point, name) for name in INDEX}
                | {key: own.get(key, "") for key in keys}
                for line, own in zip(lines, settings, strict=True)
            ]
        )
        write_atomic(self.folder / "runs.parquet", table.to_parquet(index=False))


def _chosen(lines: list[Line], cell: tuple[str, str, str]) -> Line | None:
    """Of a cell's settings, run with the first seed, the one with the best validation score; the first of equals."""
    own = [line for line in lines if line.point.cell == cell and line.state == "finished"]
    own = [line for line in own if line.point.seed == own[0].point.seed]
    return max(own, key=lambda line: line.validation if line.validation == line.validation else -1.0, default=None)


def validation_score(run: Run) -> float:
    """The score of a run's best round on validation images, uniform over its training centers; NaN without them."""
    samples = run.samples
    own = samples[(samples["split"] == "val") & (samples["checkpoint"] == str(run.result["best_round"]))]
    return selection_score(own, "train-val") if len(own) else math.nan
