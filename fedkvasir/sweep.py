"""What a sweep tries: a scenario's ``sweep:`` block, or words of the command line, as settings of every method."""

import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fedkvasir.ensembles import parse
from fedkvasir.errors import UserError
from fedkvasir.points import Point, cells, check_point, methods, refuse_axis, told_apart
from fedkvasir.randomness import derive_seed
from fedkvasir.scenario import LOCALS, Protocol, Range, Scenario, Sweep, as_number, load, variant

DRAWS = 1000
"""For every setting that is wanted, until another is drawn than those before."""
RANGE = re.compile(r"(\d+)\.\.(\d+)")
MOST = 10_000
"""Values of an axis."""
DIGITS = 3
"""Of what is drawn from a range."""
Axes = Mapping[str, Sequence[Any] | Range]
"""Key path -> what is tried of it."""


def load_sweep(source: str | Path, words: Sequence[str] = ()) -> Scenario:
    """A scenario with a ``sweep:`` block: the file's, and words ``key=value,value`` or ``seed=0..4``.

    A word of one value is an override, unless the block has an axis of that name, which it then takes the place of.
    Without anything to try a scenario with a ``protocol:`` block is its study. Raises UserError where it has none.
    """
    values = {word: _values(word) for word in words}
    for word in words:
        key = word.partition("=")[0]
        if len(values[word]) > 1 and sum(other.partition("=")[0] == key for other in words) > 1:
            raise UserError(f"{key} is given twice; name all of its values in one word, as in seed=0,1")
    plain = tuple(_override(word, own[0]) for word, own in values.items() if len(own) == 1)
    scenario = load(source, plain)
    block = scenario.sweep.model_dump(mode="json") if scenario.sweep else {"grid": {}, "ranges": {}}
    for word, own in values.items():
        key = word.partition("=")[0]
        if len(own) > 1 or key in block["grid"] or key in block["ranges"]:
            block["ranges"].pop(key, None)
            block["grid"][key] = own
    if not block["grid"] and not block["ranges"]:
        if scenario.protocol:
            return scenario
        raise UserError(
            f"{source}: nothing to sweep over; name an axis, e.g. algorithm=fedavg,fedprox or seed=0..4, or write a "
            "sweep: or a protocol: block"
        )
    return variant(scenario, {"sweep": block})


def as_study(scenario: Scenario) -> Scenario:
    """The scenario whose protocol compares the sweep's algorithms with its seeds; without a sweep, itself.

    Raises UserError where protocol and sweep contradict each other.
    """
    sweep, protocol = scenario.sweep, scenario.protocol
    if sweep is None:
        return scenario
    if protocol and protocol.tune:
        raise UserError("protocol.tune and sweep both name settings to try: move protocol.tune into sweep.grid")
    if scenario.evaluation.select == "oracle" or (protocol and protocol.select == "oracle"):
        raise UserError("a sweep chooses settings by validation images: set evaluation.select=train-val")
    block: dict[str, Any] = {"kind": "holdout" if scenario.data.holdouts else "within", "seeds": [scenario.seed]}
    if protocol:
        block = protocol.model_dump(mode="json")
    if "seed" in sweep.grid:
        block["seeds"] = sweep.grid["seed"]
    if "algorithm" in sweep.grid:
        block["algorithms"] = [fixed.model_dump() for fixed, _ in map(told_apart, sweep.grid["algorithm"])]
    return variant(scenario, {"protocol": block})


def protocol_of(scenario: Scenario) -> Protocol:
    """What the scenario's study compares: its protocol, with what the sweep says of algorithms and seeds."""
    protocol = as_study(scenario).protocol
    assert protocol is not None
    return protocol


def explores(scenario: Scenario) -> bool:
    """Are settings tried with the first seed alone, and the best run with the others?"""
    return scenario.sweep.explores if scenario.sweep else True


def tried(scenario: Scenario) -> list[tuple[Point, list[Point]]]:
    """Every cell of a study, and its points with the first seed: the cell at every setting that is tried of it.

    One point a setting; where optuna chooses them, ``budget`` times the cell itself. Raises UserError as
    :func:`~fedkvasir.points.cells`, for a setting that cannot be, and where the budget cannot be that of every method.
    """
    study = as_study(scenario)
    assert study.protocol is not None
    found = [(cell, _points(study, cell)) for cell in cells(study)]
    counts = {cell.method: len(points) for cell, points in found}
    if study.sweep and study.sweep.budget and len(set(counts.values())) > 1:
        fewest, count = min(counts.items(), key=lambda entry: entry[1])
        raise UserError(
            f"sweep.budget = {study.sweep.budget} is to be the same for every method, and {fewest} has {count} "
            f"setting(s): set it to {count}, or vary more of what all methods have"
        )
    return found


def _points(study: Scenario, cell: Point) -> list[Point]:
    sweep, protocol = study.sweep, study.protocol
    assert protocol is not None
    if sweep is None:
        return cell.settings(protocol.tune)
    axes = axes_of(study, cell)
    for key, axis in axes.items():
        refuse_axis(key)
        if isinstance(axis, Range):
            _refuse_gaps(cell, key, axis, study)
        elif sweep.search == "optuna":
            for value in axis:
                _check(cell.at({key: value}), cell, study)
    if sweep.search == "optuna":
        assert sweep.budget is not None
        for pair in itertools.combinations(axes, 2):
            for values in itertools.product(*(_ends(axes[key]) for key in pair)):
                _check(cell.at(dict(zip(pair, values, strict=True))), cell, study)
        return [cell] * sweep.budget
    points = [cell.at(changes) for changes in _changes(sweep, axes)]
    for point in points:
        _check(point, cell, study)
    return list({json.dumps(point.scenario.decisive()): point for point in points}.values())


