"""Files appear whole or not at all, and a folder has one writer at a time."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
