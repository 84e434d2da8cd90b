"""The run folder: records, checkpoints, environment. Written by the round loop, read by everyone else.

scenario.yaml plan.parquet plan.json environment.json   what is run, on what
checkpoints/0003.safetensors                            the renaming of this file is the commit of round 3
records/rounds-0003.parquet, samples-0003.parquet       parts; they count only if their round is committed
centers/<center>/                                       what each simulated hospital keeps for itself
gallery/                                                small pictures of best, median, worst and missed cases
members/<member>/                                       an ensemble's members: a run folder each
rounds.parquet samples.parquet result.json report.html  made at the end; result.json says the run is finished
centers.parquet paired.parquet                          what real hospitals tell of records that stay with them
"""

import json
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from safetensors import SafetensorError

from fedkvasir import ensembles
from fedkvasir.environment import environment, moved
from fedkvasir.errors import UserError
from fedkvasir.evaluation.protocol import center_table, headline, summarise
from fedkvasir.evaluation.selection import is_due, looked_at
from fedkvasir.evaluation.shared import share
from fedkvasir.exchange import SERVER, State, load_groups, save_groups, sha256, write
from fedkvasir.files import atomic_folder, lock, read_json, read_table, unreadable, write_atomic
from fedkvasir.plan import Plan, make_plan
from fedkvasir.scenario import load

if TYPE_CHECKING:
    from torch import nn

TABLES = ("rounds", "samples")
ROUNDS = (
    "round", "phase", "center", "role", "metric", "value", "samples", "steps", "seconds", "network_s", "bytes_down",
    "bytes_up", "peak_mib",
)  # fmt: skip
"""Columns of rounds.parquet; a baseline has no row in it."""
THROWN_AWAY = "thrown-away"
"""Where in a run's folder lies what is being removed."""
FACTS = ("round", "kept", "scores", "best", "best_kept", "failures", "wall_s", "initial_sha256")
BROKEN = (SafetensorError, KeyError, ValueError)
"""What reading a checkpoint raises that was cut short."""


def round_of(path: Path) -> int:
    """The round in a name, ``0003`` or ``rounds-0003``: a number, as text 10000 comes before 9999."""
    return int(path.stem.rpartition("-")[2])


@dataclass
class Checkpoint:
    """The server's whole state after a round."""

    round: int
    shared: State
    buffers: State
    local: State = field(default_factory=dict)
    """Mean, over the round's hospitals, of the layers that stay with them: for a center that has none of its own."""
    server: dict[str, State] = field(default_factory=dict)
    """The strategy's attributes, by name."""
    kept: dict[str, int] = field(default_factory=dict)
    """Center -> the round whose state it is to start from."""
    scores: dict[int, float] = field(default_factory=dict)
    """Round -> selection score; without those that nobody could score."""
    best: int = 0
    best_kept: dict[str, int] = field(default_factory=dict)
    """``kept`` as it was after the best round: hospitals must not forget those states."""
    failures: list[dict[str, Any]] = field(default_factory=list)
    """round, attempt, center, reason of every hospital that did not answer well, and whether another attempt mended
    it."""
    wall_s: float = 0.0
    """Time spent in committed rounds."""
    initial_sha256: str | None = None
    """Of what the network began with, before round 1."""

    @property
    def state(self) -> State:
        """All tensors of the network, but for the members of an ensemble."""
        return self.shared | self.buffers | self.local


@dataclass(frozen=True)
class Event:
    """What a person watching wants to know: ``member``, ``resume``, ``phase``, ``round``, ``failure``, ``test``."""

    kind: str
    round: int
    facts: dict[str, Any]


Watch = Callable[[Event], None]


