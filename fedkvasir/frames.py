"""The pictures and videos that a prediction is for: found in folders and patterns, and decoded a batch at a time."""

import glob
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from fedkvasir.data import formats
from fedkvasir.data.catalog import readable
from fedkvasir.data.formats import picture, video
from fedkvasir.errors import UserError


@dataclass(frozen=True)
class Frame:
    """A picture, or a frame of a video, that is to be predicted."""

    path: Path
    number: int | None
    place: str
    """Under ``out``, without suffix."""
    pixels: np.ndarray
    """(H, W, 3) uint8 RGB."""

    @property
    def row(self) -> dict[str, Any]:
        return {"image": str(self.path), "frame": self.number}


def find_sources(sources: Sequence[Path], out: Path, passed: Counter[str]) -> dict[str, Path]:
    """What each file is to be called under ``out``, without suffix, and with a ``/`` at the end for videos -> the file.

    ``passed`` is filled with the suffixes of files in folders that are no picture and no video.

    Raises UserError for what does not exist, for no picture at all, and where a mask would overwrite another or a
    picture.
    """
    places: dict[str, Path] = {}
    for path, name in (found for source in sources for found in _files(source, out, passed)):
        is_video = path.name.lower().endswith(video.SUFFIXES)
        place = name.with_suffix("").as_posix() + ("/" if is_video else "")
        other = places.setdefault(place, path)
        if other.resolve() != path.resolve():
            raise UserError(
                f"{other} and {path} would write the same mask; rename one, name the folder above, or predict twice"
            )
    for place, path in places.items():
        clip = place.rpartition("/")[0] + "/"
        if not place.endswith("/") and clip in places:
            raise UserError(f"{path} and the frames of {places[clip]} would lie in one folder; predict twice")
        if path.resolve() == (out / f"{place}.png").resolve():
            raise UserError(f"the mask of {path} would overwrite it; name another folder for --out")
    if not places:
        others = f", and {_by_kind(passed)}" if passed else ""
        where = ", ".join(map(str, sources))
        besides = f", besides what lies under {out}" if out.exists() else ""
        raise UserError(f"no picture and no video in {where}{besides}{others}")
    return places


def total_of(places: Mapping[str, Path], every: int) -> int:
    """How many pictures there are to be predicted, as far as videos say how long they are."""
    total = 0
    for place, path in places.items():
        try:
            total += math.ceil(video.length(path) / every) if place.endswith("/") else 1
        except (OSError, ValueError):
            continue  # told when its frames are wanted
    return total


def decoded(
    places: Mapping[str, Path], batch_size: int, every: int, pool: Executor, broken: dict[Path, str]
) -> Iterator[Frame]:
    """Everything that can be read, a batch of pictures at a time; ``broken`` is filled with what cannot, and why."""
    for is_video, group in groupby(places.items(), lambda entry: entry[0].endswith("/")):
        if is_video:
            for place, path in group:
                try:
                    for number, pixels in video.frames(path, every):
                        yield Frame(path, number, f"{place}{number:06d}", pixels)
                except (OSError, ValueError) as error:
                    broken[path] = str(error)
        else:
            while batch := list(islice(group, batch_size)):
                for found in pool.map(_read, batch):
                    if isinstance(found, Frame):
                        yield found
                    else:
                        broken.update(found)


def left_out(passed: Counter[str], read: Iterable[Path]) -> Iterator[str]:
    """What got no mask, in words: files that were passed over, and all pages but the first."""
    if passed:
        yield _by_kind(passed)
    paged = [path for path in read if path.suffix.lower() in (".tif", ".tiff") and cv2.imcount(str(path)) > 1]
    if paged:
        named = ", ".join(map(str, paged[:3])) + (", ..." if len(paged) > 3 else "")
        yield f"files with several pages, of which the first was taken: {len(paged)} ({named})"


def _by_kind(passed: Counter[str]) -> str:
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(passed.items()))
    return f"files that are no picture or video that can be read: {passed.total()} ({kinds})"


def _files(source: Path, out: Path, passed: Counter[str]) -> Iterator[tuple[Path, Path]]:
    """Files and their names: of a folder's, the path inside it. What lies under ``out`` is a prediction."""
    if source.is_dir():
        for path in _inside(source):
            known = path.name.lower().endswith((*picture.SUFFIXES, *video.SUFFIXES)) or path.is_dir()
            if not (known or path.is_file()) or path.resolve().is_relative_to(out.resolve()):
                continue
            if known:
                yield path, path.relative_to(source)
            else:
                passed[path.suffix.lower() or "without suffix"] += 1
    elif source.exists():
        yield source, Path(source.name)
    else:
        pattern = glob.has_magic(str(source))
        matches = sorted(glob.glob(str(source), recursive=True)) if pattern else []  # noqa: PTH207  (hides .files)
        if not matches:
            raise UserError(f"{source} {'matches no file' if pattern else 'does not exist'}")
        for match in matches:
            yield from _files(Path(match), out, passed)


def _inside(folder: Path) -> Iterator[Path]:
    """Visible files to the bottom, linked folders as well, but none that leads back to a folder around it; and folders
    that may not be read, as files that cannot be."""
    around = {folder.resolve(): iter(sorted(folder.iterdir()))}
    while around:
        path = next(around[innermost := next(reversed(around))], None)
        if path is None:
            del around[innermost]
        elif path.name.startswith("."):
            continue
        elif not path.is_dir() or not readable(path):
            yield path
        elif (inner := path.resolve()) not in around:
            around[inner] = iter(sorted(path.iterdir()))


def _read(entry: tuple[str, Path]) -> Frame | dict[Path, str]:
    place, path = entry
    if path.is_dir():
        return {path: "a folder that may not be read"}
    try:
        return Frame(path, None, place, next(formats.pictures(path, [None])))
    except (OSError, SyntaxError, ValueError) as error:
        return {path: str(error)}
