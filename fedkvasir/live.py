"""A sweep as it goes: a table on a terminal, a line for every run elsewhere."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fedkvasir.console import Screen, duration
from fedkvasir.study import Line

OVER = ("finished", "stopped", "failed")
"""States of a run that nothing is left to be done of."""


class LiveTable:
    """Told of every line that changes; see :meth:`~fedkvasir.study.Study.carry_out`."""

    def __init__(self, screen: Screen) -> None:
        self.screen, self.lines, self.of = screen, dict[int, Line](), 0
        self.begun = set[int]()
        """Of lines that were run here, not finished before."""
        self.began_s, self._live = time.monotonic(), Live(console=screen.console, auto_refresh=False, transient=True)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """On a terminal, unless the screen is quiet, stand there while the block runs."""
        if self.screen.quiet or not self.screen.console.is_terminal:
            yield
            return
        with self._live:
            yield

    def __call__(self, line: Line, number: int, of: int) -> None:
        self.lines[number], self.of = line, of
        if line.state == "running":
            self.begun.add(number)
        if self._live.is_started:
            self._live.update(Group(self.table(), Text(self.status())), refresh=True)
        if line.state in OVER:
            self.screen.line(line, number, of)

    def status(self) -> str:
        """How much is done, and how long the rest takes if it goes on as it went."""
        over = sum(line.state in OVER for line in self.lines.values())
        running = sum(line.state == "running" for line in self.lines.values())
        here = sum(self.lines[number].state in OVER for number in self.begun)
        left_s = (time.monotonic() - self.began_s) / here * (self.of - over) if here else None
        text = f"{over} of {self.of} runs done, {running} running"
        return text + (f", about {duration(left_s)} left" if left_s else "")

    def table(self) -> Table:
        """A row a method: its runs by state, and its best one so far by validation."""
        view = Table(box=None, pad_edge=False, header_style="bold")
        for title in ("method", "running", "finished", "stopped", "failed", "best validation so far"):
            view.add_column(title, justify="left" if title in ("method", "best validation so far") else "right")
        for method in dict.fromkeys(line.point.method for _, line in sorted(self.lines.items())):
            own = [line for line in self.lines.values() if line.point.method == method]
            states = Counter(line.state for line in own)
            done = [line for line in own if line.state == "finished" and line.validation == line.validation]
            best = max(done, key=lambda line: line.validation, default=None)
            said = f"{best.validation:.3f} {best.point.setting or f'seed {best.point.seed}'}" if best else ""
            view.add_row(escape(method), *(str(states[state]) for state in ("running", *OVER)), escape(said))
        return view
