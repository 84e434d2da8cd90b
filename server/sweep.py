"""Points of a study as trials of Ray Tune: many at a time, on this machine or on a Ray cluster.

A trial is one process, which is the server of its run and, without workers, its hospitals as well; workers are actors
inside the trial's placement group, so that a sweep fills the cluster and no more. Tune's own state is thrown
away: what a point has come to lies in its run folder, and the same sweep goes on from there.
"""

import os
import shutil
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir, nullcontext
from itertools import groupby
from logging import CRITICAL
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")  # it is the user's working folder, see _trial
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the table is ours
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Ctrl-C ends the sweep at once: runs can always go on

import ray
import torch
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import AsyncHyperBandScheduler
from ray.tune.search import Searcher

from fedkvasir.errors import UserError, reason_of
from fedkvasir.gpu import is_full, share_of_one, workers_on_one
from fedkvasir.machine import cores, sigterm_as_ctrl_c
from fedkvasir.points import Point
from fedkvasir.runs import Run
from fedkvasir.scenario import Range, Scenario
from fedkvasir.study import Changed, Line, Study, validation_score
from fedkvasir.sweep import Axes, axes_of, changes_of, protocol_of, rounded
from server.grid import SEES_GPUS, prepare_ray

RETRIES = 8
"""A trial whose process or node dies is begun again; its run goes on from the last committed round. Tune counts a death
once for every call that it waits for, up to three times."""
SCORE, TIME = "validation", "round"
OVER = ("finished", "stopped")
"""States of a run by which others of its method are measured."""
WORST = -1.0
"""Below any score: of a run that failed."""
Execute = Callable[[Scenario, Callable[[Run, int, float], None]], Run]
"""Runs a scenario, and tells its run, round and validation score of every round that was validated."""


