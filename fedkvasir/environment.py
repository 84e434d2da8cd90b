"""What a run is computed with: versions and machine, of which the last digits of its numbers hang."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

PACKAGES = ("fedkvasir", "torch", "flwr", "ray", "numpy", "segmentation-models-pytorch", "timm", "albumentations")


def environment(engine: str, workers: int, because: str = "") -> dict[str, Any]:
    """Versions and machine, as recorded with every run."""
    import torch

    return {
        "engine": engine,
        "workers": workers,
        "workers_because": because,
        "notes": [],
        "versions": {name: version(name) for name in PACKAGES if name != "ray" or engine != "local"},
        "python": platform.python_version(),
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            # What torch's own kernels are chosen by: the last digits of a sum, and so the bits of a run, hang on it.
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "cores": os.cpu_count(),
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        },
    }


def computes_with() -> dict[str, str]:
    """What the last digits of a hospital's numbers hang on: versions, and what torch's own kernels are chosen by."""
    import torch

    own = {name: version(name) for name in PACKAGES if name != "ray"}
    return own | {"python": platform.python_version(), "instructions": torch.backends.cpu.get_cpu_capability()}


def moved(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs, of all that bits hang on, from where a run was before it went on here."""
    earlier, here = ({**facts["machine"], **facts["versions"], "python": facts["python"]} for facts in (before, now))
    differs = [
        f"{name} {_listed(earlier[name])}, now {_listed(here[name])}"
        for name in ("processor", "instructions", "gpus", *PACKAGES, "python")
        if name in earlier and name in here and earlier[name] != here[name]
    ]
    return [f"it went on elsewhere than it was begun: {'; '.join(differs)}"] if differs else []


def _listed(value: str | list[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value) or "none"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
