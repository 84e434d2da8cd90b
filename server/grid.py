"""Flower's Grid over this process, and over persistent Ray actors.

The two private touches of Flower that a grid of one's own needs (``TaskIdentity`` and a message's id) stand in
``_identify`` and ``_address``; a test fails loudly when a new Flower changes them.
"""

import copy
import importlib
import os
import time
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import chdir, suppress
from dataclasses import dataclass, field
from logging import ERROR
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import psutil
from flwr.app import ArrayRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedkvasir.algorithms.base import arrays_of
from fedkvasir.errors import RunFailed
from fedkvasir.gpu import is_full, is_lost
from fedkvasir.machine import sigterm_as_ctrl_c
from fedkvasir.randomness import derive_seed

T = TypeVar("T")
ATTEMPTS = 3
"""A message is sent this often before the worker that keeps dying on it is believed."""
START_S = 120.0
"""Longer than a worker takes to start on a busy machine; who has a deadline is not waited for without end."""
LOOK_S = 10.0
"""While nobody answers, Ray itself is looked after this often."""
RELEASE_S = 10.0
"""Longer than a process takes to let go of a GPU when it ends."""
SEES_GPUS = "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"
"""0: Ray hides no GPUs from a process that asks for none, and does not warn."""


def prepare_ray() -> None:
    """Before it starts: nothing is told to its makers, and workers have the priority of the command. By Ray's own, nice
    15, other work on the machine leaves them a thirtieth of a core, and hospitals miss their deadlines. Where packages
    are found is said from the root on: Ray is started in another folder than the command."""
    for name in ("RAY_USAGE_STATS_ENABLED", SEES_GPUS, "RAY_worker_niceness"):
        os.environ.setdefault(name, "0")
    if path := os.environ.get("PYTHONPATH"):
        os.environ["PYTHONPATH"] = os.pathsep.join(str(Path(entry).absolute()) for entry in path.split(os.pathsep))


@dataclass(frozen=True)
class Node:
    """A center as the grid sees it."""

    center: str
    folder: str
    train_work: float
    """Images to train on; only ratios matter."""
    test_work: float

    @property
    def id(self) -> int:
        return derive_seed(0, "node", self.center)

    def context(self, delivery: int = 1) -> Context:
        """delivery: how often a message has been handed to a worker."""
        config: dict[str, Any] = {"center": self.center, "folder": self.folder, "delivery": delivery}
        return Context(run_id=1, node_id=self.id, node_config=config, state=RecordDict(), run_config={})


class _OwnGrid(Grid):
    """What both grids share: who is there, and ids for messages.

    Hospitals that share a process would, at sites of their own, work at the same time. So a timeout is one for each of
    them, from when its work is begun: who is late takes nothing from those who come after it.
    """

    def __init__(self, nodes: Iterable[Node], threads: int) -> None:
        _identify()
        self.threads = threads
        self.seat(nodes)
        self.on_reply: Callable[[str], None] = lambda center: None
        """Called with the center's name whenever it has answered, or its time is over."""
        self.on_notice: Callable[[str], None] = lambda text: None
        """Called with what a person should know of how the work is done."""
        self._run = Run.create_empty(1)

    def seat(self, nodes: Iterable[Node]) -> None:
        """Other centers, of the next run, in the place of those before."""
        self.nodes = {node.id: node for node in nodes}

    def serves(self, threads: int, workers: int) -> bool:
        """Is this what a run with so many threads a center and so many workers needs?"""
        return threads == self.threads

    def set_run(self, run: Run) -> None:
        self._run = run

    @property
    def run(self) -> Run:
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        raise RunFailed("this grid answers only send_and_receive")

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        raise RunFailed("this grid answers only send_and_receive")

    @abstractmethod
    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]: ...

    def close(self) -> None:
        """Free what the grid holds."""


def _identify() -> None:
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 1, 1, 1


def _address(message: Message) -> Message:
    message.metadata.__dict__["_message_id"] = str(uuid4())
    return message