class Run:
    """A run folder."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    # ---- reading

    @property
    def finished(self) -> bool:
        return (self.folder / "result.json").is_file()

    def refuse_unfinished(self) -> None:
        """Raises UserError where the run has not come to its end, or is none."""
        if not self.finished and self.plan:  # which says so where the folder is no run's
            raise UserError(f"{self.folder} is not finished; `fedkvasir run` with the same scenario goes on with it")

    @cached_property
    def plan(self) -> Plan:
        if not (self.folder / "plan.json").is_file():
            raise UserError(f"{self.folder} is not a run folder (it holds no plan.json)")
        return Plan.load(self.folder)

    @property
    def members(self) -> dict[str, "Run"]:
        """The runs of an ensemble's members, by name; empty for one network."""
        return {name: self.stage(name) for name in self.plan.members}

    def stage(self, member: str) -> "Run":
        """The run of one member; itself for the empty name."""
        return Run(self.folder / "members" / member) if member else self

    @property
    def result(self) -> dict[str, Any]:
        """initial_sha256 (before round 1), weights_sha256 (of the last round), best_sha256, best_round, rounds, wall_s,
        select, failures."""
        self.refuse_unfinished()
        return read_json(self.folder / "result.json")

    @property
    def rounds(self) -> pd.DataFrame:
        """rounds.parquet; of an unfinished run, what is committed."""
        return self._records("rounds")

    @property
    def samples(self) -> pd.DataFrame:
        """samples.parquet; of an unfinished run, what is committed. Without rows where they stayed at the hospitals."""
        return self._records("samples")

    @property
    def shared(self) -> pd.DataFrame:
        """centers.parquet: what hospitals tell of per-image records that stay with them; without rows otherwise."""
        return self._told("centers")

    @property
    def records(self) -> pd.DataFrame:
        """What tables and intervals are made of: :attr:`samples`, or :attr:`shared` where they stayed."""
        shared = self.shared
        return shared if len(shared) else self.samples

    @property
    def paired(self) -> pd.DataFrame:
        """paired.parquet: what hospitals made of comparisons with other runs; without rows otherwise."""
        return self._told("paired")

    def table(self, checkpoint: str = "best") -> pd.DataFrame:
        """One row a center: role, images and scores on its test set."""
        return center_table(self.records, checkpoint)

    def comparison(self) -> pd.DataFrame:
        """An ensemble against its members, each under its own best round: one row a model, the ensemble last; model,
        the headline metric at every center, seen, unseen, best_round, wall_s."""
        task, rows = self.plan.scenario.task, []
        for name, run in {**self.members, "ensemble": self}.items():
            table = run.table()
            summary, scores = summarise(table, task), table.set_index("center")[headline(task)]
            means = {"seen": summary.seen, "unseen": summary.unseen}
            cost = {"best_round": run.result["best_round"], "wall_s": run.result["wall_s"]}
            rows.append({"model": name, **scores, **means, **cost})
        return pd.DataFrame(rows)

    def model(self, checkpoint: str = "best", one_at_a_time: bool = False) -> "nn.Module":
        """The network in evaluation mode with the weights of ``best``, ``last`` or a kept round.

        one_at_a_time: an ensemble loads each of its members for every batch, so that one is in memory, never all.
        """
        from fedkvasir.models import build_model
        from fedkvasir.models.ensemble import Ensemble, OneAtATime

        scenario = self.plan.stage("").scenario
        saved, classes = self.checkpoint(checkpoint), len(self.plan.classes)
        parsed = ensembles.parse(scenario.model, scenario.task)
        network: nn.Module
        if parsed is None:
            network = build_model(scenario.model, scenario.task, classes)
        else:
            members = {
                name: OneAtATime(run.model) if one_at_a_time else run.model() for name, run in self.members.items()
            }
            network = Ensemble(members, parsed.fusion, classes, scenario.task)
        write(network, saved.state)
        return network.eval()

    def frozen(self) -> State:
        """The best weights of an ensemble's members, as they are named in it; empty for one network."""
        return {
            f"members.{label}.{name}": array
            for label, run in self.members.items()
            for name, array in run.checkpoint("best").state.items()
        }

    def checkpoint(self, which: str = "last") -> Checkpoint:
        """``last``, ``best`` or the number of a kept round. Raises UserError where there is none, or a broken one."""
        if which in ("best", "last") and self.finished:
            number = self.result["best_round" if which == "best" else "rounds"]
        elif (last := self.committed()) is None:
            raise UserError(f"{self.folder} holds no checkpoint yet")
        else:
            number = last.best if which == "best" else last.round if which == "last" else int(which)
        path = self._checkpoint(number)
        if not path.is_file():
            raise UserError(f"{self.folder} holds no checkpoint of round {number}")
        try:
            return _load(path)
        except BROKEN as error:
            raise unreadable(path) from error

    def committed(self) -> Checkpoint | None:
        """The last committed round without its weights. Another process may write in the folder: nothing changes."""
        for path in self._checkpoints():
            with suppress(OSError, *BROKEN):
                return _load(path, weights=False)
        return None

    def latest(self) -> Checkpoint | None:
        """The last committed round, to go on from; one cut short by a broken disk is put aside for the one before."""
        for path in self._checkpoints():
            try:
                return _load(path)
            except BROKEN:
                path.rename(path.with_suffix(".broken"))
        return None

    def _records(self, table: str) -> pd.DataFrame:
        if self.finished:
            return read_table(self.folder / f"{table}.parquet")
        last = self.committed()
        parts = [part for part in self._parts(table) if round_of(part) <= (last.round if last else 0)]
        return pd.concat(map(read_table, parts), ignore_index=True) if parts else pd.DataFrame()

    def _told(self, table: str) -> pd.DataFrame:
        path = self.folder / f"{table}.parquet"
        return read_table(path) if path.is_file() else pd.DataFrame()

    @property
    def chosen_by(self) -> str:
        """The rule that its best round was chosen by: ``last`` where, by the scenario's, it could be none."""
        scored, due, _ = (0, 0, False) if self.members else self._chosen_among()
        return "last" if due and not scored else self.plan.scenario.evaluation.select

    @property
    def unscored(self) -> str:
        """What has to be said where rounds could not be chosen, as a hospital's validation was not heard of in time, or
        as there is none, or nothing to be found in any."""
        if members := self.members:
            return "; ".join(f"{name}: {run.unscored}" for name, run in members.items() if run.unscored)
        scored, due, heard = self._chosen_among()
        if scored == due:
            return ""
        left = f"{scored} of {due} rounds could be chosen" if scored else "no round could be chosen, it is the last"
        rule = self.plan.scenario.evaluation.select
        what = "test image of a holdout" if rule == "oracle" else "validation image"
        phase, role = looked_at(rule)
        if not self.plan.holders(role, phase):
            return f"{left}: there is no {what}"
        if heard and not scored:
            return f"{left}: no {what} shows anything to be found"
        return (
            f"{left}: {'in the others' if scored else 'in all'} the validation of a hospital was not heard of in time"
        )

    def _chosen_among(self) -> tuple[int, int, bool]:
        """How many rounds could be chosen, of how many, and whether of one at least every hospital was heard."""
        rounds, plan, evaluation = self.rounds, self.plan, self.plan.scenario.evaluation
        if evaluation.select == "last" or rounds.empty:
            return 0, 0, False
        numbers = range(1, int(rounds["round"].max()) + 1)
        due = [n for n in numbers if is_due(n, evaluation.every, plan.scenario.federation.rounds)]
        phase, role = looked_at(evaluation.select)
        told = rounds[(rounds["phase"] == phase) & (rounds["role"] == role) & rounds["round"].isin(due)]
        told = told[told["metric"] == headline(plan.scenario.task)].groupby("round")
        heard = told["center"].nunique() == len(plan.holders(role, phase))
        return int((heard & told["value"].max().notna()).sum()), len(due), bool(heard.any())

    # ---- writing

    def writing(self, wait: bool = False) -> AbstractContextManager[None]:
        """Hold the folder as its one writer. Where another live process does, wait for it, or raise UserError."""
        return lock(self.folder / "lock", wait)

    def clear(self) -> None:
        """Throw away everything but the lock. Cut off at any moment, it leaves no run that begins in the middle, and as
        long as there is one, what it saw is known."""
        away = self.folder / THROWN_AWAY
        shutil.rmtree(away, ignore_errors=True)
        away.mkdir()
        names = {path.name for path in self.folder.iterdir()} - {"lock", THROWN_AWAY}
        first, last = ("result.json", "checkpoints", "members"), ("plan.json",)
        for name in (*first, *sorted(names.difference(first, last)), *last):
            if name in names:
                (self.folder / name).rename(away / name)
        shutil.rmtree(away)

    def start(self, plan: Plan, engine: str, workers: int, because: str = "") -> None:
        """Begin, or go on with, ``plan``. because: why with so many workers.

        Raises UserError where the folder's run saw other pixels, or is another: eight digits of a hash can be the same.
        """
        if (self.folder / THROWN_AWAY).exists():
            self.clear()  # it was cut off
        if (self.folder / "plan.json").is_file():
            before = Plan.load(self.folder)
            if before.hash != plan.hash:
                raise UserError(
                    f"{self.folder} holds another run, whose name happens to be the same; use another --out"
                )
            if before.data_sha256 != plan.data_sha256:
                changed = sorted(name for name, pixels in plan.pixels.items() if before.pixels.get(name) != pixels)
                raise UserError(
                    f"images or masks of {', '.join(changed)} have changed since {self.folder} was begun; --fresh "
                    "throws it away and begins again (in a sweep, remove it)"
                )
        if not self.finished:
            facts, path = environment(engine, workers, because), self.folder / "environment.json"
            if path.is_file():
                before = read_json(path)
                facts["notes"] = [*before["notes"], *moved(before, facts)]
            write_atomic(path, json.dumps(facts, indent=1))
        plan.save(self.folder)
        self.__dict__.pop("plan", None)
        for member, own in plan.members.items():
            stage = self.stage(member)
            if not stage.folder.exists() and (twin := self._beside(own)):
                with atomic_folder(stage.folder) as copy:
                    shutil.copytree(twin.folder, copy, dirs_exist_ok=True)
            stage.start(own, engine, workers)

    def note(self, text: str) -> None:
        """Keep with the run what happened to the machine while it ran."""
        path = self.folder / "environment.json"
        facts = read_json(path)
        write_atomic(path, json.dumps(facts | {"notes": [*facts["notes"], text]}, indent=1))

    def _beside(self, plan: Plan) -> "Run | None":
        """A finished run of the same plan in the folder where this one lies: no need to compute it again."""
        for folder in sorted(self.folder.parent.glob(f"*-{plan.hash[:8]}")):
            run = Run(folder)
            if run.finished and run.plan.hash == plan.hash and run.plan.data_sha256 == plan.data_sha256:
                return run
        return None

    def commit(self, checkpoint: Checkpoint, rounds: pd.DataFrame, samples: pd.DataFrame) -> None:
        """Write a round's records, then its checkpoint; then forget checkpoints that nobody needs."""
        for table, rows in zip(TABLES, (rounds, samples), strict=True):
            if len(rows):
                write_atomic(self._part(table, f"{checkpoint.round:04d}"), rows.to_parquet(index=False))
        before = self.committed()
        _save(checkpoint, self._checkpoint(checkpoint.round))
        keep = {checkpoint.round, checkpoint.best}
        keep |= {before.round, before.best} if before else set()  # whole, should this one be found broken
        for path in self._checkpoints():
            if round_of(path) not in keep:
                path.unlink()

    def drop_uncommitted(self, last: int) -> None:
        """Forget parts of rounds after ``last``: they were written but never committed."""
        for path in (self.folder / "records").glob("*.parquet"):
            if round_of(path) > last:
                path.unlink()

    def finish(
        self,
        final: Checkpoint,
        best: Checkpoint,
        rounds: pd.DataFrame,
        samples: pd.DataFrame,
        shared: pd.DataFrame | None = None,
    ) -> None:
        """Merge the parts and the closing evaluation into whole tables; ``result.json`` comes last.

        shared: what hospitals tell of per-image records that stay with them; what can be told of ``samples``, which
        others sent, is added, so that every center is in it.
        """
        if shared is not None and len(shared):
            told = pd.concat([shared, share(samples, 0)], ignore_index=True) if len(samples) else shared
            write_atomic(self.folder / "centers.parquet", told.to_parquet(index=False))
        for table, rows in zip(TABLES, (rounds, samples), strict=True):
            parts = [read_table(path) for path in self._parts(table)]
            whole = pd.concat([*parts, rows], ignore_index=True)
            write_atomic(self.folder / f"{table}.parquet", whole.to_parquet(index=False))
        frozen = self.frozen()
        result = {
            "initial_sha256": final.initial_sha256,
            # A baseline has no weights.
            "weights_sha256": sha256(last) if (last := final.state | frozen) else None,
            "best_sha256": sha256(chosen) if (chosen := best.state | frozen) else None,
            "best_round": final.best,
            "rounds": final.round,
            "select": self.plan.scenario.evaluation.select,
            "wall_s": round(final.wall_s + sum(run.result["wall_s"] for run in self.members.values()), 1),
            "failures": final.failures,
        }
        write_atomic(self.folder / "result.json", json.dumps(result, indent=1))
        shutil.rmtree(self.folder / "records", ignore_errors=True)

    def keep_paired(self, rows: pd.DataFrame) -> None:
        """Add to paired.parquet; what hospitals made of the same runs at the same centers before gives way."""
        both = pd.concat([self.paired, rows], ignore_index=True)
        kept = both.drop_duplicates(["first", "second", "center", "role"], keep="last")
        write_atomic(self.folder / "paired.parquet", kept.to_parquet(index=False))

    def _checkpoint(self, number: int) -> Path:
        return self.folder / "checkpoints" / f"{number:04d}.safetensors"

    def _checkpoints(self) -> list[Path]:
        """Of all rounds that are kept, the last first."""
        return sorted((self.folder / "checkpoints").glob("[0-9]*.safetensors"), key=round_of, reverse=True)

    def _part(self, table: str, stem: str) -> Path:
        return self.folder / "records" / f"{table}-{stem}.parquet"

    def _parts(self, table: str) -> list[Path]:
        return sorted((self.folder / "records").glob(f"{table}-*.parquet"), key=round_of)


