"""What was tried of every method, what was chosen, and how much depends on each thing that was varied."""

from collections.abc import Sequence

import pandas as pd

from fedkvasir.evaluation.importance import importance
from fedkvasir.evaluation.protocol import headline
from fedkvasir.report.centers import TITLES
from fedkvasir.report.tables import Column, Row, Table, without_empty
from fedkvasir.study import Study
from fedkvasir.sweep import axes_of, explores, tried

CELL = ["method", "holdout", "hospital"]
SEARCHES = {
    "grid": "all combinations",
    "random": "combinations drawn at random, the same of what methods have in common",
    "optuna": "combinations drawn near those that did well (Optuna), by method",
}


def settings_table(index: pd.DataFrame, study: Study) -> Table | None:
    """Every setting that was tried and what came of it; None where every method has one only."""
    judged = _judged(index, study)
    groups = list(judged.groupby([*CELL, "setting"], sort=False))
    if len(groups) == len(judged.groupby(CELL)):
        return None
    rows, unchosen = [], _unchosen(judged)
    for (method, holdout, hospital, setting), own in groups:
        done = own[own["state"] == "finished"]
        other = ", ".join(dict.fromkeys(own.loc[own["state"] != "finished", "state"]))
        outcome = other
        if own["chosen"].any():
            outcome = "stands, unchosen" if (method, holdout, hospital) in unchosen else "chosen"
        cells = (holdout, hospital, setting, float(done["validation"].mean()), len(done), outcome)
        rows.append(Row(method, "", cells))
    titles = ("Held out", "Trains alone", "Setting", f"Validation {_metric(study)}", "Seeds", "Outcome")
    return without_empty(Table("Settings that were tried", tuple(map(Column, titles)), tuple(rows), head="Method"))


def importance_table(index: pd.DataFrame, study: Study) -> Table | None:
    """What explains the spread of the validation score; None where nothing was tried but methods and seeds."""
    tuned = _axes(study)
    judged = _judged(index, study)
    runs = judged[(judged["state"] == "finished") & (judged["hospital"] == "")]
    if not tuned or runs.empty:
        return None
    columns = {key: values for key in tuned if (values := _values(runs, key)) is not None}
    varied = [name for name in ("method", "holdout", "seed") if runs[name].nunique() > 1]
    drawn = study.scenario.sweep.ranges if study.scenario.sweep else ()
    found = importance(runs[["validation", *varied]].assign(**columns), [*varied, *columns], "validation", drawn)
    rows = tuple(Row(row.axis, "", (row.levels, row.runs, row.share)) for row in found.itertuples())
    caption = f"How much of the spread of validation {_metric(study)} over runs each axis explains alone"
    return Table(caption, (Column("Levels"), Column("Runs"), Column("Share")), rows, head="Axis")


def sentences(index: pd.DataFrame, study: Study, clean: bool) -> Sequence[str]:
    """What was tried, whether of every method the same, and how the best was chosen; clean: nothing is on both sides
    of train and test."""
    scenario = study.scenario
    counts = {cell.method: len(points) for cell, points in tried(scenario)}
    seeds = study.protocol.seeds
    judged = _judged(index, study)
    of_setting = judged[judged["state"].isin(["finished", "stopped"])].groupby([*CELL, "setting"])["seed"].nunique()
    ran = (of_setting == judged["seed"].nunique()).groupby(CELL).sum()
    ran = ran.reindex(pd.MultiIndex.from_frame(judged[CELL].drop_duplicates()), fill_value=0).groupby("method").min()
    short = [f"{ran[method]} of {count} of {method}" for method, count in counts.items() if ran[method] < count]
    if short:
        said = f"Not all settings could be run, or are yet: {', '.join(short)}; methods are not tuned alike"
    elif len(set(counts.values())) == 1:
        said = f"The same number of settings, {next(iter(counts.values()))}, was tried of every method"
    else:
        listed = ", ".join(f"{count} of {method}" for method, count in counts.items())
        said = f"Not the same number of settings was tried of every method: {listed} (sweep.budget makes it the same)"
    sweep = scenario.sweep
    varied = "; ".join(f"{key} at {', '.join(map(str, values))}" for key, values in study.protocol.tune.items())
    how = SEARCHES[sweep.search] if sweep else varied
    if sweep and sweep.search == "grid" and sweep.budget:
        how += f", or {sweep.budget} drawn at random where there are more"
    texts = [f"{said}: {how}"]
    if sweep and sweep.stop:
        stopped = int((index["state"] == "stopped").sum())
        texts.append(f"ASHA stopped {stopped} of {len(index)} runs, which were behind others of their method")
    metric = _metric(study)
    whose = "Those that were finished" if short or (sweep and sweep.stop) else "All of them"
    if explores(scenario):
        text = f"{whose} ran with seed {seeds[0]}, and the one with the best validation {metric} is what counts"
        texts.append(text + (", and what every other seed runs with" if len(seeds) > 1 else ""))
    else:
        if len(seeds) == 1:
            lead = f"{whose} ran, and the one with the best"
        elif short:
            lead = "Of those that were finished with the most seeds the one with the best mean"
        else:
            lead = f"{whose} ran with {len(seeds)} seeds, and the one with the best mean"
        texts.append(f"{lead} validation {metric} is what counts")
    if blind := list(dict.fromkeys(method for method, *_ in _unchosen(judged))):
        texts.append(
            f"Where no setting of {' and '.join(blind)} has a validation {metric}, none could be chosen: the first "
            "that was finished stands"
        )
    return [*texts, *(["No test image and no holdout had a say"] if clean else [])]


def _unchosen(judged: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Cells of which several settings are finished, and none has a validation score."""
    cells = judged[judged["state"] == "finished"].groupby(CELL, sort=False)
    return [cell for cell, own in cells if own["setting"].nunique() > 1 and own["validation"].isna().all()]


def _axes(study: Study) -> list[str]:
    """Keys whose values were tried."""
    if study.scenario.sweep is None:
        return list(study.protocol.tune)
    return list(dict.fromkeys(key for cell, _ in tried(study.scenario) for key in axes_of(study.scenario, cell)))


def _values(runs: pd.DataFrame, key: str) -> pd.Series | None:
    """What was tried of a key, or of the keys in its group, by run; missing where a method has no such key, None where
    all have the same. The index keeps texts."""
    inside = [name for name in runs.columns if name == key or name.startswith(f"{key}.")]
    if not inside:
        return None
    texts = runs[inside].agg(" ".join, axis=1) if inside != [key] else runs[key]
    texts = texts.replace("", "none") if key == "faults" else texts
    there = texts.where(texts != "")
    numbers = pd.to_numeric(there, errors="coerce")
    return numbers if numbers.notna().equals(there.notna()) else there


def _judged(index: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Runs that settings are chosen by."""
    return index[index["seed"] == study.protocol.seeds[0]] if explores(study.scenario) else index


def _metric(study: Study) -> str:
    return TITLES[headline(study.scenario.task)]