def _handle(app: ClientApp, message: Message, context: Context) -> tuple[Message, float]:
    """Run a ClientApp on a message: its reply, which is an error where it raises one, and the seconds it took."""
    began = time.monotonic()
    try:
        reply = app(message, context)
    except Exception as error:  # the boundary of a hospital: whatever went wrong there must not end the others
        reason = f"{type(error).__name__}: {error}"
        reply = Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
    return reply, time.monotonic() - began


@dataclass
class _Task:
    """A message in a worker's hands."""

    worker: int
    message: Message
    delivery: int
    beside: int
    """Workers there were when it was handed out."""
    end: float = float("inf")
    """When its hospital's time is over."""
    since: float = field(default_factory=time.monotonic)
    """When it was handed out."""


class LocalGrid(_OwnGrid):
    """Every hospital in this process, one after another: for a debugger, and where there is no Ray."""

    def __init__(self, nodes: Iterable[Node], client_app: str, threads: int) -> None:
        super().__init__(nodes, threads)
        self._app = _load(client_app)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        replies = []
        for message in map(_address, messages):
            node = self.nodes[message.metadata.dst_node_id]
            reply, took_s = _handle(self._app, message, node.context())
            if timeout is None or took_s <= timeout:
                replies.append(reply)
            self.on_reply(node.center)
        return replies


