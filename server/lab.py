"""A real federation from the coordinator's side: hospitals that are reached over a SuperLink, and their roll call."""

import json
import logging
import secrets
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Any, cast

import httpx
import pandas as pd
from flwr.app import ConfigRecord, Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.common.serde import run_from_proto
from flwr.proto.runtime_pb2 import PullTaskInputRequest
from flwr.supercore.run import RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid.http_grid import HttpGrid

from fedkvasir import wire
from fedkvasir.algorithms.base import arrays_of
from fedkvasir.errors import RunFailed, UserError
from fedkvasir.evaluation.groups import ROLES
from fedkvasir.methods import Method
from fedkvasir.packing import pack, unpack
from fedkvasir.plan import Plan
from fedkvasir.scenario import Scenario
from fedkvasir.sites.federation import ServerKit
from fedkvasir.sites.knock import clock_off, is_untrusted, why_not
from fedkvasir.sites.plan import plan_of_sites
from server.answers import comparison_in, unheard

POLL_S = 0.2
AGAIN_S = 3.0
"""A hospital that is off line is written to again after so long."""
WAIT_FOR_TASK_S = 30.0
NOTICE_S = 5.0
"""Who is waited for longer is told once what for."""


class Disconnected(Exception):
    """The SuperLink does not answer, or has given the run up: begin another one and go on from the last round."""


