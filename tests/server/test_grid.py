"""The grid of our own: Flower's two private touches, dealing, error replies; and the loop's choice of centers."""

import os
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

import pytest
from flwr.app import Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from hypothesis import given
from hypothesis import strategies as st

from fedkvasir.errors import RunFailed
from fedkvasir.gpu import share_of_one
from fedkvasir.plan import make_plan
from fedkvasir.runs import Run
from fedkvasir.scenario import load
from server.grid import LocalGrid, Node, RayGrid, _address, deal_to_workers, take
from server.rounds import CohortGrid, RoundLoop, roll_call
from tests.conftest import REPOSITORY


def test_flower_still_takes_its_identity_and_message_ids_from_where_we_put_them() -> None:
    """If this fails, a new Flower changed what `_identify` and `_address` in server/grid.py rely on."""
    LocalGrid([], "clients.app:app", 1)
    assert (TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id) == (1, 1, 1)
    message = _address(Message(RecordDict(), 7, "query"))
    assert message.metadata.message_id and message.metadata.src_node_id == 1
    reply = Message(RecordDict(), reply_to=message)
    assert (reply.metadata.reply_to_message_id, reply.metadata.src_node_id) == (message.metadata.message_id, 7)


def test_half_the_work_goes_to_each_of_two_workers() -> None:
    nodes = [Node("a", "", 50, 0), Node("b", "", 30, 0), Node("c", "", 20, 0), Node("d", "", 0, 9), Node("e", "", 0, 9)]
    dealt = {node.center: deal_to_workers(nodes, 2)[node.id] for node in nodes}
    assert dealt["b"] == dealt["c"] != dealt["a"] and dealt["d"] != dealt["e"]


@given(st.lists(st.floats(1, 100), min_size=1, max_size=12), st.integers(1, 4))
def test_no_worker_has_more_than_its_share_and_one_hospital(work: list[float], workers: int) -> None:
    nodes = [Node(f"c{index}", "", value, 0) for index, value in enumerate(work)]
    dealt = deal_to_workers(nodes, workers)
    loads = [sum(node.train_work for node in nodes if dealt[node.id] == worker) for worker in range(workers)]
    assert max(loads) <= sum(work) / workers + max(work)
    assert dealt == deal_to_workers(reversed(nodes), workers)


@given(st.lists(st.lists(st.integers(), max_size=5), min_size=1, max_size=4), st.data())
def test_every_task_is_handed_out_once_and_a_workers_own_come_first_and_in_order(
    own: list[list[int]], data: st.DataObject
) -> None:
    queues = [deque((worker, task) for task in enumerate(tasks)) for worker, tasks in enumerate(own)]
    waiting, handed_out = [list(queue) for queue in queues], []
    while any(queues):
        worker = data.draw(st.integers(0, len(queues) - 1))
        longest = max(map(len, queues))
        task = take(queues, worker)
        assert task is not None
        handed_out.append(task)
        at = task[0]
        if waiting[worker]:
            assert at == worker and task == waiting[at].pop(0)
        else:
            assert len(waiting[at]) == longest and task == waiting[at].pop()
    assert sorted(handed_out) == sorted((worker, task) for worker, tasks in enumerate(own) for task in enumerate(tasks))
    assert take(queues, 0) is None


def test_what_a_hospital_raises_becomes_an_error_reply_and_the_others_answer(tiny: Path, tmp_path: Path) -> None:
    plan = make_plan(load(tiny))
    plan.save(tmp_path)
    nodes = [Node(center, str(tmp_path), 1, 1) for center in ("alta", "nowhere")]
    grid = LocalGrid(nodes, "clients.app:app", 1)
    seen: list[str] = []
    grid.on_reply = seen.append
    replies = grid.send_and_receive([Message(RecordDict(), node.id, "query") for node in nodes])
    assert [reply.has_error() for reply in replies] == [False, True] and seen == ["alta", "nowhere"]
    assert "KeyError" in replies[1].error.reason


@pytest.mark.slow
def test_three_workers_share_two_gpus(tiny: Path, tmp_path: Path) -> None:
    """With two thirds each the third would find no place. Ray is told of two; none is used."""
    plan = make_plan(load(tiny))
    plan.save(tmp_path)
    nodes = [Node(f"nowhere-{number}", str(tmp_path), 1, 1) for number in range(3)]
    grid = RayGrid(nodes, "clients.app:app", 1, workers=3, gpus=2, gpu=share_of_one(3, gpus=2))
    try:
        replies = grid.send_and_receive([Message(RecordDict(), node.id, "query") for node in nodes], timeout=60)
    finally:
        grid.close()
    assert ["KeyError" in reply.error.reason for reply in replies] == [True] * 3


