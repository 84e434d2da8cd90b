"""The round loop, above Flower's Strategy and Grid.

Flower's own ``Strategy.start`` can neither resume nor checkpoint, samples random node ids from the global random
state, sums in order of arrival and averages whatever came back. Here the loop chooses the centers, shows the strategy
a grid with only those, sorts replies by center, insists on the quorum, and commits every round.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import pandas as pd
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from flwr.supercore.run import Run as FlowerRun

from fedkvasir import exchange
from fedkvasir.algorithms import build_algorithm
from fedkvasir.algorithms.base import Algorithm, arrays_of, from_record, to_record
from fedkvasir.errors import RunFailed
from fedkvasir.evaluation.protocol import headline
from fedkvasir.evaluation.selection import best_round, is_due, looked_at, selection_score
from fedkvasir.gpu import is_full
from fedkvasir.models import build_model
from fedkvasir.models.ensemble import WEIGHTS, Ensemble
from fedkvasir.plan import Plan
from fedkvasir.randomness import derive_seed
from fedkvasir.runs import ROUNDS, Checkpoint, Event, Run, Watch
from server.answers import COST, complaint, metrics_of, records_in, unheard, unscored

ATTEMPTS = 3
"""A round below quorum is asked for this often before the run stops."""


class CohortGrid(Grid):
    """A grid that exposes just this round's nodes, in order of their centers' names."""

    def __init__(self, grid: Grid, node_ids: list[int]) -> None:
        self._grid, self._node_ids = grid, node_ids

    def get_node_ids(self) -> list[int]:
        return list(self._node_ids)

    def set_run(self, run: FlowerRun) -> None:
        self._grid.set_run(run)

    @property
    def run(self) -> FlowerRun:
        return self._grid.run

    def create_message(self, *args: Any, **kwargs: Any) -> Message:
        return self._grid.create_message(*args, **kwargs)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return self._grid.push_messages(messages)

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        return self._grid.pull_messages(message_ids)

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        return self._grid.send_and_receive(messages, timeout=timeout)


def federate(
    grid: Grid,
    nodes: dict[str, int],
    plan: Plan,
    run: Run,
    watch: Watch = lambda event: None,
    remote: bool = False,
) -> None:
    """Run the plan to its end in ``run``'s folder, from its last committed round; an ensemble's members first.

    nodes: center -> its node. remote: hospitals are at real sites. There one message has a round validated and the next
    one trained (unless the scenario has faults), which spares a journey, so that a round is committed when the next is
    trained; and a hospital that is not heard of by the deadline is done without in validation, and asked again for its
    test images, which are done without as well where it trains and the quorum of those who do has sent theirs.
    Raises RunFailed below quorum; what is committed stays, and the same call goes on from there.
    """
    for number, member in enumerate(plan.members, start=1):
        own = run.stage(member)
        watch(Event("member", 0, {"member": member, "number": number, "of": len(plan.members), "done": own.finished}))
        if not own.finished:
            RoundLoop(grid, nodes, plan, own, watch, member, remote).run_all()
    if plan.members:
        watch(Event("member", 0, {"member": "", "number": 0, "of": len(plan.members), "done": False}))
    RoundLoop(grid, nodes, plan, run, watch, remote=remote).run_all()


@dataclass
class Evaluated:
    """What hospitals say of one split under one checkpoint."""

    tables: list[pd.DataFrame] = field(default_factory=list)
    """Per-image records, a table a hospital."""
    shares: list[pd.DataFrame] = field(default_factory=list)
    """What a hospital tells of its records where they stay with it."""
    scores: list[dict[str, Any]] = field(default_factory=list)
    """center, role, split, and the center's metrics by name."""
    missing: dict[str, str] = field(default_factory=dict)
    """Who was not heard of -> why."""


