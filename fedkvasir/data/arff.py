"""ARFF (attribute-relation file format): the tables that WEKA reads and writes.

Dense rows of numeric, string and nominal attributes; dates, nested relations and sparse rows are refused.
https://waikato.github.io/weka-wiki/formats_and_processing/arff_stable/
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fedkvasir.errors import UserError

NUMERIC = ("numeric", "real", "integer")
QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
HOLE = "\0"
"""Stands where a quoted value was: no text holds it."""
ATTRIBUTE = re.compile(rf"@attribute\s+({QUOTED.pattern}|[^\s'\"{{]+)(?:\s+|(?=\{{))(\{{.*\}}|[a-z].*)", re.IGNORECASE)
FINITE = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Attribute:
    """A column: numeric, a string, or one of the ``values`` of a nominal."""

    name: str
    kind: str
    """numeric, string or nominal"""
    values: frozenset[str] = frozenset()


def read_header(path: Path) -> tuple[Attribute, ...]:
    """The attributes in order. Raises UserError that names file and line."""
    return _header(path, _lines(path))


def read_arff(path: Path) -> pd.DataFrame:
    """One row an instance, one column an attribute: float32 or, for strings and nominals, object.

    ``?`` is NaN or None. Raises UserError that names file and line for everything that is not as declared.
    """
    lines = _lines(path)
    attributes = _header(path, lines)
    numeric = [place for place, attribute in enumerate(attributes) if attribute.kind == "numeric"]
    texts = [place for place, attribute in enumerate(attributes) if attribute.kind != "numeric"]
    names = [attributes[place].name for place in numeric]
    numbers: list[np.ndarray] = []
    words: list[list[str | None]] = []
    for number, line in lines:
        if line.startswith("{"):
            raise UserError(
                f"{path} line {number} is a sparse row; save the file with dense rows (in WEKA SparseToNonSparse)"
            )
        cells = _cells(path, number, line)
        if len(cells) != len(attributes):
            raise UserError(f"{path} line {number} holds {len(cells)} values for {len(attributes)} attributes")
        numbers.append(_numbers(f"{path} line {number}", names, [cells[place] for place in numeric]))
        for attribute, value in ((attributes[place], cells[place]) for place in texts):
            if attribute.kind == "nominal" and value is not None and value not in attribute.values:
                raise UserError(f"{path} line {number}: {attribute.name} = {value!r} is none of its declared values")
        words.append([cells[place] for place in texts])
    if not numbers:
        raise UserError(f"{path} holds no row after @data")
    table = pd.DataFrame(np.stack(numbers), columns=names)
    columns = zip(*words, strict=True) if texts else ()
    others = {attributes[place].name: list(column) for place, column in zip(texts, columns, strict=True)}
    return table.join(pd.DataFrame(others, dtype=object))[[attribute.name for attribute in attributes]]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are neither empty nor a comment, with their numbers."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                text = line.replace(HOLE, "").strip()
                if text and not text.startswith("%"):
                    yield number, text
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as text: {error}") from error


def _header(path: Path, lines: Iterator[tuple[int, str]]) -> tuple[Attribute, ...]:
    """Everything up to ``@data``; the iterator is left at the first row."""
    attributes: list[Attribute] = []
    related = False
    for number, line in lines:
        keyword = line.split(maxsplit=1)[0].lower()
        if keyword == "@relation":
            related = True
        elif not related:
            raise UserError(f"{path} line {number}: an ARFF file begins with @relation, here: {line[:40]!r}")
        elif keyword == "@attribute":
            attributes.append(_attribute(path, number, line))
            if attributes[-1].name in (attribute.name for attribute in attributes[:-1]):
                raise UserError(f"{path} line {number}: a second attribute {attributes[-1].name!r}")
        elif keyword == "@data":
            if not attributes:
                raise UserError(f"{path} line {number}: @data without an @attribute before it")
            return tuple(attributes)
        else:
            raise UserError(f"{path} line {number}: @attribute or @data is due, here: {line[:40]!r}")
    raise UserError(f"{path} ends without @data: it is not an ARFF file, or cut short")


def _attribute(path: Path, number: int, line: str) -> Attribute:
    found = ATTRIBUTE.fullmatch(line)
    if not found:
        raise UserError(f"{path} line {number}: not `@attribute name type`: {line[:60]!r}")
    name, kind = _plain(found[1]), found[2]
    if kind.startswith("{"):
        values = _cells(path, number, kind[1:-1])
        return Attribute(name, "nominal", frozenset(value for value in values if value is not None))
    if kind.lower() in NUMERIC:
        return Attribute(name, "numeric")
    if kind.lower() == "string":
        return Attribute(name, "string")
    raise UserError(
        f"{path} line {number}: {name} is of type {kind}; read are {', '.join(NUMERIC)}, string and {{nominal, values}}"
    )


def _cells(path: Path, number: int, line: str) -> list[str | None]:
    """The values of a row; null for an unquoted question mark.

    What is quoted is taken out first: the rest is cut at its commas, a thousand values at once.
    """
    quoted = QUOTED.findall(line)
    rest = QUOTED.sub(HOLE, line)
    cells = [cell.strip() for cell in rest.split(",")]
    holes = [place for place, cell in enumerate(cells) if cell == HOLE]
    if len(holes) != len(quoted) or "'" in rest or '"' in rest:
        odd = next(place for place, cell in enumerate(cells) if cell != HOLE and set(cell) & {HOLE, "'", '"'})
        raise UserError(f"{path} line {number}: value {odd + 1} has a quote that does not fit")
    if "" in cells:
        raise UserError(f"{path} line {number}: value {cells.index('') + 1} is empty; a missing one is written ?")
    values = [None if cell == "?" else cell for cell in cells]
    for place, text in zip(holes, quoted, strict=True):
        values[place] = _plain(text)
    return values


def _plain(text: str) -> str:
    """Without quotes and escapes."""
    return re.sub(r"\\(.)", r"\1", text[1:-1]) if text[:1] in ("'", '"') else text


def _numbers(where: str, names: list[str], texts: list[str | None]) -> np.ndarray:
    """(N,) float32; NaN where missing."""
    with np.errstate(over="ignore"):  # too large for float32 is named below
        try:
            values = np.array(texts, dtype=np.float32)  # null becomes NaN
        except ValueError:
            values = np.full(len(texts), np.inf, np.float32)
        if not np.isfinite(values).all():
            for name, text in zip(names, texts, strict=True):
                if text is not None and not (FINITE.fullmatch(text) and np.isfinite(np.float32(text))):
                    raise UserError(f"{where}: {name} = {text[:40]!r} is not a number")
    return values