class RayGrid(_OwnGrid):
    """Persistent Ray actors, which keep network and store. A hospital stays with its worker as long as that one is as
    fast as the others: its state lies on disk, so that who does the work changes nothing.

    A worker gets one message at a time: one that dies counts against that message alone, is replaced, and the message
    is handed out again. One that finds no memory, of a GPU or of the host, is done without from then on; one whose
    hospital has had its time is replaced. Arrays go into Ray's object store once a round, however many hospitals read
    them, and leave it, as answers do, as soon as they are read: what Ray lets go of in its own time it has not yet when
    the next round comes, and every process is seen to grow by pages of the store that are new to it.

    gpus: of this machine, for a Ray of its own; gpu: a worker's share of one. In a trial of a sweep, which has its part
    of the cluster already, a worker takes what was set aside for it there.
    """

    def __init__(
        self, nodes: Iterable[Node], client_app: str, threads: int, workers: int, gpus: int = 0, gpu: float = 0.0
    ) -> None:
        self._size = workers
        super().__init__(nodes, threads)
        prepare_ray()
        import ray

        self._ray = ray
        self._own = not ray.is_initialized()
        root = str(Path(__file__).parents[1])
        if self._own:
            # Ray puts the folder it is started in first on its workers' path: a stray server.py in the user's
            # folder must not be taken for ours.
            with chdir(root):
                ray.init(
                    "local", num_cpus=workers * threads, num_gpus=gpus,
                    include_dashboard=False, log_to_driver=False, logging_level=ERROR,
                )  # fmt: skip
            sigterm_as_ctrl_c()
        elif group := ray.util.get_current_placement_group():
            gpu = group.bundle_specs[0].get("GPU", 0.0)
        options = {"num_cpus": threads, "num_gpus": gpu, "max_restarts": 0}
        self._make: Callable[[], Any] = lambda: ray.remote(_Worker).options(**options).remote(client_app)
        self._workers: dict[int, Any] = {}
        self._starting: dict[Any, int] = {}
        """What is answered once a worker's process is there -> the worker."""
        for worker in range(workers):
            self._start(worker)

    def seat(self, nodes: Iterable[Node]) -> None:
        super().seat(nodes)
        self._worker_of = deal_to_workers(self.nodes.values(), self._size)

    def serves(self, threads: int, workers: int) -> bool:
        return super().serves(threads, workers) and workers <= len(self._workers)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        ray = self._ray
        stored: dict[int, Any] = {}
        queues: list[deque[tuple[Message, int]]] = [deque() for _ in range(self._size)]
        busy: dict[Any, _Task] = {}
        for message in sorted(map(_address, messages), key=lambda m: -self.nodes[m.metadata.dst_node_id].train_work):
            queues[self._worker_of[message.metadata.dst_node_id]].append((message, 1))

        def reference(record: ArrayRecord) -> Any:
            if id(record) not in stored:
                stored[id(record)] = ray.put(record)
            return stored[id(record)]

        def begin(task: _Task, start_s: float = 0.0) -> None:
            task.end = time.monotonic() + start_s + timeout if timeout else task.end

        def hand_out(worker: int) -> None:
            if given := take(queues, worker):
                message, delivery = given
                light, arrays = _strip(message)
                context = self.nodes[message.metadata.dst_node_id].context(delivery)
                references = [reference(record) for record in arrays.values()]
                answer = self._workers[worker].handle.remote(light, context, list(arrays), *references)
                busy[answer] = task = _Task(worker, message, delivery, len(self._workers))
                begin(task, START_S if worker in self._starting.values() else 0.0)

        def hand_out_to_idle() -> None:
            for worker in self._workers.keys() - {task.worker for task in busy.values()}:
                hand_out(worker)

        hand_out_to_idle()
        replies = []
        while busy:
            left_s = max(min(task.end for task in busy.values()) - time.monotonic(), 0)
            done, _ = ray.wait([*busy, *self._starting], num_returns=1, timeout=min(left_s, LOOK_S))
            if not done and left_s > LOOK_S:
                refuse_dead_ray()
                ready = self._workers.keys() - self._starting.values()
                for answer, task in [*busy.items()]:
                    if ready and task.worker not in ready and time.monotonic() > task.since + START_S:
                        # Its node has died, and Ray waits for another one.
                        del busy[answer]
                        self._ray.kill(self._workers.pop(task.worker))
                        self.on_notice(f"no place for a worker; goes on with {len(self._workers)}")
                        queues[task.worker].appendleft((task.message, task.delivery))
                hand_out_to_idle()
                continue
            if not done:
                for answer, task in [*busy.items()]:
                    if task.end <= time.monotonic():
                        del busy[answer]
                        self._replace(task.worker)
                        self.on_reply(self._center(task.message))
                hand_out_to_idle()
                continue
            if done[0] in self._starting:
                worker = self._starting.pop(done[0])
                for task in busy.values():
                    if task.worker == worker:
                        begin(task)
                continue
            task = busy.pop(done[0])
            worker, message, delivery = task.worker, task.message, task.delivery
            reply, took_s, lacks = self._outcome(done[0])
            ray.internal.free(done)
            if lacks and task.beside > len(self._workers):  # it had less room than there is now
                self._replace(worker)
                queues[worker].appendleft((message, delivery))
            elif lacks and len(self._workers) > 1:
                self._dismiss(worker)
                notice = f"out of {lacks}; goes on with {len(self._workers)} worker(s)"
                self.on_notice(f"{self._center(message)}: {notice}")
                queues[worker].appendleft((message, delivery))
            elif reply is None and delivery < ATTEMPTS:
                self._replace(worker)
                queues[worker].appendleft((message, delivery + 1))
            else:
                if reply is None:
                    self._replace(worker)
                    reason = f"its worker died {ATTEMPTS} times; out of memory?"
                    reply = Message(Error(ErrorCode.CLIENT_APP_CRASHED, reason), reply_to=message)
                if timeout is None or took_s <= timeout:
                    replies.append(reply)
                self.on_reply(self._center(message))
            hand_out_to_idle()
        ray.internal.free([*stored.values()])
        return replies

    def _center(self, message: Message) -> str:
        return self.nodes[message.metadata.dst_node_id].center

    def _outcome(self, answer: Any) -> tuple[Message | None, float, str]:
        """A worker's reply, none where it died; the seconds it took; and which memory there was too little of, if that
        was it."""
        try:
            reply, took_s = self._ray.get(answer)
            return reply, took_s, "GPU memory" if reply.has_error() and is_full(str(reply.error.reason)) else ""
        except self._ray.exceptions.OutOfMemoryError:  # Ray killed it before the host's was gone
            return None, 0.0, "memory"
        except (self._ray.exceptions.RayActorError, self._ray.exceptions.ObjectLostError):  # dead, or its answer is
            return None, 0.0, ""

    def close(self) -> None:
        if self._own:
            self._ray.shutdown()
        else:
            for worker in self._workers.values():
                self._ray.kill(worker)

    def _start(self, worker: int) -> None:
        self._starting = {answer: other for answer, other in self._starting.items() if other != worker}
        self._workers[worker] = self._make()
        self._starting[self._workers[worker].ready.remote()] = worker

    def _replace(self, worker: int) -> None:
        """Put a new worker in the place of one that is dead or hangs."""
        with suppress(ValueError):  # already gone
            self._ray.kill(self._workers[worker])
        self._start(worker)

    def _dismiss(self, worker: int) -> None:
        """Do without a worker from now on. What it held on a GPU is free only once its process is gone."""
        actor = self._workers.pop(worker)
        with suppress(self._ray.exceptions.RayError, psutil.Error):  # dead already, or on another machine
            pid = self._ray.get(actor.pid.remote())
            self._ray.kill(actor)
            psutil.Process(pid).wait(RELEASE_S)


