"""Archives: checked before a byte is written, and unpacked whole or not at all."""

import gzip
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from fedkvasir.errors import UserError
from fedkvasir.files import atomic_folder

SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".gz", ".rar", ".7z")


def is_archive(path: Path) -> bool:
    """By name; medical images (.nii.gz) are no archives."""
    name = path.name.lower()
    return name.endswith(SUFFIXES) and not name.endswith(".nii.gz")


def unpack(archive: Path, out: Path) -> Path:
    """Unpack ``archive`` into the new folder ``out/<its name without suffix>`` and return it.

    A single file (.gz without tar) becomes a file of that name: PCam's six belong into one folder. Raises UserError for
    an archive that is cut short or broken, whose names lead outside the folder, that does not fit on the disk, and for
    what is there already.
    """
    name = archive.name.lower()
    if not archive.is_file():
        raise UserError(f"{archive} {'is a folder, not an archive' if archive.is_dir() else 'does not exist'}")
    suffix = next((suffix for suffix in (".tar.gz", *SUFFIXES) if name.endswith(suffix)), None)
    if suffix is None or suffix in (".rar", ".7z"):
        raise UserError(f"{archive}: zip, tar and gz can be unpacked here; unpack this one with its own program")
    target = out / archive.name[: -len(suffix)]
    if target.exists():
        raise UserError(f"{target} exists already; choose another DIR or remove it")
    try:
        if suffix == ".gz":
            _gz(archive, target)
        else:
            with atomic_folder(target) as folder:
                (_zip if suffix == ".zip" else _tar)(archive, folder)
    except (zipfile.BadZipFile, tarfile.ReadError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        why = str(error).partition(":")[0]
        raise UserError(f"{archive} is broken or half-downloaded ({why}); download it again") from error
    except NotImplementedError as error:  # Deflate64, which Windows takes above 2 GB
        raise UserError(f"{archive} is compressed in a way not known here; unpack it with its own program") from error
    return target


def _gz(archive: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as folder:
        whole = Path(folder) / target.name
        with gzip.open(archive) as source, whole.open("wb") as sink:
            shutil.copyfileobj(source, sink)
        whole.rename(target)


def _zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as source:
        members = source.infolist()
        _check(archive, [member.filename for member in members], sum(member.file_size for member in members), folder)
        if any(member.flag_bits & 1 for member in members):
            raise UserError(f"{archive} is protected by a password; unpack it with its own program")
        source.extractall(folder)


def _tar(archive: Path, folder: Path) -> None:
    with tarfile.open(archive) as source:
        members = source.getmembers()
        odd = [member.name for member in members if not (member.isfile() or member.isdir())]
        if odd:
            raise UserError(f"{archive} holds {odd[0]}, which is neither a file nor a folder; nothing was unpacked")
        _check(archive, [member.name for member in members], sum(member.size for member in members), folder)
        source.extractall(folder, filter="data")


def _check(archive: Path, names: list[str], needed_bytes: int, folder: Path) -> None:
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in name.split("/")[0]:
            raise UserError(f"{archive} holds {name!r}, a name that leads outside the folder; nothing was unpacked")
    if needed_bytes > shutil.disk_usage(folder).free:
        raise UserError(f"{archive} needs {needed_bytes >> 20} MiB at {folder.parent}, and there is less left")