class Trials:
    """Runs lines of a study on Ray; a :data:`~fedkvasir.study.Work`.

    study: its folder must be seen by every node; execute: found by name on every node.
    address: of a Ray cluster (``auto``, ``host:port``, ``ray://host:port``); None: this machine, for the sweep alone.
    workers: processes of one run besides its own, which does without where there are none.
    concurrent: runs at a time, None: as many as there is room for. warn: told where a cluster has no room for one.
    """

    def __init__(
        self,
        study: Study,
        scenario: Scenario,
        execute: Execute,
        workers: int = 0,
        concurrent: int | None = None,
        address: str | None = None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.study, self.scenario, self.folder, self.execute = study, scenario, study.folder / "tune", execute
        self.workers, self.concurrent, self.address, self.warn = workers, concurrent, address, warn
        self.begun = False

    def __enter__(self) -> Self:
        return self

    def _begin(self) -> None:
        if ray.is_initialized():
            raise UserError("Ray is in use in this process already; a sweep needs a Ray of its own")
        prepare_ray()
        # Of a process that died, or a disk that is full, Ray shows tracebacks; what comes of it is said by us.
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": CRITICAL}
        # Ray puts the folder it is started in first on its workers' path: a stray server.py there is not ours.
        with chdir(Path(__file__).parents[1]):
            if self.address is None:
                gpus = 0 if self.scenario.resources.device == "cpu" else torch.cuda.device_count()
                ray.init("local", num_cpus=self._cpus, num_gpus=gpus, include_dashboard=False, **quiet)
            else:
                _refuse_silence(self.address)
                try:
                    # A run's own process asks for no GPU where it has workers, but must see what they will have.
                    ray.init(self.address, runtime_env={"env_vars": {SEES_GPUS: "0"}}, **quiet)
                except (ConnectionError, ValueError) as error:
                    raise UserError(f"--address {self.address}: no Ray cluster answers there ({error})") from error
        self.begun = True
        sigterm_as_ctrl_c()
        self._look_for_room()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.begun:
            ray.shutdown()
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _cpus(self) -> int:
        """Of this machine; where more runs are asked for at a time than it has cores, as many as they take."""
        return max(cores(), (self.concurrent or 1) * (self.workers or 1) * self.scenario.resources.threads_per_center)

    def __call__(self, lines: Sequence[Line], changed: Changed) -> None:
        """Run all of them. One that finds a GPU's memory taken by others is run again, with a GPU of its own."""
        for line in lines:
            if line.state != "waiting":
                changed(line)
        if all(line.state != "waiting" for line in lines):
            return
        if not self.begun:
            self._begin()
        self._work(lines, changed)
        crowded = [line for line in lines if line.state == "failed" and is_full(line.reason)]
        alone = share_of_one(self.workers or 1, gpus=1)
        if crowded and alone > self._resources().bundles[-1].get("GPU", alone):
            for line in crowded:
                line.state, line.reason = "waiting", ""
            self._tune(crowded, changed, _numbers(crowded), 1, gpu=alone)
            for line in crowded:
                line.reason = line.reason or "run again with a GPU of its own: out of GPU memory beside others"
                changed(line)

    def _work(self, lines: Sequence[Line], changed: Changed) -> None:
        """Those of one cell by themselves where what is tried, or goes on, depends on the others: of the first seed."""
        left = [line for line in lines if line.state == "waiting"]
        sweep, first = self.scenario.sweep, protocol_of(self.scenario).seeds[0]
        alone = len({line.point.cell for line in lines}) == len(lines)
        if sweep is None or not sweep.explores or alone or lines[0].point.seed != first:
            self._tune(left, changed, _numbers(left), 1)
            return
        for cell, group in groupby(left, key=lambda line: line.point.cell):
            own, over = list(group), [line for line in lines if line.point.cell == cell and line.state in OVER]
            halving = self._halving(over) if sweep.stop == "asha" else None
            if sweep.search == "optuna":
                axes = axes_of(self.scenario, own[0].point)
                self._tune(own, changed, {}, len(own), halving, _optuna(axes, own, over), axes)
            else:
                self._tune(own, changed, _numbers(own), 1, halving)

    def _halving(self, over: Sequence[Line]) -> AsyncHyperBandScheduler:
        """over: what an earlier call has finished or stopped; the others are measured by it as they would have been."""
        # A trial is stopped at max_t, too; how many rounds a run has is its own, and after the last it is tested.
        halving = AsyncHyperBandScheduler(TIME, SCORE, "max", max_t=sys.maxsize, reduction_factor=3)
        tuner: Any = None
        for line in over:
            last = self.study.run(line.run).committed()
            known = Trial("", trial_id=line.run, stub=True)
            halving.on_trial_add(tuner, known)
            for number, score in sorted(last.scores.items()) if last else ():
                halving.on_trial_result(tuner, known, {TIME: number, SCORE: score})
        return halving

    def _tune(
        self,
        lines: Sequence[Line],
        changed: Changed,
        space: dict[str, Any],
        samples: int,
        scheduler: AsyncHyperBandScheduler | None = None,
        search: Searcher | None = None,
        axes: Axes = MappingProxyType({}),
        gpu: float | None = None,
    ) -> None:
        """gpu: the share of one that each process has; None: as the scenario says."""
        if not lines:
            return
        watching = _Watching(lines, changed, axes)
        given = {"points": watching.points, "execute": self.execute, "axes": dict(axes), "folder": Path.cwd()}
        own = tune.with_parameters(_trial, **given)
        trial = tune.with_resources(own, self._resources(gpu))
        settings = tune.TuneConfig(
            num_samples=samples,
            max_concurrent_trials=self.concurrent,
            scheduler=scheduler,
            search_alg=search,
            reuse_actors=scheduler is None,  # what asha stops is killed
        )
        kept = tune.RunConfig(
            name=f"{len(lines)}-{id(lines)}",
            storage_path=str(self.folder),
            verbose=0,
            callbacks=[watching],
            failure_config=tune.FailureConfig(max_failures=RETRIES),
        )
        try:
            results = tune.Tuner(trial, param_space=space, tune_config=settings, run_config=kept).fit()
            for result in map(results.__getitem__, range(len(results))):
                # Under ray:// Tune, and with it the callback, is in another process: all is learned here, at the end.
                last = result.metrics if result.error is None else None
                watching.over((result.metrics or {}).get("trial_id", str(result.config)), result.config or {}, last)
        finally:
            watching.end()

    def _look_for_room(self) -> None:
        """Ray waits, without a word, until there is room for a run. Raises UserError where there never will be; a
        cluster may scale itself up, or its nodes may not be there yet."""
        one, need = self._resources().bundles[-1], self.workers or 1
        room = sum(_places(node["Resources"], one) for node in ray.nodes() if node["Alive"])
        if room >= need:
            return
        asked = " and ".join(f"{count:g} {name}" for name, count in one.items() if count)
        text = f"a run takes {need} process(es) with {asked} each, and there is room for {room}"
        if self.address is None:
            raise UserError(f"{text}: set a lower --workers, or resources.gpu_per_center=auto")
        self.warn(
            f"{text}: unless the cluster grows, nothing will be run; a lower --workers, resources.threads_per_center "
            "or resources.gpu_per_center takes less"
        )

    def _resources(self, gpu: float | None = None) -> tune.PlacementGroupFactory:
        own = self.scenario.resources
        one: dict[str, float] = {"CPU": own.threads_per_center}
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if own.device == "cuda" or (own.device == "auto" and gpus):  # a cluster that grows may have none yet
            half = min(0.5, share_of_one(self.workers or 1, max(gpus, 1)))
            one["GPU"] = gpu or (half if own.gpu_per_center == "auto" else own.gpu_per_center)
        return tune.PlacementGroupFactory([{}, *[one] * self.workers] if self.workers else [one])


def _places(node: Mapping[str, float], one: Mapping[str, float]) -> int:
    """How many processes with so many resources each fit on an empty node; none stretches over two GPUs."""
    places = [int(node.get("CPU", 0) // one["CPU"])]
    if share := one.get("GPU"):
        places.append(int(node.get("GPU", 0)) * workers_on_one(share))
    return min(places)


def _refuse_silence(address: str) -> None:
    """Ray itself tries for a minute. Raises UserError where nothing listens."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if address == "auto":
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        raise UserError(
            f"--address {address}: use auto, host:port or ray://host:port; nothing answers there"
        ) from error


def _trial(config: dict[str, Any], points: Sequence[Point], execute: Execute, axes: Axes, folder: Path) -> None:
    """In the trial's process: run one point, report its rounds, at the end where its folder is or why it failed.

    folder: the user's working folder, which paths in a scenario are relative to; another node may have none.
    """

    def told(run: Run, number: int, score: float) -> None:
        tune.report({TIME: number, SCORE: score, "so far": str(run.folder)})

    try:
        with chdir(folder) if folder.is_dir() else nullcontext():
            run = execute(_point(config, points, axes).scenario, told)
        tune.report({TIME: run.result["rounds"], SCORE: validation_score(run), "run": str(run.folder)})
    except Exception as error:  # one run's own; what Tune begins again is a process that died
        tune.report({TIME: 0, SCORE: WORST, "reason": reason_of(error)})


def _point(config: Mapping[str, Any], points: Sequence[Point], axes: Axes) -> Point:
    """What a trial's configuration stands for: the number of a point, or optuna's place in every axis."""
    if "line" in config:
        return points[config["line"]]
    return points[0].at(
        {key: rounded(config[key]) if isinstance(axis, Range) else axis[config[key]] for key, axis in axes.items()}
    )


def _numbers(lines: Sequence[Line]) -> dict[str, Any]:
    return {"line": tune.grid_search(list(range(len(lines))))}


def _space(axes: Axes) -> dict[str, Any]:
    """For optuna: numbers of ranges, and of a list the index."""
    drawn = {True: tune.loguniform, False: tune.uniform}
    return {
        key: drawn[axis.log](axis.low, axis.high) if isinstance(axis, Range) else tune.choice(list(range(len(axis))))
        for key, axis in axes.items()
    }


def _optuna(axes: Axes, left: Sequence[Line], over: Sequence[Line]) -> Searcher:
    """Raises UserError without the extra. left: those that have a setting, of an earlier call, come first; over: what
    is known of others."""
    try:
        import optuna
        from ray.tune.search.optuna import OptunaSearch

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        space = OptunaSearch.convert_search_space(_space(axes))
        chosen = [place for line in left if (place := _place(line, axes)) is not None]
        # With the seed of the first call the sampler would draw what it drew then once more.
        seed = len(chosen) + len(over)
        search = OptunaSearch(space, metric=SCORE, mode="max", seed=seed, points_to_evaluate=chosen or None)
    except (ImportError, AssertionError) as error:
        raise UserError("sweep.search = optuna needs the extra: pip install 'fedkvasir[optuna]'") from error
    for line in over:
        place = _place(line, axes)
        if place is not None and line.validation == line.validation:
            search.add_evaluated_point(place, line.validation)
    return search


def _place(line: Line, axes: Axes) -> dict[str, Any] | None:
    """Where its setting lies in optuna's space; None for one that has none yet."""
    changes = changes_of(line.point.setting, axes)
    return changes and {
        # Rounded, it may lie outside.
        key: min(max(changes[key], axis.low), axis.high) if isinstance(axis, Range) else [*axis].index(changes[key])
        for key, axis in axes.items()
    }


class _Watching(tune.Callback):
    """Tune's events, as what has become of the lines."""

    def __init__(self, lines: Sequence[Line], changed: Changed, axes: Axes) -> None:
        self.points, self.changed, self.axes = [line.point for line in lines], changed, axes
        self.free = list(lines)
        self.lines: dict[str, Line] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Tune writes its callbacks into its own state; what this one holds is of this process."""
        return tune.Callback, ()

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._become(self._line(trial.trial_id, trial.config), "running")

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.over(trial.trial_id, trial.config, trial.last_result)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.over(trial.trial_id, trial.config, None)

    def over(self, trial_id: str, config: Mapping[str, Any], last: Mapping[str, Any] | None) -> None:
        """A trial has ended. last: what it reported last; None: its process died, once too often."""
        line = self._line(trial_id, config)
        if line.state not in ("waiting", "running"):
            return
        if last is None:
            self._become(line, "failed", "its process died again and again; out of memory?")
        elif "run" in last:
            line.note(Run(last["run"]))
            self.changed(line)
        elif "reason" in last:
            self._become(line, "failed", last["reason"])
        elif (run := Run(last["so far"])).finished:  # before, whoever asked for it
            line.note(run)
            self.changed(line)
        else:
            line.validation, line.run = last[SCORE], run.folder.name
            self._become(line, "stopped", f"behind others of {line.point.method} at round {last[TIME]}")

    def _line(self, trial_id: str, config: Mapping[str, Any]) -> Line:
        """The trial's; of optuna's, one that has the setting already, or the next that has none yet."""
        if trial_id not in self.lines:
            point = _point(config, self.points, self.axes)
            own = [line for line in self.free if line.point is point]
            own = own or [line for line in self.free if line.point.setting == point.setting]
            line = (own or [line for line in self.free if not line.point.setting] or self.free)[0]
            self.free.remove(line)
            line.point, self.lines[trial_id] = point, line
        return self.lines[trial_id]

    def end(self) -> None:
        """What was running when the sweep was stopped is left to do."""
        for line in self.lines.values():
            if line.state == "running":
                line.state = "waiting"
                self.changed(line)

    def _become(self, line: Line, state: str, reason: str = "") -> None:
        line.state, line.reason = state, reason
        self.changed(line)