def refuse_dead_ray() -> None:
    """Raises RunFailed where the program that starts the workers of this process's own Ray has died.

    Ray ends with it whoever has workers there; who is still waiting for the first it leaves waiting for ever.
    """
    for child in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # it has ended meanwhile, whatever it was
            if child.name() == "raylet" and child.status() == psutil.STATUS_ZOMBIE:
                said = "Ray has died (its raylet is gone)"
                raise RunFailed(f"{said}; the same command goes on from the last finished round")


class _Worker:
    """A Ray actor: one process, several hospitals in turn."""

    def __init__(self, client_app: str) -> None:
        self._app = _load(client_app)

    def ready(self) -> None:
        """Answered once the process is there."""

    def handle(
        self, message: Message, context: Context, names: list[str], *arrays: ArrayRecord
    ) -> tuple[Message, float]:
        for name, record in zip(names, arrays, strict=True):
            message.content[name] = record
        reply, took_s = _handle(self._app, message, context)
        if reply.has_error() and is_lost() and int(context.node_config["delivery"]) < ATTEMPTS:
            os._exit(1)  # another process may fare better with it, and with what comes after it
        return reply, took_s

    def pid(self) -> int:
        return os.getpid()


def _strip(message: Message) -> tuple[Message, dict[str, ArrayRecord]]:
    """A copy of the message without its arrays, and the arrays by name."""
    arrays = arrays_of(message.content)
    light = copy.copy(message)
    light.content = RecordDict({name: record for name, record in message.content.items() if name not in arrays})
    return light, arrays


def take(queues: Sequence[deque[T]], worker: int) -> T | None:
    """A worker's next task: the first of its own queue, else the last of the longest; none where all are empty."""
    if queues[worker]:
        return queues[worker].popleft()
    longest = max(queues, key=len)
    return longest.pop() if longest else None


def deal_to_workers(nodes: Iterable[Node], workers: int) -> dict[int, int]:
    """Node id -> worker: training work first, longest first, each to the least loaded; then testing likewise."""
    train, test = [0.0] * workers, [0.0] * workers
    dealt = {}
    for node in sorted(nodes, key=lambda node: (-node.train_work, -node.test_work, node.center)):
        load = train if node.train_work else test
        worker = min(range(workers), key=lambda index: (load[index], index))
        train[worker] += node.train_work
        test[worker] += node.test_work
        dealt[node.id] = worker
    return dealt


def _load(reference: str) -> ClientApp:
    module, _, attribute = reference.partition(":")
    return getattr(importlib.import_module(module), attribute)
