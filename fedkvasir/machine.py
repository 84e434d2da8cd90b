"""What this process may use of the machine, within the limits of its control groups, and how it is ended."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
MEMORY = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
"""Limit and use, of control groups version 2 and version 1."""


def cores() -> int:
    """Processor cores this process may use: by affinity, and by the quota of its control groups, rounded down."""
    quotas = [_quota(folder) for folder in _groups()]
    return max(1, int(min([len(os.sched_getaffinity(0)), *(quota for quota in quotas if quota is not None)])))


def memory_bytes() -> int:
    """All the memory this process may use, in use or not."""
    limits = [_bytes(folder / name) for folder in _groups() for name, _ in MEMORY]
    return min([psutil.virtual_memory().total, *(limit for limit in limits if limit is not None)])


def free_memory_bytes() -> int:
    """What of it is free now; pages of files, which can be read again, count as free."""
    free = [psutil.virtual_memory().available]
    for folder in _groups():
        for limit_name, used_name in MEMORY:
            limit, used = _bytes(folder / limit_name), _bytes(folder / used_name)
            if limit is not None and used is not None:
                free.append(limit - used + _file_pages(folder))
    return max(0, min(free))


def peak_bytes() -> int:
    """The most memory that this process has had for itself; what it shares, libraries above all, is not counted."""
    now = psutil.Process().memory_full_info()
    status = Path("/proc/self/status").read_text()  # ru_maxrss begins with what the parent had
    peak = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))
    return peak - (now.rss - now.uss)


def sigterm_as_ctrl_c() -> None:
    """A scheduler that ends this process finds it stopped as by Ctrl-C; Ray has an answer of its own, to be replaced
    once it is started. Of the main thread alone."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _groups() -> Iterator[Path]:
    """Folders of this process's control groups and of those above them."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        root = CGROUPS / controllers  # version 2 names no controllers
        own = root / path.lstrip("/")
        yield from (folder for folder in (own, *own.parents) if folder.is_relative_to(root))


def _quota(folder: Path) -> float | None:
    """Cores; None without a limit."""
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = (_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    except OSError:
        return None
    return None if quota in ("max", "-1") else int(quota) / int(period)


def _bytes(path: Path) -> int | None:
    """A number of bytes; None where there is no such file, or no limit."""
    try:
        text = _text(path)
    except OSError:
        return None
    return None if text == "max" else int(text)


def _file_pages(folder: Path) -> int:
    facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return int(facts.get("total_inactive_file", facts.get("inactive_file", 0)))


def _text(path: Path) -> str:
    return path.read_text().strip()
