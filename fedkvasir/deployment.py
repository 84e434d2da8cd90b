"""Runs over real sites: the same round loop as in a simulation, with hospitals that a SuperLink reaches."""

import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from fedkvasir.console import Screen
from fedkvasir.errors import RunFailed, UserError
from fedkvasir.methods import Method, of_study
from fedkvasir.names import check_names, spelled_out
from fedkvasir.plan import Plan
from fedkvasir.points import cells
from fedkvasir.report.study import build_study
from fedkvasir.runs import Run
from fedkvasir.scenario import Scenario
from fedkvasir.simulation import own_packages_first, see_through
from fedkvasir.sites.federation import ServerKit
from fedkvasir.sites.plan import refuse_unfit
from fedkvasir.study import Study, one_by_one
from fedkvasir.trackers import find_trackers

KITS = "FEDKVASIR_KITS"
"""Where kits lie, if not in the folder ``kits``."""
AGAIN_S = 5.0


def run_on(
    scenario: Scenario,
    lab: str,
    out: str | Path = "runs",
    fresh: bool = False,
    screen: Screen | None = None,
    track: tuple[str, ...] = (),
    brief: bool = False,
) -> Run:
    """Run a scenario at the hospitals of a federation; a stopped run goes on from its last finished round.

    lab: the federation's name, or its server's folder; brief: no line a round. While the SuperLink does not answer it
    is tried again, for ever. Raises UserError for what the user can mend, a server that refuses the kit's secret or is
    not the kit's among it; RunFailed where hospitals do not answer or too few do.
    """
    own_packages_first()
    from fedkvasir.wire import app_sha256
    from server.lab import Disconnected, connected, enrol
    from server.rounds import federate

    logging.getLogger("flwr").setLevel(logging.WARNING)
    kit, screen = find_kit(lab), screen or Screen(quiet=True)
    _check(scenario)
    scenario = spelled_out(scenario)
    find_trackers(track)
    if not brief:
        screen.say(f"scenario sha256 {scenario.sha256}, app sha256 {app_sha256()}")
    out, deadline_s = Path(out).resolve(), scenario.federation.deadline_s or 0.0
    while True:
        try:
            with screen.bars(), connected(kit) as grid:
                screen.start("asking hospitals what they hold", None)
                grid.on_notice = screen.say
                plan, nodes = enrol(grid, scenario, deadline_s, () if fresh else _begun(scenario, out))
                run = Run(out / plan.name)
                with run.writing():
                    if fresh:
                        run.clear()
                        fresh = False  # once: what is done from now on is kept
                    run.start(plan, "sites", len(nodes))
                    grid.on_reply = screen.advance
                    execute = partial(federate, grid, nodes, plan, run, remote=True)
                    see_through(run, execute, f"over {len(nodes)} sites", screen, track, brief)
                return run
        except Disconnected as why:
            screen.warn(f"{kit.address} is not to be had ({why}); tried again, from the last finished round")
            time.sleep(AGAIN_S)


def study_on(
    scenario: Scenario,
    lab: str,
    out: str | Path = "runs",
    fresh: bool = False,
    screen: Screen | None = None,
    track: tuple[str, ...] = (),
) -> Study:
    """Carry out a scenario's protocol at the hospitals of a federation, or what is left of it, and have them compare
    its methods on what stayed with them.

    Raises UserError before anything is run where the protocol cannot be carried out there, RunFailed where hospitals
    that were to compare do not answer; runs that fail are in the study's index.
    """
    scenario, screen = scenario.model_copy(update={"sweep": None}), screen or Screen(quiet=True)
    for point in cells(scenario):
        _check(point.scenario)
    find_kit(lab)
    study = Study.of(scenario, Path(out))
    with study.writing():
        work = one_by_one(lambda own: run_on(own, lab, out, fresh, screen, track, brief=True))
        study.carry_out(scenario, work, screen.line)
        methods: list[Method] = []
        with suppress(UserError):  # none is finished; the report says so
            methods = of_study(study)
        try:
            if len(methods) > 1:
                compare_on(methods, lab, screen)
        finally:
            build_study(study)
    return study


def compare_on(methods: Sequence[Method], lab: str, screen: Screen | None = None) -> None:
    """Have the hospitals of a federation compare methods on the records that stayed with them.

    Raises UserError where there is no such federation, RunFailed where a hospital or the SuperLink does not answer.
    """
    own_packages_first()
    from server.lab import Disconnected, compare, connected

    deadlines = [run.plan.scenario.federation.deadline_s or 0.0 for method in methods for run in method.runs]
    try:
        with connected(find_kit(lab)) as grid:
            grid.on_notice = (screen or Screen(quiet=True)).say
            compare(grid, methods, max(deadlines))
    except Disconnected as why:
        raise RunFailed(f"the hospitals could not be asked: {why}") from why


def find_kit(lab: str) -> ServerKit:
    """The server's folder of a federation, by its name or path. Raises UserError where there is none."""
    if (Path(lab) / "server.yaml").is_file():
        return ServerKit.load(Path(lab))
    beside = Path(os.environ.get(KITS, "kits")) / "server"
    if not (beside / "server.yaml").is_file():
        raise UserError(
            f"--on {lab}: neither {lab} nor {beside} holds a server.yaml; `fedkvasir site kit` makes one, "
            f"and {KITS} says where kits lie"
        )
    kit = ServerKit.load(beside)
    if kit.name != lab:
        raise UserError(f"--on {lab}: the federation of {beside} is {kit.name}")
    return kit


def _check(scenario: Scenario) -> None:
    if scenario.federation.deadline_s is None:
        raise UserError(
            "federation.deadline_s is not set: over real sites a round needs one, in seconds, after which it closes "
            "without those who have not answered; e.g. federation.deadline_s=3600"
        )
    refuse_unfit(scenario)
    check_names(scenario)  # a hospital keeps the words of what is wrong to itself


def _begun(scenario: Scenario, out: Path) -> list[Plan]:
    """Plans of the runs of a scenario that lie in ``out``, the last one that was begun or went on first."""
    paths = out.glob(f"{scenario.name}-{'[0-9a-f]' * 8}/plan.json")
    plans = []
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        with suppress(UserError):  # a folder that cannot be read is none to go on with
            plans.append(Run(path.parent).plan)
    return [plan for plan in plans if plan.scenario.decides_as(scenario)]
