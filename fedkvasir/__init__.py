"""fedkvasir: train hospitals together, test a hospital that took no part."""

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedkvasir.runs import Run

__version__ = "0.1.0"


def run(scenario: Any, *, data: Any = None, out: Any = "runs", engine: str = "ray", **overrides: Any) -> "Run":
    """Run a scenario from Python, or open it if it is finished; see :func:`fedkvasir.simulation.run_scenario`.

    overrides: values as Python has them; a text is read as on the command line. Raises UserError also for a scenario
    with a ``protocol:`` block, which is several runs.
    """
    from fedkvasir.errors import UserError
    from fedkvasir.scenario import load
    from fedkvasir.simulation import run_scenario  # the composition root; heavy imports wait until they are needed

    texts = tuple(
        f"{key}={value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)}"
        for key, value in overrides.items()
    )
    if load(scenario, texts).protocol:
        raise UserError(f"{scenario} has a protocol:, which `fedkvasir run` carries out; of one run say protocol=None")
    return run_scenario(scenario, texts, data=data, out=out, engine=engine)
