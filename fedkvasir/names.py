"""The names in a scenario against their registries: what is wrong is said before a pixel is read."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from fedkvasir.data.datasets import DATASETS, find_dataset
from fedkvasir.data.hospitals import options_of
from fedkvasir.data.labels import find_space
from fedkvasir.ensembles import members_of
from fedkvasir.ensembles import parse as parse_ensemble
from fedkvasir.errors import UserError, did_you_mean
from fedkvasir.scenario import LOCALS, Scenario, flat

if TYPE_CHECKING:
    from fedkvasir.algorithms.base import Algorithm


def check_names(scenario: Scenario) -> None:
    """Every name in the scenario against its registry. Raises UserError with the key and the nearest spelling."""
    # All that trains is behind these: who reads a plan does not wait for it.
    from fedkvasir.algorithms import build_algorithm
    from fedkvasir.data.augment import AUGMENTS
    from fedkvasir.losses import find_loss
    from fedkvasir.models import check_model

    find_loss(scenario.training.loss, scenario.task)
    if idle := next(scenario.idle(), None):
        (key, cause, default), given = idle, flat(scenario.model_dump(mode="json"))
        raise UserError(
            f"{key} = {given[key]} means nothing under {cause} = {given[cause]}; leave it out, or set its default, "
            f"{key}={json.dumps(default)}"
        )
    augment = scenario.training.augment
    if augment not in AUGMENTS:
        near = did_you_mean(augment, list(AUGMENTS))
        raise UserError(f"training.augment = {augment!r} is not known{near}; known: {', '.join(AUGMENTS)}")
    network = check_model(scenario.model, scenario.task, scenario.data.image_size)
    algorithm = build_algorithm(scenario.algorithm)
    algorithm.check(scenario, network)
    members = members_of(scenario.model, scenario.task)
    if members and scenario.federation.train == LOCALS:
        model = scenario.model.name
        raise UserError(f"federation.train = {LOCALS} takes one network, and model.name = {model} is several")
    if members or scenario.federation.train == LOCALS:
        _check_ensemble(scenario, algorithm)
    if scenario.data.labels:
        find_space(scenario.data.labels)
    for name, center in scenario.data.centers.items():
        dataset = find_dataset(center.dataset)
        if scenario.task not in dataset.tasks:
            tasks = ", ".join(dataset.tasks) or "prediction only, it has no labels"
            raise UserError(f"data.centers.{name}: {center.dataset} is for {tasks}")
    for key in ("roots", "options"):
        for name in getattr(scenario.data, key):
            if name not in DATASETS:
                raise UserError(f"data.{key}.{name}: there is no such dataset{did_you_mean(name, list(DATASETS))}")
    for name in scenario.data.options:
        options_of(scenario, name)
    hospitals = list(scenario.data.hospitals)
    for index, fault in enumerate(scenario.faults):
        if fault.center is not None and fault.center not in hospitals:
            near = did_you_mean(fault.center, hospitals)
            raise UserError(
                f"faults.{index}.center = {fault.center!r} is no hospital that trains{near}; "
                f"known: {', '.join(hospitals)}"
            )


def spelled_out(scenario: Scenario) -> Scenario:
    """The scenario with the defaults of algorithm, loss and network, which are with their code: a run is named by them,
    and its records tell them. Raises UserError for names and parameters as :func:`check_names`."""
    from fedkvasir.algorithms import build_algorithm
    from fedkvasir.losses import find_loss
    from fedkvasir.models import with_defaults

    loss, algorithm = scenario.training.loss, scenario.algorithm
    _, parameters = find_loss(loss, scenario.task)
    own = {
        "algorithm": type(algorithm)(name=algorithm.name, **asdict(build_algorithm(algorithm))),
        "training": scenario.training.model_copy(update={"loss": type(loss)(name=loss.name, **parameters)}),
        "model": with_defaults(scenario.model, scenario.task),
    }
    return scenario.model_copy(update=own)


def _check_ensemble(scenario: Scenario, algorithm: "Algorithm") -> None:
    from fedkvasir.algorithms.base import Algorithm

    if type(algorithm).local is not Algorithm.local or scenario.federation.buffers == "local":
        raise UserError(
            "model: members whose layers stay at their hospitals (fedbn, federation.buffers = local) cannot be formed "
            "into an ensemble; use an algorithm that shares them"
        )
    fusion = parse_ensemble(scenario.model, scenario.task)
    if fusion and fusion.fusion.name != "mean" and scenario.evaluation.select != "train-val":
        raise UserError(
            f"model.fusion = {fusion.fusion.name} is fitted on validation images: set evaluation.select=train-val"
        )
