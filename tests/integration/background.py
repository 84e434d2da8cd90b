"""`fedkvasir` in a process of its own, which the tests watch, stop and kill."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil


def command_of(process: psutil.Process) -> str:
    """What it runs; nothing of one that is gone."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


class Background:
    """One command; its runs go into ``out``, what it says is added to a log beside that."""

    def __init__(self, out: Path, name: str, *words: str) -> None:
        command = [str(Path(sys.executable).with_name("fedkvasir")), name, *words, "--out", str(out)]
        self.log, self.out = out.parent / f"{name}.log", out
        self.process = subprocess.Popen(command, stdout=self.log.open("a"), stderr=subprocess.STDOUT)

    def wait_for(self, happened: Callable[[], object]) -> None:
        end = time.monotonic() + 120
        while not happened():
            assert self.process.poll() is None, f"ended too early:\n{self.log.read_text()}"
            if time.monotonic() > end:
                self.process.kill()
                raise AssertionError(f"it never happened:\n{self.log.read_text()}")
            time.sleep(0.01)

    def committed(self, number: int) -> bool:
        return any(self.out.glob(f"*/checkpoints/{number:04d}.safetensors"))

    def children(self, word: str) -> list[psutil.Process]:
        """Processes below it whose command has the word in it."""
        below = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in below if word in command_of(child)]