def axes_of(scenario: Scenario, cell: Point) -> Axes:
    """What is varied of a cell: its algorithm's parameters that are lists, then what is common to all methods."""
    sweep = scenario.sweep
    assert sweep is not None
    _, lists = methods(as_study(scenario)).get(cell.method, (None, {}))
    own = {f"algorithm.{key}": values for key, values in lists.items()}
    common = {key: values for key, values in sweep.grid.items() if key not in ("algorithm", "seed")}
    return own | common | sweep.ranges


def changes_of(setting: str, axes: Axes) -> dict[str, Any] | None:
    """What makes a point at one of the axes' settings, as :meth:`~fedkvasir.points.Point.at` takes it; None for another
    text."""
    found = re.fullmatch(", ".join(f"{re.escape(key)}=(.*)" for key in axes), setting)
    texts = dict(zip(axes, found.groups(), strict=True)) if found else {}
    return {
        key: float(text) if isinstance(axes[key], Range) else next(own for own in axes[key] if str(own) == text)
        for key, text in texts.items()
    } or None


def _changes(sweep: Sweep, axes: Axes) -> list[dict[str, Any]]:
    """All combinations, or as many as the budget allows, drawn, none twice; fewer where so many there are not.

    Of the axes that all methods have every method draws the same: as long as these have settings enough, none of theirs
    is drawn twice, whatever is drawn of the method's own.
    """
    lists = [axis for axis in axes.values() if not isinstance(axis, Range)]
    if sweep.search == "grid":
        combinations = [dict(zip(axes, chosen, strict=True)) for chosen in itertools.product(*lists)]
        if sweep.budget is None or sweep.budget >= len(combinations):
            return combinations
    assert sweep.budget is not None
    streams = {key: np.random.default_rng(derive_seed(0, "sweep", key)) for key in axes}
    common = [key for key in axes if not key.startswith("algorithm.")]
    told_by = common if _there_are(axes[key] for key in common) >= sweep.budget else [*axes]
    found: dict[str, dict[str, Any]] = {}
    wanted = min(sweep.budget, _there_are(axes.values()))
    for _ in range(DRAWS * sweep.budget):
        if len(found) == wanted:
            break
        changes = {key: draw(axis, streams[key]) for key, axis in axes.items()}
        found.setdefault(json.dumps([changes[key] for key in told_by]), changes)
    return list(found.values())


def _there_are(axes: Iterable[Sequence[Any] | Range]) -> float:
    """How many combinations; no end of them where one is a range."""
    return math.prod(math.inf if isinstance(axis, Range) else len(axis) for axis in axes)


def draw(axis: Sequence[Any] | Range, rng: np.random.Generator) -> Any:
    """One value of an axis; of a range with three significant digits."""
    if not isinstance(axis, Range):
        return axis[int(rng.integers(len(axis)))]
    low, high = (np.log([axis.low, axis.high])) if axis.log else (axis.low, axis.high)
    value = rng.uniform(low, high)
    return rounded(float(np.exp(value) if axis.log else value))


def rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _check(point: Point, cell: Point, study: Scenario) -> None:
    """Raises UserError as :func:`~fedkvasir.points.check_point`, and for what ASHA cannot judge: an ensemble's rounds
    are those of its members, one after another."""
    assert study.sweep is not None and study.protocol is not None
    check_point(point, cell, study.protocol)
    base, what = point.base, ""
    if base.federation.train == LOCALS:
        what = LOCALS
    elif parse(base.model, base.task):
        what = f"model.name = {base.model.name}"
    if study.sweep.stop and what:
        raise UserError(
            f"sweep.stop = asha compares runs round by round, and {what} has no rounds: set sweep.stop=null"
        )


def _ends(axis: Range | Sequence[Any]) -> Sequence[Any]:
    return (axis.low, axis.high) if isinstance(axis, Range) else axis


def _refuse_gaps(cell: Point, key: str, axis: Range, study: Scenario) -> None:
    """Raises UserError where an end of a range cannot be, or only some of what lies between, as whole numbers."""
    for end in _ends(axis):
        _check(cell.at({key: end}), cell, study)
    try:
        _check(cell.at({key: axis.low + (axis.high - axis.low) / math.e}), cell, study)
    except UserError as error:
        raise UserError(
            f"sweep.ranges: {key} cannot have every value between {axis.low:g} and {axis.high:g}; list those that it "
            "can in sweep.grid"
        ) from error


def _override(word: str, value: Any) -> str:
    """A word of one value; ``seed=3..3`` is that of 3."""
    key, _, text = word.partition("=")
    return f"{key}={value}" if RANGE.fullmatch(text) else word


def _values(word: str) -> list[Any]:
    """The values of ``key=a,b`` or ``key=0..4``."""
    text = word.partition("=")[2]
    try:
        items = yaml.safe_load(f"[{text}]")
    except yaml.YAMLError:
        return [text]  # an override that says itself what is wrong with it
    values: list[Any] = []
    for item in items:
        ends = RANGE.fullmatch(item) if isinstance(item, str) else None
        if ends and (count := int(ends[2]) - int(ends[1]) + 1) > MOST:
            raise UserError(f"{word} has {count} values, and a sweep takes {MOST} at most")
        values += range(int(ends[1]), int(ends[2]) + 1) if ends else [as_number(item)]
    if not values:
        raise UserError(f"{word} names no value; e.g. seed=0..4 or training.lr=1e-3,1e-2")
    return values
