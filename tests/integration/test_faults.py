"""Declared faults in whole runs: what is mended, what is gone on without, what stops a run, and that it is replayed."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from flwr.app import Context, Message
from flwr.clientapp import ClientApp
from flwr.clientapp.typing import ClientAppCallable

from clients.app import app as real
from clients.faults import striking
from fedkvasir import simulation
from fedkvasir.errors import RunFailed, UserError
from fedkvasir.runs import Run
from fedkvasir.scenario import load
from fedkvasir.simulation import Simulation, run_scenario

TWO_ROUNDS, MAJORITY = "federation.rounds=2", "federation.quorum=0.6"
DEADLINE = "federation.deadline_s=8"
"""Longer than a hospital takes on a busy machine."""

Federate = Callable[..., Run]


def _federating(hospitals: Simulation, scenario: Path) -> Federate:
    return lambda fault, *overrides: hospitals.run(load(scenario, (f"faults=[{fault}]", TWO_ROUNDS, *overrides)))


@pytest.fixture(scope="module")
def federate(scenario: Path, out: Path) -> Iterator[Federate]:
    """``federate("{kind: dropout}", "seed=1")``: two rounds with one fault, in this process."""
    with Simulation(out=out, engine="local") as hospitals:
        yield _federating(hospitals, scenario)


@pytest.fixture(scope="module")
def federate_on_workers(scenario: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federate]:
    """The same on two Ray workers that stay."""
    with Simulation(out=tmp_path_factory.mktemp("workers"), workers=2) as hospitals:
        yield _federating(hospitals, scenario)


def outcome(run: Run) -> tuple[str, list[tuple[int, int, str, bool]]]:
    """The weights, and round, attempt, center and whether it was mended of every failure."""
    failures = [(f["round"], f["attempt"], f["center"], f["mended"]) for f in run.result["failures"]]
    return run.result["weights_sha256"], failures


def trained(run: Run, number: int) -> set[str]:
    rounds = run.rounds
    return set(rounds[(rounds["phase"] == "train") & (rounds["round"] == number)]["center"])


def seed_where(scenario: Path, fault: str, wanted: Callable[[Callable[..., bool]], bool]) -> str:
    """The first seed whose draws are ``wanted``, as an override."""

    def fits(seed: int) -> bool:
        drawn = load(scenario, (f"faults=[{fault}]", f"seed={seed}"))
        return wanted(lambda *occasion: bool(striking(drawn, "bergen", *occasion)))

    return f"seed={next(seed for seed in range(1000) if fits(seed))}"


def test_below_quorum_the_missing_are_asked_again_and_nothing_is_lost(federate: Federate, scenario: Path) -> None:
    """Bergen answers round 1 when it is asked for the third time, and round 2 at once: the weights of a clean run."""
    fault = "{kind: dropout, center: bergen, probability: 0.5}"
    seed = seed_where(
        scenario,
        fault,
        lambda struck: [struck(1, 1), struck(1, 2), struck(1, 3), struck(2, 1)] == [True, True, False, False],
    )
    sha256, failures = outcome(federate(fault, seed))
    assert failures == [(1, 1, "bergen", True), (1, 2, "bergen", True)]
    assert sha256 == outcome(federate("", seed))[0]


@pytest.mark.slow
def test_a_crash_is_survived_where_the_next_delivery_is_not_struck(
    federate_on_workers: Federate, scenario: Path
) -> None:
    """Its neighbours' messages are not lost with the worker, and the message of a lost one is handed out again."""
    fault = "{kind: crash, center: bergen, probability: 0.5, rounds: [1]}"
    seed = seed_where(scenario, fault, lambda struck: struck(1, 1, 1) and not struck(1, 1, 2))
    assert outcome(federate_on_workers(fault, seed)) == outcome(federate_on_workers("", seed))


@pytest.mark.slow
def test_who_crashes_every_worker_is_gone_on_without_and_takes_nobody_along(federate_on_workers: Federate) -> None:
    run = federate_on_workers("{kind: crash, center: bergen, rounds: [2]}", MAJORITY)
    (failure,) = run.result["failures"]
    assert (failure["round"], failure["center"], failure["mended"]) == (2, "bergen", False)
    assert "its worker died 3 times" in failure["reason"]
    assert trained(run, 1) == {"alta", "bergen", "cadiz"} and trained(run, 2) == {"alta", "cadiz"}


CORRUPT = (
    "{kind: corrupt, center: alta, rounds: [1], how: nan}, {kind: corrupt, center: bergen, rounds: [2], "
    "how: wrong-shape}, {kind: corrupt, center: cadiz, rounds: [1], how: scaled, factor: 3}"
)


def test_updates_that_cannot_be_averaged_are_not_and_scaled_ones_are(federate: Federate) -> None:
    run = federate(CORRUPT, MAJORITY)
    assert [(f["round"], f["center"], f["reason"]) for f in run.result["failures"]] == [
        (1, "alta", "sent values that are not numbers"),
        (2, "bergen", "sent arrays of other names, shapes or types"),
    ]
    assert (trained(run, 1), trained(run, 2)) == ({"bergen", "cadiz"}, {"alta", "cadiz"})
    without_scaled = federate(CORRUPT[: CORRUPT.rindex(", {")], MAJORITY)
    assert outcome(without_scaled)[0] != outcome(run)[0] and outcome(without_scaled)[1] == outcome(run)[1]


