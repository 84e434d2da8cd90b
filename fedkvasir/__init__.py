"""fedkvasir: train hospitals together, test a hospital that took no part."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedkvasir.runs import Run

__version__ = "0.1.0"


def run(scenario: Any, *, data: Any = None, out: Any = "runs", engine: str = "ray", **overrides: Any) -> "Run":
    """Run a scenario from Python, or open it if it is finished; see :func:`fedkvasir.simulation.run_scenario`."""
    from fedkvasir.simulation import run_scenario  # the composition root; heavy imports wait until they are needed

    texts = tuple(f"{key}={value}" for key, value in overrides.items())
    return run_scenario(scenario, texts, data=data, out=out, engine=engine)
