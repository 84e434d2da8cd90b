"""A table once, shown anywhere: HTML, a terminal, Markdown, LaTeX, CSV."""

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import zip_longest
from typing import NamedTuple

RENDERED = "Rendered data: every picture was drawn by a program. No figure here says anything about patients."
MINUS, NOTHING = "\u2212", "–"
TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    MINUS: "$-$", NOTHING: "--",
}  # fmt: skip


class Interval(NamedTuple):
    """The ends of a 95 % interval; NaN where there is none."""

    low: float
    high: float


class Estimate(NamedTuple):
    """A score and its 95 % interval; NaN where there is none."""

    value: float
    low: float
    high: float


Value = str | int | float | Interval | Estimate


def decimals(number: int, value: float) -> str:
    """So many decimals, a true minus sign, a dash where there is no value."""
    return f"{value:z,.{number}f}".replace("-", MINUS) if math.isfinite(value) else NOTHING


WHOLE, ONE, TWO = (partial(decimals, number) for number in range(3))


def three_decimals(value: float) -> str:
    return decimals(3, value)


def p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else decimals(2 if p >= 0.1 else 3, p)


def bracket(low: float, high: float, shown: Callable[[float], str] = three_decimals) -> str:
    """``[0.731, 0.812]``; nothing where there is no interval."""
    return f"[{shown(low)}, {shown(high)}]" if math.isfinite(low) else ""


@dataclass(frozen=True)
class Column:
    title: str
    shown: Callable[[float], str] = three_decimals
    """How its numbers are written for people; CSV has six digits."""


@dataclass(frozen=True)
class Row:
    head: str
    role: str
    """train, holdout, or empty for a line that is no center."""
    cells: tuple[Value, ...]
    link: str = ""
    """Where the head leads to, in HTML."""


@dataclass(frozen=True)
class Table:
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    footer: tuple[Row, ...] = ()
    head: str = "Center"
    warnings: tuple[str, ...] = ()
    """Sentences without which its numbers mislead; every form of it but CSV has them below."""
    notes: tuple[str, ...] = ()
    """How its numbers were made."""

    @property
    def titles(self) -> tuple[str, ...]:
        return tuple(column.title for column in self.columns)

    def texts(self, row: Row) -> tuple[str, ...]:
        """The row's cells as people read them."""
        return tuple(_text(value, column) for value, column in zip(row.cells, self.columns, strict=True))

    def is_text(self, index: int) -> bool:
        """A column of words, to be aligned at the left."""
        return all(isinstance(row.cells[index], str) for row in self.rows)

    def is_estimate(self, index: int) -> bool:
        """A column of scores with their intervals."""
        return any(isinstance(row.cells[index], Estimate) for row in self.rows)


def number(value: Value) -> float | None:
    """What a table is sorted by; None for words and for what has no value."""
    found = value[0] if isinstance(value, tuple) else value
    return found if not isinstance(found, str) and math.isfinite(found) else None


def markdown(tables: Sequence[Table]) -> str:
    """Pipe tables, for a README."""
    return "\n".join(map(_markdown, tables))


def latex(tables: Sequence[Table]) -> str:
    """Tables of the package booktabs, for a paper."""
    return "\n".join(map(_latex, tables))


def csv_text(table: Table) -> str:
    """Comma-separated, an interval in two columns, low and high; numbers with six digits."""
    kinds = [_kind(table, index) for index in range(len(table.columns))]
    titles = [
        f"{title}, {end}" if end else title
        for title, kind in zip(table.titles, kinds, strict=True)
        for end in ENDS[kind]
    ]
    rows = [
        [row.head, *(part for value, kind in zip(row.cells, kinds, strict=True) for part in _parts(value, kind))]
        for row in (*table.rows, *table.footer)
    ]
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows([[table.head, *titles], *rows])
    return file.getvalue()


ENDS: dict[type, tuple[str, ...]] = {str: ("",), Interval: ("low", "high"), Estimate: ("", "low", "high")}
"""What a value of a kind is written as in CSV; all but intervals are one column."""


def _kind(table: Table, index: int) -> type:
    kinds = {type(row.cells[index]) for row in table.rows}
    return next((kind for kind in (Estimate, Interval) if kind in kinds), str)


def _parts(value: Value, kind: type) -> list[str]:
    values = value if isinstance(value, tuple) else (value,)
    return [_digits(part) for part, _ in zip_longest(values, ENDS[kind], fillvalue="")]


def _digits(value: str | int | float) -> str:
    if isinstance(value, str | int):
        return str(value)
    return f"{value:.6g}" if math.isfinite(value) else ""


def _text(value: Value, column: Column) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, Interval):
        return bracket(*value, column.shown) or NOTHING
    if isinstance(value, Estimate):
        return f"{column.shown(value.value)} {bracket(value.low, value.high, column.shown)}".rstrip()
    return f"{value:,}" if isinstance(value, int) else column.shown(value)


def _markdown(table: Table) -> str:
    lines = [f"**{table.caption}**", "", _pipes((table.head, *table.titles))]
    sides = [":--", *(":--" if table.is_text(index) else "--:" for index in range(len(table.columns)))]
    lines.append(_pipes(sides))
    lines += [_pipes((row.head, *table.texts(row))) for row in (*table.rows, *table.footer)]
    lines += [line for text in (*table.warnings, *table.notes) for line in ("", text)]
    return "\n".join(lines) + "\n"


def _pipes(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _latex(table: Table) -> str:
    sides = "l" + "".join("l" if table.is_text(index) else "r" for index in range(len(table.columns)))
    lines = [r"\begin{table}", r"\centering", rf"\caption{{{_tex(table.caption)}}}", rf"\begin{{tabular}}{{{sides}}}"]
    lines += [r"\toprule", _ampersands((table.head, *table.titles)), r"\midrule"]
    lines += [_ampersands((row.head, *table.texts(row))) for row in table.rows]
    if table.footer:
        lines += [r"\midrule", *(_ampersands((row.head, *table.texts(row))) for row in table.footer)]
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\raggedright\footnotesize {_tex(text)}" for text in (*table.warnings, *table.notes)]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _ampersands(cells: Sequence[str]) -> str:
    return " & ".join(map(_tex, cells)) + r" \\"


def _tex(text: str) -> str:
    return "".join(TEX.get(character, character) for character in text)


def without_empty(table: Table) -> Table:
    """Without columns of words that no row has."""
    kept = [index for index in range(len(table.columns)) if any(row.cells[index] != "" for row in table.rows)]
    rows = (Row(row.head, row.role, tuple(row.cells[index] for index in kept), row.link) for row in table.rows)
    return replace(table, columns=tuple(table.columns[index] for index in kept), rows=tuple(rows), footer=())
