"""The images of a folder, a chunk at a time. Without torch, for a process that only hands them out."""

import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from typing import TypedDict

from models.card import ModelCard
from models.pixels import SUFFIXES

CHUNK_SIZE = 1024  # images: a second or so of work, which is repeated after a kill, and small enough to share evenly

Metadata = dict[bytes, bytes]


class ScoreError(Exception):
    """Why a folder cannot be scored: one sentence for stderr."""


class Chunk(TypedDict):
    """Neighbours in the sorted list of images: their names below the folder as the system has them, b"\\0" between."""

    number: int
    names: bytes


class Part(TypedDict):
    """The rows of the chunk of that number, as the bytes of a Parquet file."""

    number: int
    images: int
    content: bytes


def list_images(root: str, folder: str = "", above: tuple[str, ...] = ()) -> Iterator[str]:
    """Names of images below `root`, sorted, without hidden ones; holds one folder per level. Raises OSError.

    `above` are the real paths of the folders that `folder` was reached through.
    """
    walked = (*above, os.path.realpath(os.path.join(root, folder)))
    with os.scandir(os.path.join(root, folder)) as entries:
        # A folder is sorted with its slash, which makes the whole list sorted.
        names = sorted(entry.name + "/" * _is_folder(entry, walked) for entry in entries if entry.name[0] != ".")
    for name in names:
        if name[-1] == "/":
            yield from list_images(root, folder + name, walked)
        elif name.lower().endswith(SUFFIXES):
            yield folder + name


def _is_folder(entry: os.DirEntry[str], walked: tuple[str, ...]) -> bool:
    """Whether to walk into it: not into a link back to a folder that it was reached through, which has no end."""
    try:
        if not entry.is_dir() or not entry.is_symlink():
            return entry.is_dir()
    except OSError:  # a link to itself
        return False
    there = os.path.realpath(entry.path)
    return all(os.path.commonpath([there, each]) != there for each in walked)


def list_chunks(root: str) -> Iterator[Chunk]:
    """The same images in chunks, which are always cut at the same places. Raises OSError."""
    images = list_images(root)
    for number in itertools.count():
        names = b"\0".join(os.fsencode(name) for name in itertools.islice(images, CHUNK_SIZE))
        if not names:
            return
        yield Chunk(number=number, names=names)


def fingerprint(root: str, names: bytes) -> bytes:
    """A digest of a chunk's names, and of the sizes and times of its files."""
    digest, folder = hashlib.sha256(names), os.fsencode(root) + b"/"
    for name in names.split(b"\0"):
        try:
            status = os.stat(folder + name)
            digest.update(b"\n%d %d" % (status.st_size, status.st_mtime_ns))
        except OSError:
            digest.update(b"\nunreadable")
    return digest.hexdigest().encode()


def describe(name: str, card: ModelCard) -> Metadata:
    """The Parquet file's metadata on the model: name, version, classes as JSON, and a digest of the whole card."""
    digest = hashlib.sha256(card.model_dump_json().encode()).hexdigest()
    model = {"model": name, "version": card.version, "classes": json.dumps(card.classes), "card": digest}
    return {key.encode(): value.encode() for key, value in model.items()}
