"""One file an algorithm; a name in a scenario becomes an object here."""

from dataclasses import fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from fedkvasir import scenario
from fedkvasir.algorithms.base import Algorithm
from fedkvasir.algorithms.cyclic import Cyclic
from fedkvasir.algorithms.fedadam import FedAdam
from fedkvasir.algorithms.fedavg import FedAvg
from fedkvasir.algorithms.fedbn import FedBN
from fedkvasir.algorithms.fedprox import FedProx
from fedkvasir.algorithms.scaffold import Scaffold
from fedkvasir.errors import UserError

ALGORITHMS: dict[str, type[Algorithm]] = {
    "fedavg": FedAvg,
    "fedprox": FedProx,
    "fedbn": FedBN,
    "fedadam": FedAdam,
    "scaffold": Scaffold,
    "cyclic": Cyclic,
}


def build_algorithm(spec: scenario.Algorithm) -> Algorithm:
    """The algorithm of a scenario. Raises UserError for an unknown name or parameter, with the nearest spelling, and
    for a value that the parameter cannot have."""
    if spec.name not in ALGORITHMS:
        near = scenario.did_you_mean(spec.name, list(ALGORITHMS))
        raise UserError(f"algorithm: unknown name {spec.name!r}{near}; known: {', '.join(ALGORITHMS)}")
    kind = ALGORITHMS[spec.name]
    allowed: dict[str, Any] = {field.name: field.type for field in fields(kind)}
    for key, value in spec.parameters.items():
        if key not in allowed:
            takes = ", ".join(allowed) or "no parameters"
            near = scenario.did_you_mean(key, list(allowed))
            raise UserError(f"algorithm.{key}: {spec.name} does not take it{near}; it takes {takes}")
        try:
            TypeAdapter[Any](allowed[key]).validate_python(value, strict=True)
        except ValidationError as error:
            wanted = error.errors()[0]["msg"].removeprefix("Input should be ")
            raise UserError(f"algorithm.{key} = {value!r}: should be {wanted}") from error
    return kind(**{key: float(value) for key, value in spec.parameters.items()})
