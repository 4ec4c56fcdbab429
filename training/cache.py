"""Decoded images on disk, so that a folder is decoded once and may be larger than memory.

One file for a folder and size, in `$XDG_CACHE_HOME/cifar-service` (`~/.cache`): a NumPy array of records. It is mapped
into memory, which the system fills and empties as it sees fit.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from training.distributed import say
from training.errors import TrainingError

Records = npt.NDArray[np.void]  # [N] of: `pixels`, uint8 [size, size, 3], and `digest`, the file's SHA-256, 32 bytes

_FORMAT = 1  # another number leaves every older file aside


def cached(root: Path, names: Sequence[str], size: int, fill: Callable[[Records], None]) -> Records:
    """The records of these files: from the cache where none of them has changed since, else as `fill` writes them.

    Where nothing can be cached (a full disk, a home that may not be written to) they are held in memory.
    Raises TrainingError where that is too small as well.
    """
    record = np.dtype([("pixels", np.uint8, (size, size, 3)), ("digest", "V32")])
    folder = Path(os.environ.get("XDG_CACHE_HOME") or _home() / ".cache", "cifar-service")
    place = hashlib.sha256(f"{root.resolve()} {size}".encode(errors="surrogateescape")).hexdigest()[:16]
    path = folder / f"{place}-{_fingerprint(root, names)}.npy"
    with suppress(OSError, ValueError, EOFError):  # it is not there, or damaged
        there: Records = np.load(path, mmap_mode="r")
        return there
    try:
        temporary = _reserve(folder, place, record, len(names))
    except OSError as error:
        in_memory = _in_memory(len(names), record, f"cannot be kept in {folder} ({error.strerror})")
        fill(in_memory)
        return in_memory
    try:
        records: np.memmap[Any, np.dtype[np.void]] = np.load(temporary, mmap_mode="r+")
        fill(records)
        records.flush()
        with suppress(FileNotFoundError):  # another run, which decoded the same meanwhile, took it for a remnant
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    for other in folder.glob(f"{place}-*.npy"):
        if other != path:  # what the folder held before, or half of it, which a killed run left
            with suppress(OSError):  # another user's, perhaps
                other.unlink(missing_ok=True)
    records.flags.writeable = False
    return records


def _in_memory(count: int, record: np.dtype[np.void], why: str) -> Records:
    """Room for so many records. Raises TrainingError where memory is too small for them."""
    needed = count * record.itemsize
    trouble = f"images, {needed / 1e9:.1f} GB, {why}"
    if needed > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        raise TrainingError(
            f"decoded {trouble}, nor in memory: make room, or name a larger disk in XDG_CACHE_HOME"
        ) from None
    say(f"Decoded {trouble}: memory holds them, for this run alone")
    return np.empty(count, record)


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:  # of a user whom the system does not know, as in containers
        return Path(os.devnull)  # below which nothing can be kept


def _fingerprint(root: Path, names: Sequence[str]) -> str:
    """Of everything that changes with a file's contents, without reading them."""
    folder, lines = f"{root}/", [f"{_FORMAT}\n"]
    for name in names:
        try:
            stat = os.stat(folder + name)
            lines.append(f"{name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}\n")
        except OSError:  # a link to nowhere, or gone meanwhile: whoever reads it says so
            lines.append(f"{name}\n")
    return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()[:32]


def _reserve(folder: Path, place: str, record: np.dtype[np.void], count: int) -> Path:
    """A file with room for so many records: a memory map over a disk that fills up would end us with SIGBUS."""
    folder.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=folder, prefix=f"{place}-", suffix=".npy")
    path = Path(name)
    try:
        os.close(handle)
        np.lib.format.open_memmap(path, "w+", record, (count,))
        with path.open("r+b") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError:
        path.unlink()
        raise
    return path
