"""One file an algorithm; a name in a scenario becomes an object here."""

from dataclasses import fields

from fedkvasir import scenario
from fedkvasir.algorithms.base import Algorithm
from fedkvasir.algorithms.cyclic import Cyclic
from fedkvasir.algorithms.fedadam import FedAdam
from fedkvasir.algorithms.fedavg import FedAvg
from fedkvasir.algorithms.fedbn import FedBN
from fedkvasir.algorithms.fedprox import FedProx
from fedkvasir.algorithms.scaffold import Scaffold
from fedkvasir.errors import UserError, did_you_mean

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
        near = did_you_mean(spec.name, list(ALGORITHMS))
        raise UserError(f"algorithm: unknown name {spec.name!r}{near}; known: {', '.join(ALGORITHMS)}")
    kind = ALGORITHMS[spec.name]
    return kind(**spec.checked({field.name: field.type for field in fields(kind)}, "algorithm"))
