"""Out of run folders the methods that are to be compared: runs that differ in nothing but their seed are one method."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import pandas as pd

from fedkvasir.errors import UserError
from fedkvasir.evaluation.groups import ROLES
from fedkvasir.runs import Run
from fedkvasir.scenario import WHOLE, differing, flat
from fedkvasir.study import Study

SEEN = " (seen)"
"""Ends the name of a center that trains in one run and is held out in another, where it trains."""
NAMING = ("algorithm.name", "model.name")
"""Keys whose value says enough alone."""
Settings = Mapping[str, str]
"""Key path -> value, of everything in a scenario that can make two methods of it."""


@dataclass(frozen=True)
class Method:
    """One row of the comparison."""

    name: str
    runs: tuple[Run, ...]
    """By seed; of a study several a seed: one a center held out, one a hospital that trains alone."""
    best_rounds: tuple[int, ...]
    samples: tuple[pd.DataFrame, ...]
    """A table a seed, as :attr:`~fedkvasir.runs.Run.records`, and ``run``: the hash of the run that a row is of."""
    differs: tuple[str, ...]
    """``key=value`` where its scenario is not that of all methods."""

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(run.plan.scenario.seed for run in self.runs))

    @property
    def key(self) -> str:
        """By which paired.parquet knows it: the hashes of a seed's runs joined by ``+``, seeds by a comma."""
        hashes = {seed: [run.plan.hash for run in self.runs if _seed(run) == seed] for seed in self.seeds}
        return ",".join("+".join(sorted(own)) for own in hashes.values())

    def runs_at(self, center: str, role: str) -> list[list[str]]:
        """A list a seed: the hashes of the runs whose test records count at a center where it has this role.

        What a hospital is to put into the tables that it compares
        (:func:`~fedkvasir.evaluation.shared.compare_here`).
        """
        names = (center, f"{center}{SEEN}")
        own = [table[table["center"].isin(names) & (table["role"] == role)] for table in self.samples]
        return [sorted(table["run"].unique()) for table in own]

    @property
    def places(self) -> set[tuple[str, str]]:
        """(center, role) of everywhere that it was tested."""
        return {(name.removesuffix(SEEN), ROLES[scope]) for name, scope in self.scopes.items()}

    @property
    def scopes(self) -> dict[str, str]:
        """Center -> ``seen`` or ``unseen``."""
        roles = self.samples[0].drop_duplicates("center").set_index("center")["role"]
        return {str(center): scope for scope, role in ROLES.items() for center in roles.index[roles == role]}


def methods_of(arguments: Sequence[str]) -> list[Method]:
    """Run folders, or NAME=FOLDER,FOLDER for the runs of a method, as methods in the order given; or one study.

    A name that is not given is what tells the method's scenario from the others: a value, else one or two keys and
    their values, else the first run's folder. Raises UserError for what is no finished run, for a run given twice, for
    two methods of one name, for a named method whose runs differ in more than the seed, and for runs that saw other
    images under the same names.
    """
    studies = [Study(argument) for argument in arguments if Study.there(Path(argument))]
    if len(studies) == 1 == len(arguments):
        return of_study(studies[0])
    if studies:
        raise UserError(f"{studies[0].folder} is a study: compare one study, or run folders")
    folders = [(name, Path(folder)) for argument in arguments for name, folder in _parts(argument)]
    runs = [(name, Run(folder)) for name, folder in folders]
    settings = _settings([run for _, run in runs])
    _refuse_twice([run for _, run in runs], settings)
    _refuse_other_images([run for _, run in runs])
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


