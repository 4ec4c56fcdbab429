"""Labelled images to evaluate with: anyone's folder, or CIFAR-10's own 10,000 test images without torch."""

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from clients.command import CommandError, progress, write_whole

SUFFIXES = (".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff", ".ppm")

# CIFAR-10, binary version: https://www.cs.toronto.edu/~kriz/cifar.html
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
_RECORD_BYTES = 1 + 3 * 32 * 32  # the class, then a red, a green and a blue plane
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Example:
    """One image with its true class; `name` is its path inside the data set."""

    name: str
    truth: str
    image: str | bytes


@dataclass(frozen=True, slots=True)
class Dataset:
    """Examples in a fixed order; `held_out` is False when training may have seen some of them."""

    name: str
    examples: list[Example]
    held_out: bool


def load(data: str, files: Path | None) -> Dataset:
    """`cifar10`, or a folder's test images, or of a folder the `files` listed. Raises CommandError."""
    if data == "cifar10" and files is None:
        return Dataset("cifar10", cifar10_test(Path("data")), held_out=True)
    root = Path(data)
    if not root.is_dir():
        raise CommandError(f"there is no folder {data}: --data takes a folder of images or the word cifar10")
    if files is not None:
        return Dataset(f"{data}, files of {files}", _listed(root, files), held_out=True)
    split = root / "test"
    return Dataset(data, _by_class(root, split if split.is_dir() else root), held_out=split.is_dir())


def _by_class(root: Path, parent: Path) -> list[Example]:
    inside = "" if parent == root else f"{parent.name}/"
    examples = [
        Example(f"{inside}{folder}/{name}", folder, f"{parent}/{folder}/{name}")
        for folder in _names(parent, directories=True)
        for name in _names(parent / folder, directories=False)
    ]
    if not examples:
        raise CommandError(f"there are no images in {parent}/<class>/: {', '.join(SUFFIXES)} are looked for")
    return examples


def _names(folder: Path, directories: bool) -> list[str]:
    """What is not hidden in a folder, sorted: its directories, or its images."""
    with os.scandir(folder) as entries:
        visible = [entry for entry in entries if not entry.name.startswith(".")]
    if directories:
        return sorted(entry.name for entry in visible if entry.is_dir())
    return sorted(entry.name for entry in visible if entry.name.lower().endswith(SUFFIXES) and entry.is_file())


def _listed(root: Path, files: Path) -> list[Example]:
    """The class of a listed image is the folder that it lies in."""
    try:
        text = files.read_text("utf-8", errors="surrogateescape")  # names of files need not be UTF-8
    except OSError as error:
        raise CommandError(f"the list {files} cannot be read: {error.strerror}") from None
    names = [line for line in text.split("\n") if line]
    for name in names:
        if not Path(name).parent.name or not (root / name).is_file():
            raise CommandError(f"{files} lists {name!r}, but there is no {root}/<class>/<image> of that name")
    if not names:
        raise CommandError(f"the list {files} is empty")
    return [Example(name, Path(name).parent.name, str(root / name)) for name in names]


def cifar10_test(folder: Path) -> list[Example]:
    """CIFAR-10's test images as PNG, from the archive in `folder`, downloaded if need be. Raises CommandError."""
    archive = folder / "cifar-10-binary.tar.gz"
    if not archive.is_file() or _md5(archive) != CIFAR10_MD5:
        write_whole(archive, _download())
    with tarfile.open(archive) as tar:
        records = _member(tar, "test_batch.bin")
        classes = _member(tar, "batches.meta.txt").decode("ascii").split()
    starts = range(0, len(records), _RECORD_BYTES)
    return [
        Example(
            f"test_batch.bin/{number:05}", classes[records[start]], _png(records[start + 1 : start + _RECORD_BYTES])
        )
        for number, start in enumerate(starts)
    ]


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = cast("IO[bytes]", tar.extractfile(f"cifar-10-batches-bin/{name}"))  # the checksum was right: it is there
    return file.read()


def _png(planes: bytes) -> bytes:
    """uint8 [3, 32, 32] RGB → PNG."""
    from PIL import Image

    bands = [Image.frombytes("L", (32, 32), planes[start : start + 1024]) for start in (0, 1024, 2048)]
    buffer = io.BytesIO()
    Image.merge("RGB", bands).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _download() -> Iterator[bytes]:
    """The archive in pieces. Raises CommandError, also after the last piece when they were not CIFAR-10."""
    import httpx

    md5 = hashlib.md5(usedforsecurity=False)
    try:
        with httpx.stream("GET", CIFAR10_URL, follow_redirects=True, timeout=30) as response:
            response.raise_for_status()
            total = -(-int(response.headers.get("Content-Length", 0)) // _MIB)
            for chunk in progress(response.iter_bytes(_MIB), total, "MiB"):
                md5.update(chunk)
                yield chunk
    except httpx.HTTPError as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CommandError(
            f"CIFAR-10 cannot be downloaded ({reason}): "
            "put cifar-10-binary.tar.gz into data/ yourself, or give --data a folder of images"
        ) from None
    if md5.hexdigest() != CIFAR10_MD5:
        raise CommandError(f"what {CIFAR10_URL} sent is not CIFAR-10: its MD5 is not {CIFAR10_MD5}")
