"""Out of run folders the methods that are to be compared: runs that differ in nothing but their seed are one method."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd

from fedkvasir.errors import UserError
from fedkvasir.evaluation.groups import ROLES
from fedkvasir.runs import Run

NAMING = ("algorithm.name", "model.name")
"""Keys whose value says enough alone."""
Settings = Mapping[str, str]
"""Key path -> value, of everything in a scenario that can make two methods of it."""


@dataclass(frozen=True)
class Method:
    """One row of the comparison."""

    name: str
    runs: tuple[Run, ...]
    """By seed."""
    best_rounds: tuple[int, ...]
    samples: tuple[pd.DataFrame, ...]
    """samples.parquet of every run."""
    differs: tuple[str, ...]
    """``key=value`` where its scenario is not that of all methods."""

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(run.plan.scenario.seed for run in self.runs)

    @property
    def scopes(self) -> dict[str, str]:
        """Center -> ``seen`` or ``unseen``."""
        roles = self.samples[0].drop_duplicates("center").set_index("center")["role"]
        return {str(center): scope for scope, role in ROLES.items() for center in roles.index[roles == role]}


def methods_of(arguments: Sequence[str]) -> list[Method]:
    """Run folders, or NAME=FOLDER,FOLDER for the runs of a method, as methods in the order given.

    A name that is not given is what tells the method's scenario from the others: a value, else one or two keys and
    their values, else the first run's folder. Raises UserError for what is no finished run, for a run given twice, for
    two methods of one name, and for a named method whose runs differ in more than the seed.
    """
    folders = [(name, Path(folder)) for argument in arguments for name, folder in _parts(argument)]
    runs = [(name, Run(folder)) for name, folder in folders]
    settings = [_settings(run) for _, run in runs]
    _refuse_twice([run for _, run in runs], settings)
    groups: dict[str, list[int]] = {}
    for index, (name, _) in enumerate(runs):
        groups.setdefault(name or json.dumps(settings[index], sort_keys=True), []).append(index)
    for name, members in groups.items():
        if other := next((index for index in members if settings[index] != settings[members[0]]), None):
            keys = ", ".join(_differing([settings[members[0]], settings[other]]))
            raise UserError(f"{name}: its runs differ in {keys}; the runs of one method differ in nothing but the seed")
    firsts = [settings[members[0]] for members in groups.values()]
    given = [runs[members[0]][0] for members in groups.values()]
    found = _names(firsts) or [runs[members[0]][1].folder.resolve().name for members in groups.values()]
    names = [name or other for name, other in zip(given, found, strict=True)]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two methods are called {twice}; give names, as in NAME=RUN,RUN")
    differing = _differing(firsts)
    return [
        _method(name, sorted((runs[index][1] for index in members), key=_seed), own, differing)
        for name, members, own in zip(names, groups.values(), firsts, strict=True)
    ]


def _parts(argument: str) -> list[tuple[str, str]]:
    name, sign, folders = argument.partition("=")
    if not sign or Path(argument).exists():
        return [("", argument)]
    if not name or not all(folders.split(",")):
        raise UserError(f"{argument!r} is not of the form NAME=RUN,RUN")
    return [(name, folder) for folder in folders.split(",")]


def _method(name: str, runs: Sequence[Run], own: Settings, differing: Sequence[str]) -> Method:
    best_rounds = tuple(run.result["best_round"] for run in runs)
    differs = tuple(f"{key}={own[key]}" for key in differing if key in own)
    return Method(name, tuple(runs), best_rounds, tuple(run.samples for run in runs), differs)


def _seed(run: Run) -> int:
    return run.plan.scenario.seed


def _settings(run: Run) -> dict[str, str]:
    scenario = run.plan.scenario
    kept = scenario.model_dump(mode="json", exclude={"name", "question", "recipe", "resources", "seed"})
    del kept["data"]["roots"]  # where files lie on this machine
    for center in kept["data"]["centers"].values():
        del center["root"]
    return _flat(kept)


def _flat(tree: Mapping[str, Any], path: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for key, value in tree.items():
        flat |= _flat(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": _text(value)}
    return flat


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _refuse_twice(runs: Sequence[Run], settings: Sequence[Settings]) -> None:
    seen: dict[str, Run] = {}
    for run, own in zip(runs, settings, strict=True):
        before = seen.setdefault(json.dumps([own, _seed(run)], sort_keys=True), run)
        if before is not run:
            same = before.folder.resolve() == run.folder.resolve()
            what = f"{run.folder} is given twice" if same else f"{before.folder} and {run.folder} are the same run"
            raise UserError(f"{what}; a run counts once")


def _differing(settings: Sequence[Settings]) -> list[str]:
    """Keys whose value is not that of all, those that name a method first."""
    keys = list(dict.fromkeys(key for own in settings for key in own))
    differing = [key for key in keys if len({own.get(key) for own in settings}) > 1]
    return sorted(differing, key=lambda key: NAMING.index(key) if key in NAMING else len(NAMING))


def _names(settings: Sequence[Settings]) -> list[str] | None:
    """By one key, or two, that tell all of them apart; None where there are no such keys."""
    if len(settings) == 1:
        return [settings[0][NAMING[0]]]
    differing = _differing(settings)
    for keys in (*combinations(differing, 1), *combinations(differing, 2)):
        names = [", ".join(_name(key, own[key]) for key in keys if key in own) for own in settings]
        if len(set(names)) == len(names) and all(names):
            return names
    return None


def _name(key: str, value: str) -> str:
    return value if key in NAMING else f"{key}={value}"