@pytest.mark.slow
def test_the_same_faults_in_other_processes_are_the_same(federate: Federate, federate_on_workers: Federate) -> None:
    assert outcome(federate_on_workers(CORRUPT, MAJORITY)) == outcome(federate(CORRUPT, MAJORITY))


@pytest.mark.parametrize("engine", ["federate", pytest.param("federate_on_workers", marks=pytest.mark.slow)])
def test_a_late_reply_enters_neither_this_round_nor_the_next(engine: str, request: pytest.FixtureRequest) -> None:
    """As if it had dropped out, though it trained; who comes after it in the same process has a deadline of its own."""
    federate = request.getfixturevalue(engine)
    late = federate("{kind: late, center: alta, rounds: [1], seconds: 1}", MAJORITY, DEADLINE)
    assert [f["reason"] for f in late.result["failures"]] == ["no answer before the deadline"]
    dropped = federate("{kind: dropout, center: alta, rounds: [1]}", MAJORITY)
    assert outcome(late) == outcome(dropped)


@pytest.mark.slow
def test_wrong_labels_are_learned(federate: Federate) -> None:
    wrong = federate("{kind: wrong-labels, center: cadiz, share: 0.5}")
    assert outcome(wrong)[1] == [] and outcome(wrong)[0] != outcome(federate(""))[0]


def test_the_report_says_what_was_declared_and_what_failed(federate: Federate) -> None:
    page = (federate("{kind: dropout, center: alta, rounds: [1]}", MAJORITY).folder / "report.html").read_text()
    assert "This run was made with faults: dropout at alta (rounds 1)." in page
    assert "Round 1, alta: dropped out" in page


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_hung_hospital_is_cut_at_the_deadline_and_does_not_keep_the_process(
    scenario: Path, tmp_path: Path, federate: Federate, workers: str
) -> None:
    command = [str(Path(sys.executable).with_name("fedkvasir")), "run", str(scenario), TWO_ROUNDS, MAJORITY, DEADLINE]
    command += ["faults=[{kind: hang, center: bergen, rounds: [1]}]", "--workers", workers, "--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    children: dict[int, Any] = {}
    try:
        while process.poll() is None:
            children |= {child.pid: child for child in psutil.Process(process.pid).children(recursive=True)}
            try:
                process.wait(timeout=1)
            except subprocess.TimeoutExpired:
                continue
    finally:
        process.kill()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "round 1, bergen: no answer before the deadline" in said
    run = Run(next(tmp_path.iterdir()))
    assert (trained(run, 1), trained(run, 2)) == ({"alta", "cadiz"}, {"alta", "bergen", "cadiz"})
    assert outcome(run) == outcome(federate("{kind: dropout, center: bergen, rounds: [1]}", MAJORITY))


def test_too_few_hospitals_stop_the_run_with_its_last_round_kept(scenario: Path, tmp_path: Path) -> None:
    """Declared faults strike again when the same command goes on: they are part of the run."""
    command: tuple[Any, ...] = (scenario, ("faults=[{kind: dropout, center: bergen, rounds: [2]}]", TWO_ROUNDS))
    said = set()
    for _ in range(2):
        with pytest.raises(
            RunFailed, match=r"round 2: 2 of 3 .* asks for 3 \(bergen: dropped out.*asked 3 times"
        ) as failed:
            run_scenario(*command, out=tmp_path, engine="local")
        said.add(str(failed.value))
    assert len(said) == 1 and "round 1 is kept, and the same command goes on from there" in said.pop()
    latest = Run(next(tmp_path.iterdir())).latest()
    assert latest is not None and latest.round == 1


lossy = ClientApp()
"""The real ClientApp of a hospital whose line is down in round 2."""


def _down(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    if message.content.config_records["config"]["server-round"] == 2 and context.node_config["center"] == "bergen":
        raise ConnectionError("the line is down")
    return call_next(message, context)


lossy.train(mods=[_down])(real)
lossy.evaluate()(real)
lossy.query()(real)


def test_the_same_command_goes_on_when_the_trouble_is_over(
    scenario: Path, tmp_path: Path, federate: Federate, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(simulation, "CLIENT_APP", "tests.integration.test_faults:lossy")
        with pytest.raises(RunFailed, match=r"bergen: ConnectionError: the line is down.* round 1 is kept"):
            run_scenario(scenario, (TWO_ROUNDS,), out=tmp_path, engine="local")
    run = run_scenario(scenario, (TWO_ROUNDS,), out=tmp_path, engine="local")
    assert outcome(run) == outcome(federate(""))


@pytest.mark.parametrize("fault", ["{kind: crash}", "{kind: hang}"])
def test_what_takes_a_process_of_its_own_is_refused_in_this_one(scenario: Path, tmp_path: Path, fault: str) -> None:
    with pytest.raises(UserError, match=r"takes a process of its own.* use --engine ray"):
        run_scenario(scenario, (f"faults=[{fault}]", DEADLINE), out=tmp_path, engine="local")