class RoundLoop:
    """One run on its server side; ``member`` is the ensemble's member that it trains, if it does."""

    def __init__(
        self,
        grid: Grid,
        nodes: dict[str, int],
        plan: Plan,
        run: Run,
        watch: Watch,
        member: str = "",
        remote: bool = False,
    ) -> None:
        self.grid, self.plan, self.run, self.watch, self.member = grid, plan.stage(member), run, watch, member
        self.nodes, self.remote, self.name = nodes, remote, plan.name
        self.scenario = self.plan.scenario
        self.frozen = to_record(run.frozen())
        self.centers = {node: center for center, node in self.nodes.items()}
        self._begun: tuple[int, list[Message], dict[str, Message]] = (0, [], {})
        self.algorithm: Algorithm = build_algorithm(self.scenario.algorithm)
        self.strategy: Strategy = self.algorithm.strategy(sum(self.plan.weights.values()))

    def run_all(self) -> None:
        """Every round that is not committed yet, then the closing evaluation."""
        checkpoint = self._resume()
        if not self.scenario.federation.rounds:
            self._form(checkpoint)
        for number in range(checkpoint.round + 1, self.scenario.federation.rounds + 1):
            checkpoint = self._round(number, checkpoint)
        self._finish(checkpoint)

    def _form(self, checkpoint: Checkpoint) -> None:
        """An ensemble in which nothing is left to train: its validation is committed as round 0."""
        rows: list[dict[str, Any]] = []
        validated = self._validate(0, checkpoint, rows)
        self.run.commit(checkpoint, _rounds_table(rows), _stack(validated.tables))

    # ---- one round

    def _round(self, number: int, before: Checkpoint) -> Checkpoint:
        began = time.perf_counter()
        rows: list[dict[str, Any]] = []
        after, replies = self._train(number, before, rows)
        validated = self._validate(number, after, rows)
        if validated.scores and not validated.missing:  # scores of other centers are not comparable
            score = selection_score(
                pd.DataFrame(validated.scores), self.scenario.evaluation.select, headline(self.scenario.task)
            )
            if not np.isnan(score):  # there is something to be found
                after.scores[number] = score
        after.best = best_round(after.scores, self.scenario.evaluation.select, number)
        if after.best == number:
            after.best_kept = dict(after.kept)
        wall_s = time.perf_counter() - began
        after.wall_s += wall_s
        rows.append({"round": number, "phase": "round", "metric": "wall_s", "value": wall_s})
        self.run.commit(after, _rounds_table(rows), _stack(validated.tables))
        facts = {"loss": _mean_loss(replies), "score": after.scores.get(number), "seconds": wall_s, "best": after.best}
        facts["rounds"] = self.scenario.federation.rounds
        self.watch(Event("round", number, facts))
        return after

    def _train(
        self, number: int, before: Checkpoint, rows: list[dict[str, Any]]
    ) -> tuple[Checkpoint, dict[str, Message]]:
        begun, messages, replies = self._begun
        if begun != number:
            messages, replies = self._orders(number, before), {}
        cohort = sorted(map(self._center, messages))
        sent_bytes = {self._center(m): _payload_bytes(m) for m in messages}
        good, failures = self._answers(number, cohort, messages, before, replies)
        after = replace(before, round=number, kept=dict(before.kept), scores=dict(before.scores))
        after.failures = [*before.failures, *failures]
        weights = [metrics_of(reply)["weight"] for reply in good.values()]
        after.buffers, after.local = (
            exchange.average([from_record(arrays_of(reply.content)[name]) for reply in good.values()], weights)
            for name in ("buffers", "local")
        )
        for center, reply in good.items():
            metrics = metrics_of(reply)
            if metrics["state"]:
                after.kept[center] = number
            cost = {key: metrics[key] for key in COST}
            cost |= {"bytes_down": sent_bytes[center], "bytes_up": _payload_bytes(reply)}
            row = {"round": number, "phase": "train", "center": center, "role": "train", **cost}
            rows.append({**row, "metric": "loss", "value": metrics["loss"]})
        for reply in good.values():
            for name in ("buffers", "local"):
                del reply.content[name]
        arrays, _ = self.strategy.aggregate_train(number, list(good.values()))
        if arrays is None:
            raise RunFailed(f"round {number}: {self.scenario.algorithm.name} could not aggregate any reply")
        after.shared = {
            name: array.astype(before.shared[name].dtype, copy=False) for name, array in from_record(arrays).items()
        }
        after.server = self._server_state()
        return after, good

    def _orders(self, number: int, before: Checkpoint) -> list[Message]:
        """The train messages of a round, by center."""
        cohort = self._cohort(number)
        records = {"buffers": to_record(before.buffers), "local": to_record(before.local), "frozen": self.frozen}
        view = CohortGrid(self.grid, [self.nodes[center] for center in cohort])
        ordered = self.strategy.configure_train(number, to_record(before.shared), ConfigRecord(), view)
        messages = sorted(ordered, key=self._center)  # Flower samples them in random order
        for message in messages:
            center, own = self._center(message), ConfigRecord(dict(cast(ConfigRecord, message.content["config"])))
            own["run"], own["member"], own["attempt"], own["validate"] = self.name, self.member, 1, ""
            own["start-from"], own["keep"] = before.kept.get(center, 0), before.best_kept.get(center, 0)
            message.content = RecordDict({**message.content, **records, "config": own})
        return messages

    def _cohort(self, number: int) -> list[str]:
        """This round's centers, sorted by name; who they are depends on algorithm, seed and round only."""
        centers = self.plan.training_centers
        if chosen := self.algorithm.cohort(centers, number):
            return chosen
        size = self.scenario.federation.asked(len(centers))
        rng = np.random.default_rng(derive_seed(self.scenario.seed, "cohort", number))
        return sorted(rng.choice(centers, size=size, replace=False).tolist())

    def _answers(
        self,
        number: int,
        cohort: list[str],
        messages: list[Message],
        before: Checkpoint,
        first: dict[str, Message],
    ) -> tuple[dict[str, Message], list[dict[str, Any]]]:
        """The good replies by center, in order, and who failed at which attempt and why.

        first: replies that are there already. Below quorum, those without a good reply are asked again, for the same
        weights; the good ones are kept. How much a reply weighs is what the plan says, not its hospital. Raises
        RunFailed where they are too few after the last attempt.
        """
        alike = {"arrays": before.shared, "buffers": before.buffers, "local": before.local}
        alike |= dict.fromkeys(self.algorithm.replies, before.shared)
        images = self.plan.centers["train"].to_dict()
        needed = self.scenario.federation.needed(len(cohort))
        good: dict[str, Message] = {}
        failures: list[dict[str, Any]] = []
        for attempt in range(1, ATTEMPTS + 1):
            asked = [_marked(message, attempt=attempt) for message in messages if self._center(message) not in good]
            replies = first or self._ask(asked, "train", number, self.scenario.federation.deadline_s)
            first = {}
            for center in sorted(map(self._center, asked)):
                if reason := complaint(replies.get(center), alike, images.get(center)):
                    failures.append({"round": number, "attempt": attempt, "center": center, "reason": reason})
                    self.watch(Event("failure", number, failures[-1]))
                else:
                    good[center] = replies[center]
                    cast(MetricRecord, good[center].content["metrics"])["weight"] = self.plan.weights[center]
            if len(good) >= needed:
                mended = [{**failure, "mended": failure["center"] in good} for failure in failures]
                return {center: good[center] for center in cohort if center in good}, mended
        named = "; ".join(f"{f['center']}: {f['reason']}" for f in failures if f["attempt"] == ATTEMPTS)
        kept = f"round {number - 1} is kept, and the same command goes on from there"
        smaller = "; a GPU is full: a smaller training.batch_size with more training.accumulate takes less of it"
        raise RunFailed(
            f"round {number}: {len(good)} of {len(cohort)} hospitals answered, federation.quorum asks for {needed} "
            f"({named}), and the others were asked {ATTEMPTS} times; "
            + (kept if number > 1 else "the same command tries again")
            + (smaller if is_full(named) else "")
        )

    # ---- evaluation

    def _validate(self, number: int, checkpoint: Checkpoint, rows: list[dict[str, Any]]) -> "Evaluated":
        """This round's validation, or that of the holdouts under ``oracle``; of nobody in rounds that skip it."""
        evaluation, last = self.scenario.evaluation, self.scenario.federation.rounds
        if not is_due(number, evaluation.every, last):
            return Evaluated()
        split, role = looked_at(evaluation.select)
        # What strikes a train message must not strike validation, as it does not in a simulation.
        together = self.remote and not self.scenario.faults and number < last
        orders = self._orders(number + 1, checkpoint) if together else []
        centers = self.plan.holders(role, split)
        validated = self._evaluate(centers, split, checkpoint, str(number), rows, orders=orders)
        self._missed(number, checkpoint, validated.missing, "not validated")
        return validated

    def _missed(self, number: int, checkpoint: Checkpoint, missing: dict[str, str], what: str) -> None:
        """Keep, and tell, who was done without in an evaluation."""
        for center, reason in missing.items():
            failure = {"round": number, "attempt": 1, "center": center, "reason": f"{reason}; {what}"}
            checkpoint.failures.append(failure)
            self.watch(Event("failure", number, failure))

    def _evaluate(
        self,
        centers: list[str],
        split: str,
        checkpoint: Checkpoint,
        label: str,
        rows: list[dict[str, Any]],
        gallery: bool = False,
        orders: Sequence[Message] = (),
    ) -> "Evaluated":
        """One split at some centers under one checkpoint.

        orders: train messages of the next round, which go along; their answers are kept for it. An error may be that of
        the training, and one deadline too short for both: who tells no scores is asked for the split alone.
        Over real sites who trains and is not heard of is done without: in validation, and on its test images as long as
        the quorum of them is. Raises RunFailed where a hospital fails, and where another one is not heard of.
        """
        deadline_s, task = self.scenario.federation.deadline_s if self.remote else None, self.scenario.task
        records = {
            "arrays": to_record(checkpoint.shared),
            "buffers": to_record(checkpoint.buffers),
            "local": to_record(checkpoint.local),
            "frozen": self.frozen,
        }
        alone: dict[str, Message] = {}
        for center in centers:
            config: dict[str, Any] = {"run": self.name, "member": self.member, "split": split, "checkpoint": label}
            config |= {"start-from": checkpoint.kept.get(center, 0), "gallery": gallery}
            content = RecordDict({**records, "config": ConfigRecord(config)})
            alone[center] = Message(content, self.nodes[center], "evaluate")
        both = {self._center(order): order for order in orders}
        validate = {center: split if center in alone else "" for center in both}
        messages = alone | {center: _marked(order, validate=validate[center]) for center, order in both.items()}
        replies = self._ask([*messages.values()], split, checkpoint.round, deadline_s)
        for _ in range(1, ATTEMPTS if split == "test" and deadline_s else 1):
            if late := [message for center, message in messages.items() if unheard(replies.get(center))]:
                replies |= self._ask([_marked(message) for message in late], split, checkpoint.round, deadline_s)
        if orders:
            self._begun = (checkpoint.round + 1, [*both.values()], {c: r for c, r in replies.items() if c in both})
        if again := {c: alone[c] for c in both if c in alone and unscored(replies.get(c), task)}:
            messages |= again
            replies = {c: reply for c, reply in replies.items() if c not in again}
            replies |= self._ask([*again.values()], split, checkpoint.round, deadline_s)
        evaluated = Evaluated()
        train = self.plan.holders("train", split)
        heard = [center for center in train if not unheard(replies.get(center))]
        enough = split == "val" or len(heard) >= self.scenario.federation.needed(len(train))
        for center in sorted(centers):
            reply = replies.get(center)
            reason = unscored(reply, task)
            if deadline_s and enough and center in train and unheard(reply):
                evaluated.missing[center] = reason
                continue
            if reply is None or reason:
                raise RunFailed(f"round {checkpoint.round}: {center} could not be evaluated on {split} ({reason})")
            place = {"center": center, "role": str(self.plan.centers.loc[center, "role"]), "split": split}
            scores = _facts(reply, "scores")
            evaluated.scores.append({**place, **scores})
            told = [name for name in ("samples", "shared") if name in reply.content]
            if label in ("best", "last") and len(told) != 1:
                raise RunFailed(f"round {checkpoint.round}: {center} sent {len(told)} tables of {split}, not one")
            for name, tables in (("samples", evaluated.tables), ("shared", evaluated.shares)):
                if name in told:
                    part = records_in(reply, name, self.plan, place, self.remote)
                    if part is None:
                        raise RunFailed(f"round {checkpoint.round}: {center} sent records of {split} that are none")
                    part.insert(0, "checkpoint", label)
                    tables.append(part.assign(**place))  # a hospital speaks for itself alone
            down = _payload_bytes(alone[center]) if messages[center] is alone[center] else 0  # else counted in training
            cost = {**_facts(reply, "cost"), "bytes_down": down, "bytes_up": 0}
            row = {"round": checkpoint.round, "phase": split, "center": center, "role": place["role"], **cost}
            rows += [{**row, "metric": name, "value": value} for name, value in scores.items()]
        return evaluated

    def _finish(self, last: Checkpoint) -> None:
        """Test sets are looked at once, here: `best` and `last` at every center that has one."""
        began = time.perf_counter()
        rows: list[dict[str, Any]] = []
        centers = list(self.plan.centers.index[self.plan.centers["test"] > 0])
        select = self.scenario.evaluation.select if last.scores else "last"
        self.watch(Event("test", last.round, {"best": last.best, "centers": centers, "select": select}))
        best = last if last.best == last.round else self.run.checkpoint(str(last.best))
        tested = self._evaluate(centers, "test", best, "best", rows, gallery=not self.remote)
        self._missed(last.round, last, tested.missing, "not tested")
        if best is last:
            again = [[part.assign(checkpoint="last") for part in parts] for parts in (tested.tables, tested.shares)]
        else:
            there = [center for center in centers if center not in tested.missing]
            other = self._evaluate(there, "test", last, "last", rows)
            self._missed(last.round, last, other.missing, "not tested with the last round's weights")
            again = [other.tables, other.shares]
        last.wall_s += time.perf_counter() - began
        samples, shared = _stack([*tested.tables, *again[0]]), _stack([*tested.shares, *again[1]])
        self.run.finish(last, best, _rounds_table(rows), samples, shared)

    # ---- start and state

    def _resume(self) -> Checkpoint:
        """The last committed round, or round 0: the initial weights."""
        last, scenario = self.run.latest(), self.scenario
        self.run.drop_uncommitted(last.round if last else 0)
        if last is not None:
            for name in self.algorithm.server_state:
                setattr(self.strategy, name, last.server.get(name))
            self.watch(Event("resume", last.round, {"rounds": scenario.federation.rounds, "scores": last.scores}))
            return last
        seed = None if self.run.members else derive_seed(scenario.seed, "weights")
        network = build_model(scenario.model, scenario.task, len(self.plan.classes), seed)
        layout = exchange.layout(network, self.algorithm.local(network), scenario.federation.buffers)
        shared, buffers, local = (exchange.read(network, n) for n in (layout.shared, layout.buffers, layout.local))
        if isinstance(network, Ensemble) and network.weighted:
            chosen = [run.checkpoint("best") for run in self.run.members.values()]
            known = [checkpoint.scores.get(checkpoint.round) for checkpoint in chosen]
            scores = np.nan_to_num([score or 0.0 for score in known])
            if None in known:
                self.run.note("model.fusion: weighted: the validation of a member was not heard of: all weigh the same")
            elif scores.sum() > 0:
                buffers[WEIGHTS] = (scores / scores.sum()).astype(np.float32)
        return Checkpoint(0, shared, buffers, local, initial_sha256=exchange.sha256(shared | buffers | local))

    def _server_state(self) -> dict[str, exchange.State]:
        states = {name: getattr(self.strategy, name) for name in self.algorithm.server_state}
        return {name: state for name, state in states.items() if state is not None}

    def _ask(
        self, messages: list[Message], phase: str, number: int, deadline_s: float | None = None
    ) -> dict[str, Message]:
        """Send, wait, and return replies by center name, sorted: arrival order ends here."""
        rounds = self.scenario.federation.rounds
        self.watch(Event("phase", number, {"phase": phase, "centers": len(messages), "rounds": rounds}))
        replies = self.grid.send_and_receive(messages, timeout=deadline_s)
        by_center = {self.centers[reply.metadata.src_node_id]: reply for reply in replies}
        return {center: by_center[center] for center in sorted(by_center)}

    def _center(self, message: Message) -> str:
        return self.centers[message.metadata.dst_node_id]