def of_study(study: Study) -> list[Method]:
    """A study's methods, each with the seeds of which all its runs are finished; without those that have none yet.

    A table a seed: every run's test records under its best round. Whoever trained is ``seen``; where a center trains in
    one run and is held out in another, what it is when it trains is called ``CENTER (seen)``. Of a hospital that
    trains alone its own test images count, and those of the centers that are held out; an image that several runs were
    tested on is scored by their mean.
    """
    index, external = study.index, study.protocol.external
    methods = []
    for name, every in index.groupby("method", sort=False):
        cells = every[["holdout", "hospital"]].drop_duplicates()
        of_seed = {seed: own for seed, own in every[every["chosen"]].groupby("seed") if len(own) == len(cells)}
        rows = [row for own in of_seed.values() for row in own.itertuples()]
        runs = tuple(study.run(row.run) for row in rows)
        tables = []
        for own in of_seed.values():
            parts = [_counted(study.run(row.run), {*row.holdout.split("+"), *external}) for row in own.itertuples()]
            tables.append(_told_apart(pd.concat(parts, ignore_index=True)))
        if tables:
            methods.append(Method(str(name), runs, tuple(run.result["best_round"] for run in runs), tuple(tables), ()))
    _refuse_other_images([run for method in methods for run in method.runs])
    if not methods:
        command = "sweep" if study.scenario.sweep else "run"
        raise UserError(f"{study.folder}: no method has finished a seed yet; `fedkvasir {command}` goes on with it")
    return methods


def _counted(run: Run, holdouts: set[str]) -> pd.DataFrame:
    samples = _records(run)
    tested = samples[(samples["checkpoint"] == "best") & (samples["split"] == "test")]
    return tested[(tested["role"] == "train") | tested["center"].isin(holdouts)]


def _told_apart(records: pd.DataFrame) -> pd.DataFrame:
    both = records.groupby("center")["role"].transform("nunique") > 1
    seen = both & (records["role"] == "train")
    return records.assign(center=records["center"].mask(seen, records["center"] + SEEN))


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
    return Method(name, tuple(runs), best_rounds, tuple(map(_records, runs)), differs)


def _records(run: Run) -> pd.DataFrame:
    return run.records.assign(run=run.plan.hash)


def _seed(run: Run) -> int:
    return run.plan.scenario.seed


def _settings(runs: Sequence[Run]) -> list[dict[str, str]]:
    """Of every run; where other listings of the same datasets alone tell two apart, ``images``, a hash of them, too.

    ``numbers``: where a fedkvasir of before a change of numbers ran one of them.
    """
    settings = [flat(run.plan.scenario.decisive()) | {"numbers": str(run.plan.numbers)} for run in runs]
    settings = [{key: value for key, value in own.items() if key != "seed"} for own in settings]
    listed = [json.dumps(run.plan.catalogs, sort_keys=True) for run in runs]
    texts = [json.dumps(own, sort_keys=True) for own in settings]
    if len(set(zip(texts, listed, strict=True))) == len(set(texts)):
        return settings
    hashes = [hashlib.sha256(text.encode()).hexdigest()[:8] for text in listed]
    return [own | {"images": own_hash} for own, own_hash in zip(settings, hashes, strict=True)]


def _refuse_twice(runs: Sequence[Run], settings: Sequence[Settings]) -> None:
    seen: dict[str, Run] = {}
    for run, own in zip(runs, settings, strict=True):
        before = seen.setdefault(json.dumps([own, _seed(run)], sort_keys=True), run)
        if before is not run:
            same = before.folder.resolve() == run.folder.resolve()
            what = f"{run.folder} is given twice" if same else f"{before.folder} and {run.folder} are the same run"
            raise UserError(f"{what}; a run counts once")


def _refuse_other_images(runs: Sequence[Run]) -> None:
    """Images are paired by their names: what was tested must be the same image under the same name."""
    known: dict[tuple[str, frozenset[tuple[str, str]]], Run] = {}
    for run in runs:
        alone = run.plan.scenario.federation.train
        for center, own in run.plan.samples.groupby("center")[["split", "sample"]]:
            # Where one hospital trains alone the plan lists less of the others, whose pixels are of all that they hold.
            if alone in WHOLE or alone == center:
                held = frozenset(own.itertuples(index=False, name=None))  # their hash is by split, then by name
                before = known.setdefault((str(center), held), run)
                if before.plan.pixels[str(center)] != run.plan.pixels[str(center)]:
                    raise UserError(
                        f"{before.folder} and {run.folder} saw other images or masks of {center} under the same names; "
                        "run the older one again, with --fresh"
                    )


def _differing(settings: Sequence[Settings]) -> list[str]:
    """Keys whose value is not that of all, those that name a method first."""
    return sorted(differing(settings), key=lambda key: NAMING.index(key) if key in NAMING else len(NAMING))


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
