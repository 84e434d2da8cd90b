"""Files appear whole or not at all, and a folder has one writer at a time."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from fedkvasir.errors import UserError


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
    a line of such a file. Raises UserError for all of that, and for what is no YAML or no keys.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{what} does not exist; {missing}") from error
    except IsADirectoryError as error:
        raise UserError(f"{what} is a folder; {folder}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{what} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise UserError(f"{what} must hold keys and values, e.g. `{example}`")
    return raw


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``path`` if the block ends well, and vanishes if it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