class LabGrid(HttpGrid):
    """Flower's grid over a SuperLink, which asks for answers more often than every three seconds, writes again to
    hospitals that were off line, and knows hospitals by their keys."""

    def __init__(self, kit: ServerKit, token: str) -> None:
        super().__init__(kit.address, root_certificates=kit.ca_certificate.read_bytes(), token=token)
        self._retry_invoker = wire.patient()
        self._kit = kit
        self.lost = ""
        self.on_reply: Callable[[str], None] = lambda center: None
        """Called with the center's name whenever a reply is in."""
        self.on_notice: Callable[[str], None] = lambda text: None
        """Called with a sentence on what is waited for."""
        found = self._runtime_client.PullTaskInput(PullTaskInputRequest())
        TaskIdentity.task_id, TaskIdentity.run_id = found.task_id, found.run.run_id
        TaskIdentity.node_id = found.context.node_id
        self.set_run(run_from_proto(found.run))
        self.hospitals = self._hospitals()

    def _hospitals(self) -> dict[int, str]:
        """Node -> hospital, of those on line; nodes with other keys than those of the kit are nobody."""
        known = wire.hospitals_by_key(self._kit)
        try:
            return {node.node_id: known[node.public_key] for node in self.get_nodes() if node.public_key in known}
        except (httpx.HTTPError, RunNotRunningException) as error:
            raise Disconnected(str(error) or type(error).__name__) from error

    def nodes_of(
        self,
        wanted: Sequence[str],
        deadline_s: float,
        enough: Callable[[Collection[str]], bool] = lambda missing: not missing,
    ) -> dict[str, int]:
        """Hospital -> node, of those on line; all of them, or ``enough`` once the deadline is over.

        enough: whether it can be done without these. Raises RunFailed where it cannot: where one does not belong here,
        or is off line until the deadline.
        """
        known = self._known()
        strangers = [name for name in wanted if name not in known]
        if strangers and not enough(strangers):
            raise RunFailed(
                f"{', '.join(strangers)}: {_nobody(self._kit)}; it has {', '.join(sorted(known)) or 'none'}"
            )
        began, told = time.monotonic(), False
        while missing := [name for name in wanted if name in known and name not in self.hospitals.values()]:
            waited_s = time.monotonic() - began
            if waited_s > deadline_s:
                if not enough([*strangers, *missing]):
                    raise RunFailed(f"roll call: off line for {deadline_s:g} s: {', '.join(missing)}")
                break
            if self.lost:
                raise Disconnected(self.lost)
            if waited_s > NOTICE_S and not told:
                self.on_notice(f"waiting for {', '.join(missing)} (off line), up to {deadline_s:g} s")
                told = True
            time.sleep(1)
            self.hospitals = self._hospitals()
        nodes = {hospital: node for node, hospital in self.hospitals.items()}
        return {name: nodes[name] for name in wanted if name in nodes}

    def nodes_away(self, away: Sequence[str]) -> dict[str, int]:
        """Hospital -> node, of those that are not on line: its own, by which it is reached once it is back, or a number
        that is nobody's where it takes no part any more."""
        try:
            listed = wire.registered(self._kit) if away else {}
        except httpx.HTTPError as error:
            raise Disconnected(str(error)) from error
        nodes = {name: listed.get(name, -number) for number, name in enumerate(away, start=1)}
        self.hospitals |= {node: name for name, node in nodes.items()}
        return nodes

    def _known(self) -> set[str]:
        """Who may take part, by the kit as it is now: one may be revoked while a run goes on."""
        return {*wire.hospitals_by_key(ServerKit.load(self._kit.root)).values()}

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Raises Disconnected where the SuperLink is gone."""
        end = None if timeout is None else time.monotonic() + timeout
        waiting: dict[str, Message] = {}
        packed: dict[tuple[int, ...], RecordDict] = {}
        later: list[tuple[float, Message]] = [(0.0, _packed(message, packed)) for message in messages]
        replies: list[Message] = []
        try:
            while (waiting or later) and (end is None or time.monotonic() < end):
                now = time.monotonic()
                due, later = [m for at, m in later if at <= now], [(at, m) for at, m in later if at > now]
                known = self._known() if due else set()
                for message in due:
                    if self.hospitals[message.metadata.dst_node_id] not in known:
                        error = Error(ErrorCode.NODE_UNAVAILABLE, _nobody(self._kit))
                        replies.append(Message(error, reply_to=message))
                        continue
                    (number,) = self.push_messages([message])
                    waiting[number] = message
                for number, message in [*waiting.items()]:
                    if (reply := self._answer(number, message)) is None:
                        continue
                    del waiting[number]
                    if unheard(reply):
                        later.append((time.monotonic() + AGAIN_S, _again(message)))
                    else:
                        replies.append(reply)
                        self.on_reply(self.hospitals[message.metadata.dst_node_id])
                if self.lost:
                    raise Disconnected(self.lost)
                time.sleep(POLL_S)
        except (httpx.HTTPError, RunNotRunningException) as error:
            raise Disconnected(str(error) or type(error).__name__) from error
        return replies

    def _answer(self, number: str, message: Message) -> Message | None:
        """The answer to a message, with its arrays, once there is one; an error in its place where it cannot be read.

        Every message is asked after by itself: the SuperLink knows whom it was for, and what an answer says of who
        sent it, and in reply to what, is its hospital's word alone.
        """
        try:
            reply = next(iter(self.pull_messages([number])), None)
            if reply is None or unheard(reply):
                return reply
            to, told = message.metadata, reply.metadata
            if (told.src_node_id, told.reply_to_message_id) != (to.dst_node_id, number):
                raise ValueError("it says that it is another's")
            if not reply.has_error():
                reply.content = unpack(reply.content)
            return reply
        except (httpx.HTTPError, RunNotRunningException):
            raise
        except Exception as error:  # Flower's, numpy's and JSON's readers have many
            reason = f"sent what cannot be read: {error}"
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)


@contextmanager
def connected(kit: ServerKit) -> Iterator[LabGrid]:
    """A run of our own on the federation's SuperLink.

    Raises Disconnected where it cannot be had, UserError where no waiting mends that: the server refuses the secret, or
    its certificate does not hold.
    """
    secret = kit.secret.read_bytes()
    try:
        wire.submit(kit)
        waiting = wire.runtime(kit.address, kit.ca_certificate, secret=secret)
        end = time.monotonic() + WAIT_FOR_TASK_S
        while not (token := wire.acquire(waiting, "flwr-serverapp")):
            if time.monotonic() > end:
                raise Disconnected("the run that was submitted cannot be taken up")
            time.sleep(POLL_S)
        waiting.close()
        grid = LabGrid(kit, token)
    except httpx.HTTPError as error:
        raise _not_had(kit, error) from error

    def lose(why: str) -> None:
        grid.lost = why

    failed = "stopped"
    try:
        with wire.alive(grid._runtime_client, lose):
            yield grid
        failed = ""
    finally:
        try:
            wire.finish(grid._runtime_client, failed)
        except httpx.HTTPError as error:
            logging.getLogger("fedkvasir").info("the SuperLink was not told that the run is over: %s", error)
        grid.close()


def enrol(
    grid: LabGrid, scenario: Scenario, deadline_s: float, begun: Sequence[Plan] = ()
) -> tuple[Plan, dict[str, int]]:
    """Ask every hospital of the scenario what it holds, make the plan of all, and tell them.

    begun: plans of runs of this scenario, the last one first. Where there are any, ``federation.quorum`` of the
    hospitals that train is enough: the run goes on whose images those on line still have.
    Returns the plan, and center -> node. Raises RunFailed where one does not answer by the deadline, or refuses.
    """
    told = {"scenario": json.dumps(scenario.for_hospitals())}
    wanted, train = sorted({*scenario.data.hospitals, *scenario.data.holdouts}), {*scenario.data.hospitals}

    def enough(missing: Collection[str]) -> bool:
        left = len(train) - len(missing)
        return not missing or (
            bool(begun) and train.issuperset(missing) and left >= scenario.federation.needed(len(train))
        )

    nodes = grid.nodes_of(wanted, deadline_s, enough)
    salted = {**told, "salt": secrets.token_hex(16)}
    answers = _ask(grid, nodes, "query.survey", {name: salted for name in nodes}, deadline_s)
    if away := [name for name in wanted if name not in nodes]:
        grid.on_notice(f"going on without {', '.join(away)}: off line, or revoked")
    try:
        facts = {name: json.loads(str(_config(reply, "hospital")["json"])) for name, reply in answers.items()}
        plan = _go_on(begun, facts, away) if away else plan_of_sites(scenario, facts)
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise RunFailed(f"what hospitals say of themselves does not fit together ({error})") from error
    counts = plan.class_counts
    joint = {**told, "run": plan.name, "classes": [*counts], "counts": [*counts.values()]}
    _ask(grid, nodes, "query.enrol", {name: joint for name in nodes}, deadline_s)
    return plan, nodes | grid.nodes_away(away)


def _go_on(begun: Sequence[Plan], facts: Mapping[str, Mapping[str, Any]], away: Sequence[str]) -> Plan:
    """The plan with which hospitals began that still hold the same images. facts: of those that are on line.

    Raises RunFailed where there is none: without those that are away no other one can be made.
    """
    for plan in begun:
        source_of = plan.scenario.data.hospitals
        if all(
            (own["numbers"], own["pixels_sha256"], own["catalog_sha256"])
            == (plan.numbers, plan.pixels.get(name), plan.catalogs.get(source_of.get(name, name)))
            for name, own in facts.items()
        ):
            return plan
    raise RunFailed(
        f"{', '.join(away)}: off line or revoked; no run can go on without, as the others hold other images than those "
        "it was begun with"
    )


def compare(grid: LabGrid, methods: Sequence[Method], deadline_s: float) -> None:
    """Have every hospital compare every two methods on the records that it kept; the answers go into paired.parquet of
    the first one's first run. Raises RunFailed where a hospital does not answer, keeps no records, or sends what is no
    comparison."""
    pairs = [*combinations(methods, 2)]
    wanted = {center for first, second in pairs for center, _ in first.places & second.places}
    nodes = grid.nodes_of(sorted(wanted), deadline_s)
    for first, second in pairs:
        for role in ROLES.values():
            asked = {
                center: {"first": _method(first, center, role), "second": _method(second, center, role)}
                for center, own in sorted(first.places & second.places)
                if own == role
            }
            for center, reply in _ask(grid, nodes, "query.compare", asked, deadline_s).items():
                part = _paired(reply, center, role, first, second)
                whose = {"first": first.key, "second": second.key, "center": center, "role": role}
                first.runs[0].keep_paired(part.assign(**whose))


def _method(method: Method, center: str, role: str) -> str:
    names = {run.plan.hash: run.plan.name for run in method.runs}
    return json.dumps(
        {"key": method.key, "runs": [[names[own] for own in runs] for runs in method.runs_at(center, role)]}
    )


def _paired(reply: Message, center: str, role: str, first: Method, second: Method) -> pd.DataFrame:
    """What a hospital made of two methods. Raises RunFailed where it is not made as a comparison is."""
    images = min(
        max(int(run.plan.centers.loc[center, "test"]) for run in method.runs if run.plan.hash in hashes)
        for method in (first, second)
        for hashes in [{own for runs in method.runs_at(center, role) for own in runs}]
    )
    part = comparison_in(reply, center, role, first.runs[0].plan.scenario.task, images)
    if part is None:
        raise RunFailed(f"{center} sent a comparison of {first.name} and {second.name} that is none")
    return part


def _ask(
    grid: LabGrid, nodes: dict[str, int], kind: str, told: dict[str, dict[str, Any]], deadline_s: float
) -> dict[str, Message]:
    messages = [Message(RecordDict({"config": ConfigRecord(own)}), nodes[name], kind) for name, own in told.items()]
    replies = {grid.hospitals[r.metadata.src_node_id]: r for r in grid.send_and_receive(messages, timeout=deadline_s)}
    if silent := [name for name in told if name not in replies]:
        online = {*grid._hospitals().values()}
        states = {
            "on line, still preparing": [name for name in silent if name in online],
            "off line": [name for name in silent if name not in online],
        }
        said = "; ".join(f"{state}: {', '.join(names)}" for state, names in states.items() if names)
        raise RunFailed(f"no answer in {deadline_s:g} s ({said}); the same command asks again")
    for name, reply in replies.items():
        if reply.has_error():
            raise RunFailed(f"{name}: {reply.error.reason}")
    return replies


def _nobody(kit: ServerKit) -> str:
    return f"no hospital of {kit.name}, or revoked"


def _not_had(kit: ServerKit, error: httpx.HTTPError) -> Exception:
    """UserError where it stays so until a person mends it, else Disconnected."""
    if isinstance(error, httpx.HTTPStatusError):
        code = error.response.status_code
        if code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
            refused = f"{kit.address} refuses the secret in {kit.secret} (HTTP {code})"
            return UserError(
                clock_off(error.response) or f"{refused}: take the folder that its server was started from"
            )
        return Disconnected(f"HTTP {code}")  # httpx adds a link to an encyclopaedia
    return UserError(why_not(kit.address, error)) if is_untrusted(error) else Disconnected(str(error))


def _config(reply: Message, name: str) -> ConfigRecord:
    return cast(ConfigRecord, reply.content[name])


def _packed(message: Message, made: dict[tuple[int, ...], RecordDict]) -> Message:
    """The message with its arrays as one; hospitals that are sent the same arrays are sent the same one."""
    arrays = arrays_of(message.content)
    key = tuple(map(id, arrays.values()))
    if key not in made:
        made[key] = pack(RecordDict({**arrays}))
    others = {name: record for name, record in message.content.items() if name not in arrays}
    return _again(message, RecordDict({**others, **made[key]}))


def _again(message: Message, content: RecordDict | None = None) -> Message:
    to = message.metadata
    return Message(content or message.content, to.dst_node_id, to.message_type, group_id=to.group_id)
