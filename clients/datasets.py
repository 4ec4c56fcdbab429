"""Labelled images to evaluate with: those of a folder, or CIFAR-10's 10,000 test images, read without torch."""

import hashlib
import io
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path

from clients.command import CommandError, write
from clients.images import SUFFIXES, is_to_be_read
from clients.progress import progress_bar

# CIFAR-10, binary version: https://www.cs.toronto.edu/~kriz/cifar.html
CIFAR10_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR10_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
_RECORD_BYTES = 1 + 3 * 32 * 32  # the class, then a red, a green and a blue plane


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
    """The test images of CIFAR-10 (`cifar10`) or of the folder `data`, or the images in it that the file `files` lists.

    A folder without a subfolder `test` is taken as a whole. Raises CommandError or OSError.
    """
    if data == "cifar10" and files is None:
        return Dataset("cifar10", cifar10_test(Path("data")), held_out=True)
    root = Path(data)
    if not root.is_dir():
        alone = " without --files" if files else ""
        raise CommandError(f"there is no folder {data}: --data takes a folder of images or the word cifar10{alone}")
    if files is not None:
        return Dataset(f"{data}, files of {files}", _listed(root, files), held_out=True)
    held_out = (root / "test").is_dir()
    return Dataset(data, _by_class(root, "test/" if held_out else ""), held_out)


def _by_class(root: Path, part: str) -> list[Example]:
    """The images in `root`/`part`, a folder for each class; `part` is empty or ends with a slash."""
    found = sorted(
        (folder.name, file.name)
        for folder in os.scandir(root / part)
        if folder.is_dir() and not folder.name.startswith(".")
        for file in os.scandir(folder)
        if file.name.lower().endswith(SUFFIXES) and not file.name.startswith(".")
        if is_to_be_read(file)  # a broken link counts as refused
    )
    if not found:
        raise CommandError(f"there are no images in {root / part}/<class>/: {', '.join(SUFFIXES)} are looked for")
    return [Example(name := f"{part}{truth}/{file}", truth, f"{root}/{name}") for truth, file in found]


def _listed(root: Path, files: Path) -> list[Example]:
    """The images that `files` lists, a path in `root` on each line; the folder that an image is in is its class."""
    text = files.read_text("utf-8", errors="surrogateescape")  # names of files need not be UTF-8
    names = [line for line in text.split("\n") if line]
    for name in names:
        if not Path(name).parent.name or not (root / name).is_file():
            raise CommandError(f"{files} lists {name!r}, but there is no {root}/<class>/<image> of that name")
    if not names:
        raise CommandError(f"the list {files} is empty")
    return [Example(name, Path(name).parent.name, str(root / name)) for name in names]


def cifar10_test(folder: Path) -> list[Example]:
    """CIFAR-10's test images as PPM, from the archive in `folder`, which is downloaded if need be.

    Raises CommandError or OSError.
    """
    path = folder / "cifar-10-binary.tar.gz"
    archive = path.read_bytes() if path.is_file() else b""
    if not _is_cifar10(archive):
        archive = _download()
        write(path, archive)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        files = (tar.extractfile(f"cifar-10-batches-bin/{name}") for name in ("test_batch.bin", "batches.meta.txt"))
        records, classes = (file.read() for file in files if file)  # both exist: the checksum was right
    labels = classes.decode("ascii").split()
    return [
        Example(f"test_batch.bin/{number:05}", labels[records[start]], _ppm(records[start + 1 : start + _RECORD_BYTES]))
        for number, start in enumerate(range(0, len(records), _RECORD_BYTES))
    ]


def _is_cifar10(archive: bytes | bytearray) -> bool:
    return hashlib.md5(archive, usedforsecurity=False).hexdigest() == CIFAR10_MD5


def _ppm(planes: bytes) -> bytes:
    """uint8 [3, 32, 32] RGB → PPM, in which the three colours of a pixel are side by side."""
    pixels = bytearray(3 * 1024)
    for colour in range(3):
        pixels[colour::3] = planes[colour * 1024 : (colour + 1) * 1024]
    return b"P6 32 32 255\n" + pixels


def _download() -> bytes:
    """Downloads CIFAR-10's archive. Raises CommandError."""
    import httpx

    archive = bytearray()
    try:
        with httpx.stream("GET", CIFAR10_URL, follow_redirects=True, timeout=30) as response:
            response.raise_for_status()
            with progress_bar(int(response.headers.get("Content-Length", 0)), "bytes") as advance:
                for chunk in response.iter_bytes(2**20):
                    archive += chunk
                    advance(len(chunk))
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, OSError, ValueError) as error:  # also a wrong proxy setting
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CommandError(
            f"CIFAR-10 cannot be downloaded ({reason}): "
            "put cifar-10-binary.tar.gz into data/ yourself, or give --data a folder of images"
        ) from None
    if not _is_cifar10(archive):
        raise CommandError(f"the file that {CIFAR10_URL} sent is not CIFAR-10: its MD5 is not {CIFAR10_MD5}")
    return bytes(archive)