@pytest.mark.slow
def test_a_deadline_holds_for_a_worker_that_never_starts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its app is a module that cannot be imported to its end; where it lies is said from the command's folder on."""
    monkeypatch.setattr("server.grid.START_S", 2.0)
    (tmp_path / "endless.py").write_text("import time\ntime.sleep(3600)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ".", prepend=os.pathsep)
    node = Node("alta", str(tmp_path), 1, 1)
    grid = RayGrid([node], "endless:app", 1, workers=1)
    began = time.monotonic()
    try:
        assert grid.send_and_receive([Message(RecordDict(), node.id, "query")], timeout=1.0) == []
    finally:
        grid.close()
    assert 3 <= time.monotonic() - began < 60


LOSES_RAY = """
import psutil
from flwr.app import Message, RecordDict
import server.grid as grids

grids.LOOK_S = 1.0
node = grids.Node("alta", ".", 1.0, 1.0)
grid = grids.RayGrid([node], "clients.app:app", 1, 1)
next(child for child in psutil.Process().children() if child.name() == "raylet").kill()
try:
    grid.send_and_receive([Message(RecordDict(), node.id, "query")])
finally:
    grid.close()
"""


NO_PLACE = """
import ray
from flwr.app import Message, RecordDict
import server.grid as grids

ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
grids.LOOK_S, grids.START_S = 0.5, 3.0
nodes = [grids.Node(name, ".", 1.0, 1.0) for name in ("alta", "bergen")]
grid = grids.RayGrid(nodes, "clients.app:app", 1, 2)
grid.on_notice = print
print(len(grid.send_and_receive([Message(RecordDict(), node.id, "query") for node in nodes])), "answers")
lost = ray.put(1)
ray.internal.free([lost])
print(grid._outcome(lost))
"""


@pytest.mark.slow
def test_a_worker_that_has_no_place_any_more_is_done_without_and_a_lost_answer_is_asked_for_again() -> None:
    """As where a node of a cluster has died, and no other has room."""
    done = subprocess.run([sys.executable, "-c", NO_PLACE], cwd=REPOSITORY, capture_output=True, text=True, timeout=100)
    said = ["no place for a worker; goes on with 1", "2 answers", "(None, 0.0, '')"]
    assert done.stdout.splitlines()[-3:] == said, done.stderr


@pytest.mark.slow
def test_a_ray_that_dies_before_its_first_worker_is_there_is_not_waited_for() -> None:
    """In a process of its own: later on Ray itself ends whose raylet has died."""
    done = subprocess.run(
        [sys.executable, "-c", LOSES_RAY], cwd=REPOSITORY, capture_output=True, text=True, timeout=100
    )
    assert "RunFailed: Ray has died (its raylet is gone)" in done.stderr


def test_the_roll_call_names_who_is_missing_and_refuses_other_images(tiny: Path, tmp_path: Path) -> None:
    plan = make_plan(load(tiny))
    plan.save(tmp_path)
    nodes = [Node(center, str(tmp_path), 1, 1) for center in plan.centers.index]
    assert list(roll_call(LocalGrid(nodes, "clients.app:app", 1), plan)) == sorted(plan.centers.index)
    with pytest.raises(RunFailed, match="3 of 4 centers answered; missing: alta"):
        roll_call(LocalGrid(nodes[1:], "clients.app:app", 1), plan)
    other = make_plan(load(tiny, ("data.options.synthetic.seed=5",)))
    with pytest.raises(RunFailed, match="holds other images than the plan"):
        roll_call(LocalGrid(nodes, "clients.app:app", 1), other)


def test_a_rounds_centers_depend_on_seed_and_round_only(tiny: Path, tmp_path: Path) -> None:
    plan = make_plan(load(tiny, ("federation.fraction=0.67",)))
    plan.save(tmp_path)
    nodes = [Node(center, str(tmp_path), 1, 1) for center in plan.centers.index]
    hands = []
    for order in (nodes, nodes[::-1]):
        grid = LocalGrid(order, "clients.app:app", 1)
        loop = RoundLoop(grid, roll_call(grid, plan), plan, Run(tmp_path), lambda event: None)
        hands.append([loop._cohort(number) for number in range(1, 20)])
    assert hands[0] == hands[1]
    assert all(hand == sorted(hand) and len(hand) == 2 for hand in hands[0]) and len({tuple(h) for h in hands[0]}) == 3
    view = CohortGrid(loop.grid, [3, 1])
    assert view.get_node_ids() == [3, 1]
