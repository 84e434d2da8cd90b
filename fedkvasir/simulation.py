"""Runs and studies on this machine: with ``deployment``, over real sites, what imports clients and server here."""

import json
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import torch

from fedkvasir.console import Screen
from fedkvasir.errors import UserError
from fedkvasir.estimate import Choice, choose_workers, gpu_share, measure_step, within_limits
from fedkvasir.live import LiveTable
from fedkvasir.plan import Plan, make_plan
from fedkvasir.report import build_report
from fedkvasir.report.study import build_study
from fedkvasir.runs import Event, Run, Watch
from fedkvasir.scenario import Scenario, load
from fedkvasir.study import Study, one_by_one
from fedkvasir.sweep import tried
from fedkvasir.trackers import find_trackers, followed

if TYPE_CHECKING:
    from server.grid import LocalGrid, RayGrid

CLIENT_APP = "clients.app:app"


def run_scenario(
    scenario: str | Path,
    overrides: tuple[str, ...] = (),
    data: str | Path | None = None,
    out: str | Path = "runs",
    engine: str = "ray",
    workers: int | None = None,
    fresh: bool = False,
    screen: Screen | None = None,
    track: tuple[str, ...] = (),
) -> Run:
    """Run a scenario to its end and return its run folder; a finished run is opened, a stopped one goes on.

    track: names of trackers that are told of it.
    Raises UserError for what the user can mend, RunFailed where the run could not go on.
    """
    with Simulation(data, out, engine, workers, screen, track) as simulation:
        return simulation.run(load(scenario, overrides), fresh)