def roll_call(grid: Grid, plan: Plan) -> dict[str, int]:
    """Center name -> node id. Raises RunFailed unless exactly the plan's centers answer, with the plan's data."""
    messages = [Message(RecordDict(), node, "query") for node in grid.get_node_ids()]
    nodes: dict[str, int] = {}
    for reply in grid.send_and_receive(messages):
        if reply.has_error():
            raise RunFailed(f"roll call: a node failed ({reply.error.reason})")
        facts = cast(ConfigRecord, reply.content["hospital"])
        center = str(facts["center"])
        if facts["data_sha256"] != plan.data_sha256:
            raise RunFailed(f"roll call: {center} holds other images than the plan")
        if center in nodes:
            raise RunFailed(f"roll call: two nodes say they are {center}")
        nodes[center] = reply.metadata.src_node_id
    missing = sorted(set(plan.centers.index) - set(nodes))
    if missing:
        raise RunFailed(
            f"roll call: {len(nodes)} of {len(plan.centers)} centers answered; missing: {', '.join(missing)}"
        )
    return dict(sorted(nodes.items()))


def _marked(message: Message, **keys: str | int) -> Message:
    """A message to be sent, with keys of its configuration set."""
    config = ConfigRecord({**cast(ConfigRecord, message.content["config"]), **keys})
    content, to = RecordDict({**message.content, "config": config}), message.metadata
    return Message(content, to.dst_node_id, to.message_type, group_id=to.group_id)


def _rounds_table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    columns = list(ROUNDS)
    table = pd.DataFrame(rows).reindex(columns=columns)
    texts, numbers = ["phase", "center", "role", "metric"], columns[5:]
    table[texts] = table[texts].fillna("").astype(str)
    table[numbers] = table[numbers].astype("float64")
    return table


def _mean_loss(replies: dict[str, Message]) -> float:
    metrics = [metrics_of(reply) for reply in replies.values()]
    return float(np.average([m["loss"] for m in metrics], weights=[m["weight"] for m in metrics]))


def _facts(reply: Message, name: str) -> dict[str, Any]:
    return dict(cast(ConfigRecord, reply.content[name]))


def _stack(tables: list[pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def _payload_bytes(message: Message) -> int:
    """Bytes of all arrays in a message."""
    return sum(len(array.data) for record in arrays_of(message.content).values() for array in record.values())
