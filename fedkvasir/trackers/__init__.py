"""Trackers: what a run tells MLflow, TensorBoard or Weights & Biases, one file a tracker.

A tracker is told what stands in the committed records and nothing else, so whatever it has missed is filled in by the
same command later, even once the run is finished. It follows and never leads: if it fails, it is left out with a
warning.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from fedkvasir.errors import UserError, did_you_mean, reason_of
from fedkvasir.evaluation.protocol import headline, summarise
from fedkvasir.evaluation.selection import looked_at
from fedkvasir.plan import Plan
from fedkvasir.runs import Event, Run, Watch

TRACKERS = {"mlflow": "MLflow", "tensorboard": "TensorBoard", "wandb": "WeightsAndBiases"}
"""Name on the command line, which is that of the module and of the extra -> class."""

Values = dict[str, float]
"""Finite numbers by name; those of an ensemble's member stand behind ``MEMBER/``."""


class Tracker(Protocol):
    """What follows a run. It may raise whatever it likes."""

    def begin(self, run: Run, plan: Plan) -> int:
        """Open a page for the run, the resolved scenario on it, or go on with the one it has.

        Returns how many rounds stand on it already, in the order in which they are told.
        """

    def round(self, number: int, values: Values) -> None:
        """A committed round: what :func:`round_values` says."""

    def end(self, values: Values, report: Path | None) -> None:
        """The run is finished: what :func:`final_values` says.

        report: ``report.html``, or None where it must stay here, for that of real data contains patient images.
        """

    def stop(self) -> None:
        """The run has stopped, and may go on another day."""


def find_trackers(names: Iterable[str]) -> dict[str, Tracker]:
    """Trackers by name. Raises UserError for an unknown name, and names the extra where a package is missing."""
    found = {}
    for name in names:
        if name not in TRACKERS:
            near = did_you_mean(name, list(TRACKERS))
            raise UserError(f"--track {name} is not known{near}; known: {', '.join(TRACKERS)}")
        try:
            module = import_module(f"{__name__}.{name}")
        except ImportError as error:
            raise UserError(
                f"--track {name}: a package is missing ({error}); install it with: pip install 'fedkvasir[{name}]'"
            ) from error
        found[name] = getattr(module, TRACKERS[name])()
    return found


@contextmanager
def followed(run: Run, trackers: dict[str, Tracker], warn: Callable[[str], None]) -> Iterator[Watch]:
    """Let trackers follow ``run`` while the block runs it and hands every event to what it is given.

    warn: is told, in one sentence, of a tracker that failed.
    """
    audience = Audience(run, trackers, warn)
    try:
        yield audience.hear
    except BaseException:
        audience.each(lambda tracker: tracker.stop())
        raise
    report = run.folder / "report.html"
    audience.each(lambda tracker: tracker.end(final_values(run), report if run.plan.rendered else None))


class Audience:
    """The trackers of a run, each told every committed round once, whatever was stopped, killed or done again."""

    def __init__(self, run: Run, trackers: dict[str, Tracker], warn: Callable[[str], None]) -> None:
        self.run, self.trackers, self.warn = run, dict(trackers), warn
        self.held: dict[Tracker, int] = {}
        self.told = 0
        self.member = ""
        if not trackers:
            return
        self.each(lambda tracker: self.held.update({tracker: tracker.begin(run, run.plan)}))
        for member in (*run.members, ""):
            rounds = run.stage(member).rounds
            done = rounds.loc[rounds["phase"] == "round", "round"] if len(rounds) else ()
            for number in sorted(done):
                self.tell(member, int(number), rounds[rounds["round"] == number])

    def hear(self, event: Event) -> None:
        """An event of the round loop: a round is committed when it is heard of."""
        if event.kind == "member":
            self.member = event.facts["member"]
        elif event.kind == "round" and self.trackers:
            records = self.run.stage(self.member).folder / "records"
            self.tell(self.member, event.round, pd.read_parquet(records / f"rounds-{event.round:04d}.parquet"))

    def tell(self, member: str, number: int, rounds: pd.DataFrame) -> None:
        """The next round, to those who do not hold it yet."""
        plan = self.run.plan.stage(member)
        self.told += 1

        def say(tracker: Tracker) -> None:
            if self.held[tracker] < self.told:
                values = round_values(rounds, plan)
                tracker.round(number, {key_of(member, name): value for name, value in values.items()})

        self.each(say)

    def each(self, say: Callable[[Tracker], object]) -> None:
        """Say it to every tracker; one that fails is left out from here on."""
        for name, tracker in list(self.trackers.items()):
            try:
                say(tracker)
            except Exception as error:
                del self.trackers[name]
                self.warn(
                    f"{name} has failed and is left out, the run is as good without it ({reason_of(error)[:300]})"
                )


def key_of(member: str, name: str) -> str:
    """``MEMBER/NAME``; the name alone where there is no member, which is then the empty text."""
    return f"{member}/{name}" if member else name


def round_values(rounds: pd.DataFrame, plan: Plan) -> Values:
    """One round out of its rows of ``rounds.parquet``.

    ``loss`` (mean over centers, weighted as in aggregation), ``selection_score``, where every center was heard, and the
    ``val_dice/CENTER`` that it is the mean of (``val_macro_f1/...``; ``test_...`` of the holdouts under ``oracle``),
    ``wall_s``.
    """
    scenario, metric = plan.scenario, headline(plan.scenario.task)
    phase, role = looked_at(scenario.evaluation.select)
    trained = rounds[(rounds["phase"] == "train") & (rounds["metric"] == "loss")]
    weights = trained["samples"] if scenario.federation.weighting == "samples" else None
    scored = rounds[(rounds["phase"] == phase) & (rounds["role"] == role) & (rounds["metric"] == metric)]
    # The closing test repeats rounds that `oracle` has seen already, with the same values.
    scores = scored.drop_duplicates("center").set_index("center")["value"]
    values = {
        "loss": np.average(trained["value"], weights=weights),
        "selection_score": scores.mean() if {*scores.index} == {*plan.holders(role, phase)} else math.nan,
        **{f"{phase}_{metric}/{center}": score for center, score in scores.items()},
        "wall_s": rounds.loc[rounds["phase"] == "round", "value"].iloc[0],
    }
    return _finite(values)


def final_values(run: Run) -> Values:
    """``seen``, ``unseen``, ``gap`` and ``worst`` of the headline metric under the best round; empty without a test."""
    table = run.table()
    if table.empty:
        return {}
    summary = summarise(table, run.plan.scenario.task)
    return _finite({name: getattr(summary, name) for name in ("seen", "unseen", "gap", "worst")})


def _finite(values: dict[str, Any]) -> Values:
    return {name: float(value) for name, value in values.items() if math.isfinite(value)}