def run_sweep(
    scenario: Scenario,
    data: str | Path | None = None,
    out: str | Path = "runs",
    workers: int = 1,
    concurrent: int | None = None,
    address: str | None = None,
    screen: Screen | None = None,
) -> Study:
    """Carry out a sweep, or what is left of it, many runs at a time on this machine or a Ray cluster.

    workers: processes of one run; concurrent: runs at a time, None: as many as there is room for; address: the cluster.
    Raises UserError before anything is run where it cannot be; runs that fail are in the study's index.
    """
    own_packages_first()
    from server.sweep import Trials

    screen = screen or Screen(quiet=True)
    own = workers if workers > 1 or scenario.deadly else 0
    execute = partial(_run_point, str(Path(data).resolve()) if data else None, str(Path(out).resolve()), own)
    study = Study.of(scenario, Path(out))
    with study.writing():
        (_, (first, *_)), *_ = tried(scenario)  # all: what is wrong with a setting is said before Ray is started
        resources, live, here = scenario.resources, LiveTable(screen), Simulation(data, out, screen=screen)
        if address is None:  # the data of a cluster need not be on this machine
            here.rehearse(scenario)
        if resources.workers == "auto" and address is None:
            plan = here._on_the_same_images(first.scenario)
            choice = within_limits(plan, measure_step(plan), {})
            share = gpu_share(plan, max(choice.workers, workers))
            resources = resources.model_copy(update={"gpu_per_center": share})
            concurrent = concurrent or max(1, choice.workers // workers)
            screen.say(f"{concurrent} run(s) at a time: {choice.because}")
        fit = scenario.model_copy(update={"resources": resources})
        with Trials(study, fit, execute, own, concurrent, address, screen.warn) as trials, live.shown():
            study.carry_out(scenario, trials, live, None if address else here.begun)
        build_study(study)
    return study


def _run_point(
    data: str | None, out: str, workers: int, scenario: Scenario, told: Callable[[Run, int, float], None]
) -> Run:
    """A run of a sweep, in a trial's process; without workers its hospitals are in that process, too."""

    def watch(run: Run, event: Event) -> None:
        known = event.facts["scores"] if event.kind == "resume" else {}
        if event.kind == "round" and event.facts["score"] is not None:
            known = {event.round: event.facts["score"]}
        tell(run, known)

    def tell(run: Run, known: Mapping[int, float]) -> None:
        heard.extend(known)
        for number, score in sorted(known.items()):
            told(run, number, score)

    heard = list[int]()
    with Simulation(data, out, "ray" if workers else "local", workers or 1) as simulation:
        run = simulation.run(scenario, brief=True, watch=watch)
        if not heard and (last := run.committed()):  # it was finished: others are measured by all of its rounds
            tell(run, last.scores)
        return run


class Simulation:
    """Hospitals and server on this machine. Workers are started when a run needs them, and stay for the next."""

    def __init__(
        self,
        data: str | Path | None = None,
        out: str | Path = "runs",
        engine: str = "ray",
        workers: int | None = None,
        screen: Screen | None = None,
        track: tuple[str, ...] = (),
    ) -> None:
        if engine not in ("ray", "local"):
            raise UserError(f"--engine {engine}: use ray or local")
        self.data, self.out = Path(data) if data else None, Path(out).resolve()
        self.engine, self.workers, self.track = engine, workers, track
        self.screen = screen or Screen(quiet=True)
        find_trackers(track)
        self._grid: LocalGrid | RayGrid | None = None
        self._plans: dict[str, Plan] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def plan(self, scenario: Scenario) -> Plan:
        """The scenario's plan, with progress of what is decoded for it."""
        if scenario.deadly and self.engine == "local":
            raise UserError(
                f"faults: {scenario.deadly} takes a process of its own, and --engine local has one: use --engine ray"
            )
        with self.screen.bars():
            return make_plan(scenario, self.data, self.screen.preparing)

    def run(
        self,
        scenario: Scenario,
        fresh: bool = False,
        brief: bool = False,
        watch: Callable[[Run, Event], object] = lambda run, event: None,
    ) -> Run:
        """Run a scenario to its end, or open its finished run; see :func:`run_scenario`.

        brief: one run of several: no line a round, and where another process is at it, it is waited for; watch: told of
        everything that happens.
        """
        if "auto" in (self.workers or scenario.resources.workers, scenario.training.batch_size):
            self.close()  # memory is measured, of which the workers of the run before hold some
        plan = self.plan(scenario)
        run = Run(self.out / plan.name)
        with run.writing(wait=brief):
            done = run.finished and not fresh
            choice = Choice(1) if self.engine == "local" or done else choose_workers(plan, self.workers)
            if fresh:  # nothing is thrown away for what cannot begin
                run.clear()
            run.start(plan, self.engine, choice.workers, choice.because)
            how = f"engine {self.engine}, {choice.workers} worker(s)"
            if choice.because and plan.scenario.resources.workers == "auto":
                how += f": {choice.because}"
            execute = partial(self._federate, plan, run, choice.workers)
            see_through(run, execute, how, self.screen, self.track, brief, watch)
        return run

    def study(self, scenario: Scenario, fresh: bool = False) -> Study:
        """Carry out a scenario's protocol, or what is left of it. Raises UserError before anything is run where the
        protocol cannot be carried out; runs that fail are in the study's index."""
        scenario = scenario.model_copy(update={"sweep": None})
        study = Study.of(scenario, self.out)
        with study.writing():
            if scenario.protocol and scenario.protocol.tune:
                self.rehearse(scenario)
            execute = partial(self.run, fresh=fresh, brief=True)
            study.carry_out(scenario, one_by_one(execute), self.screen.line, None if fresh else self.begun)
            build_study(study)
        return study

    def begun(self, scenario: Scenario) -> Run | None:
        """The run of a scenario on the images that are there now, finished or not; None where there is none."""
        try:
            own = replace(self._on_the_same_images(scenario), scenario=scenario)
            run = Run(self.out / own.name)
            there = run.plan.hash == own.hash and run.plan.pixels == own.pixels
        except UserError:  # told when it is run
            return None
        return run if there else None

    def rehearse(self, scenario: Scenario) -> None:
        """Make the plans of a study or sweep, one for everything that is asked of the data. Raises UserError for what
        its runs would be refused for, and where several settings of a cell have no image to be judged by."""
        for cell, points in tried(scenario):
            for point in points:
                plan = self._on_the_same_images(point.scenario)
            own = replace(plan, scenario=cell.scenario).as_trained()
            if len(points) > 1 and not own.holders("train", "val"):
                whose = f"{cell.method} at {cell.hospital}" if cell.hospital else cell.method
                raise UserError(
                    f"{whose}: validation images decide between its {len(points)} settings, and there are none: set "
                    "val: 0.15 at the training centers"
                )

    def _on_the_same_images(self, scenario: Scenario) -> Plan:
        """The first plan that was made on them."""
        asked = json.dumps([scenario.task, scenario.data.model_dump(mode="json")])
        if asked not in self._plans:
            self._plans[asked] = self.plan(scenario)
        return self._plans[asked]

    def close(self) -> None:
        """Let go of the workers and of what they hold."""
        if self._grid is not None:
            self._grid.close()
            self._grid = None
            if self.engine == "local":
                from clients.app import forget

                forget()

    def _federate(self, plan: Plan, run: Run, workers: int, watch: Watch) -> None:
        own_packages_first()
        from server.rounds import federate, roll_call

        logging.getLogger("flwr").setLevel(logging.WARNING)
        with self.screen.bars():
            self.screen.start("starting workers", None)
            grid = self._seated(plan, run, workers)
            grid.on_reply, grid.on_notice = self.screen.advance, self._noting(run)
            federate(grid, roll_call(grid, plan), plan, run, watch)

    def _noting(self, run: Run) -> Callable[[str], None]:
        def note(text: str) -> None:
            self.screen.warn(text)
            run.note(text)

        return note

    def _seated(self, plan: Plan, run: Run, workers: int) -> "LocalGrid | RayGrid":
        """The grid with this run's centers; the workers of the run before where they are enough."""
        from server.grid import LocalGrid, Node, RayGrid

        nodes = [
            Node(str(center), str(run.folder), float(row["train"]), float(row["val"] + row["test"]))
            for center, row in plan.centers.iterrows()
        ]
        threads = plan.scenario.resources.threads_per_center
        if self._grid is not None and self._grid.serves(threads, workers):
            self._grid.seat(nodes)
            return self._grid
        self.close()
        if self.engine == "local":
            self._grid = LocalGrid(nodes, CLIENT_APP, threads)
        else:
            gpus, share = torch.cuda.device_count(), gpu_share(plan, workers)
            self._grid = RayGrid(nodes, CLIENT_APP, threads, workers, gpus, share)
        return self._grid


def see_through(
    run: Run,
    execute: Callable[[Watch], None],
    how: str,
    screen: Screen,
    track: tuple[str, ...],
    brief: bool,
    watch: Callable[[Run, Event], object] = lambda run, event: None,
) -> None:
    """Have a run that is begun done, unless it is finished, and its reports made.

    execute: does it, and says everything that happens; how: where, for the line that says so; brief: no line a round;
    watch: told of everything that happens.
    """
    plan = run.plan
    say: Callable[[str], None] = (lambda text: None) if brief else screen.say
    show = screen.progress if brief else screen.event
    with followed(run, find_trackers(track), screen.warn) as follow:

        def tell(event: Event) -> None:
            show(plan, event)
            follow(event)
            watch(run, event)

        if run.finished:
            say(f"{plan.name} is finished; --fresh runs it again")
        else:
            say(f"{plan.name}: {len(plan.training_centers)} hospitals train, {how}")
            execute(tell)
        for finished in (*run.members.values(), run):
            if not (finished.folder / "report.html").is_file():
                build_report(finished)


def own_packages_first() -> None:
    """`clients` and `server` are top-level names; a stray file in the working folder must not be taken for them."""
    root = str(Path(__file__).resolve().parents[1])
    if sys.path[:1] != [root]:
        sys.path.insert(0, root)
