"""Files appear whole or not at all, and a folder has one writer at a time."""

import csv
import errno
import fcntl
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from fedkvasir.errors import UserError

if TYPE_CHECKING:
    import pandas as pd


def write_atomic(path: Path, content: bytes | str, mode: int = 0o666) -> None:
    """Write a file under a temporary name, flush it to disk, rename it. The rename is the commit.

    mode: less the umask, from the first moment on: 0o600 for a secret.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        temporary.touch(mode, exist_ok=False)
        with temporary.open("wb") as handle:
            handle.write(content.encode() if isinstance(content, str) else content)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_yaml(path: Path, what: str, missing: str, folder: str, example: str) -> dict[str, Any]:
    """The keys of a YAML file that a person wrote.

    what: how the file is called in a sentence; missing, folder: what to do if it is not there, or is a folder; example:
    a line of such a file. Raises UserError for all of that, for what is no YAML or no keys, and for a key that stands
    twice, of which YAML itself silently takes the last.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Once)  # a safe loader
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{what} does not exist; {missing}") from error
    except IsADirectoryError as error:
        raise UserError(f"{what} is a folder; {folder}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{what} is not in UTF-8; save it as such") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{what} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{what} must hold keys and values, e.g. `{example}`")
    return raw


class _Once(yaml.SafeLoader):
    """Refuses a key that stands twice in its group."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice} stands twice", node.start_mark)
        return node


def read_json(path: Path) -> Any:
    """A JSON file that the program wrote. Raises UserError where it is gone, cut short or broken."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise unreadable(path) from error


def read_table(path: Path) -> "pd.DataFrame":
    """A Parquet file that the program wrote. Raises UserError where it is gone, cut short or broken."""
    import pandas as pd
    from pyarrow.lib import ArrowException

    try:
        return pd.read_parquet(path)
    except (OSError, ArrowException) as error:
        raise unreadable(path) from error


def read_csv(path: Path, **options: Any) -> "pd.DataFrame":
    """A CSV that a person may have edited; options: those of ``pandas.read_csv``.

    Raises pandas' ParserError also where the first row is longer than the header: pandas would take its first cell for
    a row's name, and every column would hold its neighbour's cells; and where a row is shorter, as the last one of a
    file that was cut is: pandas would take what is not there for an empty cell.
    """
    import pandas as pd

    table = pd.read_csv(path, **options)
    if not isinstance(table.index, pd.RangeIndex):
        raise pd.errors.ParserError(
            "its first row has more cells than its header: take out the comma at the end of the rows, "
            "or put quotes around a name with a comma in it"
        )
    for line, cells in csv_rows(path):
        if len(cells) < len(table.columns):
            lacking = f"line {line} has {len(cells)} of {len(table.columns)} cells: is the file cut short?"
            raise pd.errors.ParserError(lacking)
        if any("\0" in cell for cell in cells):
            raise pd.errors.ParserError(f"line {line} holds a zero byte: the file is damaged")
    return table


def csv_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The rows of a CSV below its header that are not blank, each with the number of its last line, from 1."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        rows = ((reader.line_num, cells) for cells in reader if len(cells) > 1 or "".join(cells).strip())
        yield from islice(rows, 1, None)


def unreadable(path: Path) -> UserError:
    """What is to be said of a file that the program wrote and cannot read."""
    what = "is cut short or broken" if path.exists() else "is gone"
    return UserError(f"{path} {what}; copy it again, or run again with --fresh (a sweep: without the run's folder)")


def unread(broken: Mapping[Path, str], total: int) -> UserError:
    """What is to be said, once the rest is done, of those of ``total`` files that could not be read; broken: why."""
    named = "; ".join(f"{path} ({reason})" for path, reason in list(broken.items())[:3])
    more = "; ..." if len(broken) > 3 else ""
    return UserError(f"{len(broken)} of {total} files could not be read to the end: {named}{more}")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``path`` if the block ends well, and vanishes if it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    temporary.mkdir(0o755)  # less the umask: what a hospital prepares is for its own account
    try:
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_unwritable(folder: Path, option: str) -> None:
    """Raises UserError where a folder cannot be made, or written into; nothing is left behind. option: its name."""
    try:
        there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        if error.errno == errno.ENOSPC:  # a full disk is nobody's mistake
            raise
        raise UserError(f"{option} {folder} cannot be written ({error.strerror}); name another folder") from error


def refuse_unwritable_file(path: Path, option: str) -> None:
    """The same of a file."""
    if path.is_dir():
        raise UserError(f"{option} {path} is a folder; name a file")
    refuse_unwritable(path.parent, option)


@contextmanager
def lock(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold ``path`` as a lock file; the kernel frees it when this process dies, however it dies.

    Raises UserError at once if another live process holds it and ``wait`` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise UserError(f"{path.parent} is in use by another process; wait for it or stop it") from error
        yield