def run_of_config(scenario: str, data: str, out: str) -> tuple[Run, Plan]:
    """The run of a Flower app's configuration: both of its sides find the same folder from the same three texts."""
    plan = make_plan(load(scenario), Path(data) if data else None)
    return Run(Path(out) / plan.name), plan


def _save(checkpoint: Checkpoint, path: Path) -> None:
    groups = {"shared": checkpoint.shared, "buffers": checkpoint.buffers, "local": checkpoint.local}
    groups |= {f"{SERVER}{name}": state for name, state in checkpoint.server.items()}
    save_groups(path, groups, json.dumps({name: getattr(checkpoint, name) for name in FACTS}))


def _load(path: Path, weights: bool = True) -> Checkpoint:
    groups, note = load_groups(path, weights)
    facts = json.loads(note)
    facts["scores"] = {int(number): score for number, score in facts["scores"].items()}
    server = {name.removeprefix(SERVER): state for name, state in groups.items() if name.startswith(SERVER)}
    shared, buffers, local = (groups.get(name, {}) for name in ("shared", "buffers", "local"))
    return Checkpoint(facts.pop("round"), shared, buffers, local, server, **facts)


def failure_text(failure: dict[str, Any]) -> str:
    """``round 2, attempt 2, bergen: disk full; asked again, it answered``"""
    attempt = f", attempt {failure['attempt']}" if failure.get("attempt", 1) > 1 else ""
    mended = "; asked again, it answered" if failure.get("mended") else ""
    return f"round {failure['round']}{attempt}, {failure['center']}: {failure['reason']}{mended}"
