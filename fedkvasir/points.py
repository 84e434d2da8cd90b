"""What a protocol asks for: a scenario's ``protocol:`` block as the runs that answer its question."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from fedkvasir.ensembles import parse
from fedkvasir.errors import UserError
from fedkvasir.names import check_names, spelled_out
from fedkvasir.scenario import (
    BESIDE,
    LOCALS,
    POOLED,
    Algorithm,
    Protocol,
    Scenario,
    as_number,
    flat,
    name_alone,
    sentence,
    variant,
)

LOCAL = "local"


def in_words(method: str, holdout: str, hospital: str, setting: str, seed: int) -> str:
    """``local, without baerum, at barcelona-1, training.lr=0.001, seed 0``: what a run of a study is."""
    place = [f"without {holdout}" if holdout else "", f"at {hospital}" if hospital else ""]
    return ", ".join(filter(None, [method, *place, setting, f"seed {seed}"]))


@dataclass(frozen=True)
class Point:
    """One run of a study."""

    method: str
    """An algorithm, with its parameters where another one has the same name; or a baseline."""
    holdout: str
    """Who takes no part, as one name."""
    hospital: str
    """Who trains alone; empty elsewhere."""
    base: Scenario
    """What is tuned: as many rounds as the federation has."""
    setting: str = ""
    """What was tuned, as ``key=value``."""
    plain: Scenario | None = None
    """``base`` before it was tuned; None where it was not."""

    @cached_property
    def scenario(self) -> Scenario:
        """What is run."""
        return spelled_out(stretched(self.base, len(self.base.data.hospitals) if goes_round(self.base) else 1))

    @property
    def seed(self) -> int:
        return self.base.seed

    @cached_property
    def keys(self) -> dict[str, str]:
        """What can change its numbers, key path -> value."""
        return flat(self.scenario.decisive())

    @property
    def cell(self) -> tuple[str, str, str]:
        """What is tuned once, and then run with every seed."""
        return self.method, self.holdout, self.hospital

    def settings(self, tune: dict[str, tuple[Any, ...]]) -> list["Point"]:
        """This point with every combination of the values that are tuned."""
        return [self.at(dict(zip(tune, values, strict=True))) for values in itertools.product(*tune.values())]

    def at(self, changes: Mapping[str, Any]) -> "Point":
        """This point at another setting, key path -> value.

        Where optimisers or schedules are tried, what the scenario sets for one of them does not go with the others.
        """
        plain = self.plain or self.base
        text, base = ", ".join(f"{key}={value}" for key, value in changes.items()), variant(plain, changes)
        others = {key: default for key, cause, default in base.idle() if cause in changes and key not in changes}
        return replace(self, base=variant(base, others) if others else base, setting=text, plain=plain)

    def seeded(self, seed: int) -> "Point":
        own = {"seed": seed}
        plain = self.plain and self.plain.model_copy(update=own)
        return replace(self, base=self.base.model_copy(update=own), plain=plain)


def cells(scenario: Scenario) -> list[Point]:
    """What a scenario's protocol compares, each with the first seed and the scenario's own settings.

    Every method takes as many steps as FedAvg: pooled, those of all hospitals together; alone, the hospital's own;
    going round, as a baseline or an algorithm, each hospital's in turn. Raises UserError where the protocol cannot be
    carried out.
    """
    protocol = scenario.protocol
    assert protocol is not None
    if protocol.tune and (protocol.select or scenario.evaluation.select) != "train-val":
        raise UserError("protocol.tune chooses by validation images: set protocol.select=train-val")
    alone = LOCAL in protocol.baselines or protocol.kind == "cross-site"
    points = []
    for holdout, arm in _arms(scenario):
        hospitals = list(arm.data.hospitals)
        if protocol.kind == "cross-site" and len(hospitals) < 2:
            raise UserError("protocol.kind = cross-site needs two hospitals or more")
        for method, (algorithm, _) in methods(scenario).items():
            points.append(Point(method, holdout, "", variant(arm, {"algorithm": algorithm.model_dump()})))
        plain = variant(arm, {"algorithm": "fedavg", "federation.buffers": "average"})
        if POOLED in protocol.baselines:
            points.append(Point(POOLED, holdout, "", variant(plain, {"federation.train": POOLED})))
        if alone:
            points += [Point(LOCAL, holdout, h, variant(plain, {"federation.train": h})) for h in hospitals]
        if LOCALS in protocol.baselines:  # after its members, which are not trained again
            points.append(Point(LOCALS, holdout, "", variant(plain, {"federation.train": LOCALS})))
        if "cyclic" in protocol.baselines:
            points.append(Point("cyclic", holdout, "", variant(plain, {"algorithm": "cyclic"})))
    if twice := next((name for name, count in Counter(point.cell for point in points).items() if count > 1), None):
        raise UserError(f"protocol: {twice[0]} is an algorithm and a baseline; leave one of them out")
    for key in protocol.tune:
        refuse_axis(key)
    for point in points:
        for candidate in point.settings(protocol.tune):
            check_point(candidate, point, protocol)
    return points


def refuse_axis(key: str) -> None:
    """Raises UserError for what is no setting of a method: what changes no number, or what settings are judged by."""
    group = key.split(".")[0]
    if key in ("algorithm", "algorithm.name"):
        raise UserError(
            f"{key} is the method and no setting of it: name methods in protocol.algorithms or algorithm=A,B"
        )
    if group in BESIDE or key in ("seed", "task", "federation.train", "evaluation.share"):
        raise UserError(f"{key} is no setting of a method and cannot be tried: run once for each value")
    if key == "evaluation.select":
        raise UserError("settings are chosen by validation images, so evaluation.select cannot be tried")
    if group == "data" and key != "data.image_size":
        raise UserError(f"{key} decides on the images that settings are judged by: run once for each value")


def check_point(point: Point, cell: Point, protocol: Protocol) -> None:
    """Raises UserError for a setting of a cell that cannot be, and for one at which methods would not be on a par."""
    check_names(point.scenario)
    for key in ("federation.train", "evaluation.select"):
        if point.keys[key] != cell.keys[key]:  # by a group of keys
            refuse_axis(key)
    what = ""
    if protocol.baselines:
        what = "protocol.baselines take"
    elif protocol.kind == "cross-site":
        what = "protocol.kind = cross-site trains hospitals alone, with"
    elif goes_round(point.base):
        what = "cyclic takes"
    if what and point.base.federation.fraction < 1:
        raise UserError(f"{what} as many steps as all hospitals: set federation.fraction=1.0")
    if point.base.training.batch_size == "auto":
        raise UserError("training.batch_size = auto would find another number for every method: set one")


def cautions(runs: Iterable[tuple[str, Scenario]]) -> list[str]:
    """In what methods or settings are not on a par, and are compared all the same, a sentence each.

    runs: method, and what is run.
    """
    runs, texts = list(runs), []
    losing = any(
        scenario.federation.quorum < 1 and any(fault.loses_a_round for fault in scenario.faults)
        for _, scenario in runs
        if _averages(scenario)
    )
    others = dict.fromkeys(method for method, scenario in runs if not _averages(scenario))
    if losing and others:
        texts.append(
            "faults: as federation.quorum is below 1, a round of the federation goes on without a hospital that fails, "
            f"which loses its steps; {', '.join(others)}: asked again, or not struck, so that more steps are taken"
        )
    fusions = {own.fusion.name for _, scenario in runs if (own := parse(scenario.model, scenario.task))}
    if "learned" in fusions and len(fusions) > 1:
        texts.append(
            "model.fusion: validation scores are of different images, of learned the half that it was not fitted on, "
            f"of {' and '.join(sorted(fusions - {'learned'}))} all"
        )
    return texts


def _averages(scenario: Scenario) -> bool:
    """Do several hospitals train in a round?"""
    return scenario.federation.train == "each" and not goes_round(scenario)


def goes_round(scenario: Scenario) -> bool:
    """Does one hospital train in a round, each in turn? As many rounds as there are hospitals are one of FedAvg."""
    return scenario.algorithm.name == "cyclic" and scenario.federation.train == "each"


def stretched(scenario: Scenario, times: int) -> Scenario:
    """The scenario with so many rounds for one; what counts rounds goes with them."""
    if times == 1:
        return scenario
    schedule = scenario.training.schedule
    changes: dict[str, Any] = {
        "federation.rounds": scenario.federation.rounds * times,
        "evaluation.every": scenario.evaluation.every * times,
    }
    if schedule and schedule.name == "step":
        changes["training.schedule.every"] = schedule.every * times
    faults = tuple(
        fault.model_copy(
            update={"rounds": tuple((n - 1) * times + k for n in fault.rounds for k in range(1, times + 1))}
        )
        if fault.rounds
        else fault
        for fault in scenario.faults
    )
    return variant(scenario, changes).model_copy(update={"faults": faults})


def methods(scenario: Scenario) -> dict[str, tuple[Algorithm, dict[str, list[Any]]]]:
    """The algorithms of a study by name, with their parameters where there are several of one name, and those of their
    parameters that a sweep varies, of which the algorithm has the first value."""
    from fedkvasir.algorithms import build_algorithm  # and Flower with it, which who reads a plan does not wait for

    given: Sequence[Any] = scenario.sweep.grid.get("algorithm", ()) if scenario.sweep else ()
    if not given:
        assert scenario.protocol is not None
        given = scenario.protocol.algorithms or (scenario.algorithm,)
    found = dict[str, tuple[Algorithm, dict[str, list[Any]]]]()
    told = [told_apart(algorithm) if scenario.sweep else (algorithm, {}) for algorithm in given]
    names = [algorithm.name for algorithm, _ in told]
    for algorithm, lists in told:
        values = {key: "|".join(map(str, lists.get(key, [value]))) for key, value in algorithm.parameters.items()}
        several = names.count(algorithm.name) > 1 and values
        parameters = ", ".join(f"{key}={value}" for key, value in values.items())
        found[f"{algorithm.name} {parameters}" if several else algorithm.name] = algorithm, lists
    made = [(build_algorithm(algorithm), lists) for algorithm, lists in told]
    if len(found) < len(told) or any(one == other for one, other in itertools.combinations(made, 2)):
        raise UserError("protocol.algorithms: the same algorithm is named twice, perhaps with a default spelled out")
    return found


def told_apart(given: Any) -> tuple[Algorithm, dict[str, list[Any]]]:
    """An algorithm whose parameters that are lists have their first value, and those lists."""
    raw = given.model_dump() if isinstance(given, Algorithm) else name_alone(given)
    try:
        named = Algorithm.model_validate(as_number(raw))
    except ValidationError as error:
        raise UserError(sentence(error, Algorithm, ("algorithm",))) from error
    lists = {key: list(value) for key, value in named.parameters.items() if isinstance(value, list | tuple)}
    if empty := next((key for key, values in lists.items() if not values), None):
        raise UserError(f"algorithm.{empty}: an empty list is no value")
    firsts = {key: values[0] for key, values in lists.items()}
    return Algorithm.model_validate(named.model_dump() | firsts), lists


def _arms(scenario: Scenario) -> Iterator[tuple[str, Scenario]]:
    """(who is held out, the scenario in which they are), without a protocol and with the first seed."""
    protocol = scenario.protocol
    assert protocol is not None
    changes: dict[str, Any] = {"protocol": None, "sweep": None, "seed": protocol.seeds[0]}
    changes["evaluation.select"] = protocol.select or scenario.evaluation.select
    declared = scenario.data.centers
    for name in protocol.external:
        place = f"data.centers.{name}"
        changes |= {f"{place}.role": "holdout", f"{place}.partition": None}
        if name not in declared:
            changes[f"{place}.dataset"] = name
    inner = [name for name in declared if name not in protocol.external]
    if protocol.kind != "leave-one-center-out":
        arm = variant(scenario, changes)
        if protocol.kind == "holdout" and not arm.data.holdouts:
            raise UserError("protocol.kind = holdout needs a center of role: holdout, or protocol.external")
        yield "+".join(arm.data.holdouts), arm
        return
    if len(inner) < 2:
        raise UserError("protocol.kind = leave-one-center-out needs two centers or more that are not external")
    for left_out in inner:
        own = dict(changes)
        for name in inner:
            own[f"data.centers.{name}.role"] = "holdout" if name == left_out else "train"
        own[f"data.centers.{left_out}.partition"] = None
        arm, at = variant(scenario, own), scenario.data.hospitals
        # Who is left out does not train, and has nothing to fail at.
        faults = tuple(f for f in arm.faults if f.center is None or at.get(f.center, f.center) != left_out)
        yield left_out, arm.model_copy(update={"faults": faults})
