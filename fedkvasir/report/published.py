"""What papers printed, beside what a run found: one table out of a run and a file of fedkvasir/published.

A number of ours is measured as theirs is where the records allow it: on the same part of the data, by the same metric
and reduction. Where a run holds no such part the cell is a dash. What remains different the file says in words.
"""

import math
from functools import partial
from typing import Literal

import yaml
from pydantic import Field

from fedkvasir.evaluation.protocol import is_shared
from fedkvasir.evaluation.suite import suite
from fedkvasir.plan import Plan
from fedkvasir.report.tables import Column, Row, Table, decimals
from fedkvasir.runs import Run
from fedkvasir.scenario import PUBLISHED, Frozen

OURS, THEIRS = "ours", "published"
SPLITS = {"train": "to train", "val": "to validate", "test": "to test"}


class Metric(Frozen):
    """A value of :func:`fedkvasir.evaluation.suite.suite`."""

    kind: str = Field(alias="class")
    metric: str
    reduction: str


class Place(Frozen):
    """Whose images a number is about."""

    dataset: str
    role: Literal["train", "holdout"]
    """train: of the hospitals whose other images were trained on; holdout: of those that took no part."""
    centers: tuple[str, ...] = ()
    """The dataset's own centers, all of which a run must hold; none: the dataset is taken whole."""
    lists: tuple[str, ...] = ()
    """What the scenario's `split` of the dataset must be, one of these; none: any."""
    options: dict[str, tuple[str, ...]] = Field(default={})
    """The reader's options that a run must have: they say which images are there."""
    split: Literal["test", "val"] = "test"


class Published(Frozen):
    """Numbers of one source, or of several that measured alike."""

    title: str
    sources: tuple[str, ...]
    setting: str
    """What they trained and how they scored, and where ours differs."""
    decimals: int = 3
    """As many as are printed."""
    metrics: dict[str, Metric]
    places: dict[str, Place]
    models: dict[str, dict[str, tuple[float | None, ...]]]
    """Model -> place -> one number a metric, in their order; what is not printed is left out, or null."""

    def number(self, model: str, place: str, metric: str) -> float:
        """What was printed; NaN where nothing was."""
        numbers = self.models[model].get(place, (None,) * len(self.metrics))
        found = numbers[list(self.metrics).index(metric)]
        return math.nan if found is None else found


def published_of(name: str | None) -> Published | None:
    """The file of this name, one of those that a scenario may have as its ``published``."""
    if name is None:
        return None
    return Published.model_validate(yaml.safe_load((PUBLISHED / f"{name}.yaml").read_text(encoding="utf-8")))


def published_table(run: Run) -> Table | None:
    """Ours (of an ensemble also its members'), then theirs, column by column; None where the scenario names nothing.

    One row a place and metric. Places of datasets that the scenario does not name are left out, unless all are.
    """
    found = published_of(run.plan.scenario.published)
    if found is None:
        return None
    datasets = {center.dataset for center in run.plan.scenario.data.centers.values()}
    places = [name for name, place in found.places.items() if place.dataset in datasets] or list(found.places)
    runs = {f"{name} ({OURS})": member for name, member in run.members.items()}
    runs |= {f"ensemble ({OURS})" if runs else OURS.capitalize(): run}
    ours = [_measured(one, found) for one in runs.values()]
    one_place = len(found.places) == 1
    rows = []
    for place in places:
        for metric in found.metrics:
            numbers = [own.get((place, metric), math.nan) for own in ours]
            numbers += [found.number(model, place, metric) for model in found.models]
            rows.append(Row(metric, "", tuple(numbers)) if one_place else Row(place, "", (metric, *numbers)))
    shown = partial(decimals, found.decimals)
    columns = [Column(title, shown) for title in (*runs, *(f"{model} ({THEIRS})" for model in found.models))]
    columns = columns if one_place else [Column("Metric"), *columns]
    caption = f"{OURS.capitalize()} beside {THEIRS}: {found.title}"
    head = "Metric" if one_place else "Images"
    warnings = ("Not comparable: ours are of rendered pictures, theirs of patients.",) if run.plan.rendered else ()
    held, size = run.plan.holdings[list(SPLITS)].sum(), run.plan.scenario.data.image_size
    counts = ", ".join(f"{held[split]:,} {words}" for split, words in SPLITS.items())
    notes = (
        f"{found.setting} A dash: not published, or not in this run.",
        f"Ours, in images of all hospitals: {counts}; the network saw {size} x {size} pixels.",
        f"Published in: {'. '.join(found.sources)}.",
    )
    return Table(caption, tuple(columns), tuple(rows), head=head, warnings=warnings, notes=notes)


def _measured(run: Run, published: Published) -> dict[tuple[str, str], float]:
    """(place, metric) -> what the run found there under its best round's weights."""
    records, values = run.records, {}
    # Test images are scored under `best`; validation images were, in the round that became it.
    checkpoints = {"test": "best", "val": str(run.result["best_round"])}
    for name, place in published.places.items():
        held = _held(run.plan, place)
        if is_shared(records) and len(held) > 1:
            continue  # images of several hospitals cannot be put together
        own = records[records["center"].isin(held)]
        table = suite(own.assign(center=name, role="train"), checkpoints[place.split], place.split)
        found = table.set_index(["class", "metric", "reduction"])["value"]
        for title, metric in published.metrics.items():
            values[name, title] = float(found.get((metric.kind, metric.metric, metric.reduction), math.nan))
    return values


def _held(plan: Plan, place: Place) -> list[str]:
    """The run's centers that hold the images of a place; none where a part of them is missing, where other images are
    tested than the published list names, and where labels were translated."""
    data, roles = plan.scenario.data, plan.centers["role"]
    if data.labels or (place.lists and data.split_file):
        return []
    sources = {name: data.centers.get(data.hospitals.get(name, name)) for name in roles.index[roles == place.role]}
    of_it = {name: source for name, source in sources.items() if source and source.dataset == place.dataset}
    held = {name: source.center for name, source in of_it.items()}
    options = data.options.get(place.dataset, {})
    wanted: set[str | None] = {*place.centers} or {None}
    if not wanted <= {*held.values()} or any(options.get(key) != [*given] for key, given in place.options.items()):
        return []
    if place.lists and not {source.split for source in of_it.values()} <= {*place.lists}:
        return []
    return [name for name, center in held.items() if center in wanted]
