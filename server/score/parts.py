"""What has been scored so far: a Parquet file for each chunk, in a folder beside the output, until they are merged.

Each part is there whole or not at all, so that a run that ended at any moment continues with the parts that it left.
"""

import fcntl
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from models.checkpoint import write_atomically
from server.score.images import Chunk, Metadata, Part, ScoreError, fingerprint, list_chunks

_PARTS_PER_ROW_GROUP = 16  # in memory together when they are merged


class Parts:
    """The parts of one output: all of one model, and of the images as they are now.

    Any others found there are replaced if `overwrite`, else refused.
    """

    def __init__(self, output: Path, root: str, metadata: Metadata, overwrite: bool) -> None:
        self._output, self._root, self._metadata, self._overwrite = output, root, metadata, overwrite
        self._folder = output.with_name(f"{output.name}.parts")
        self._count = 0

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Inside it nobody else makes this output. Raises OSError, or ScoreError if somebody does."""
        self._folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._folder, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ScoreError(f"another cifar-score is making {self._output}: name another --output") from None
            try:
                yield
            finally:
                with suppress(OSError):  # with parts in it, it stays
                    self._folder.rmdir()
        finally:
            os.close(descriptor)

    def output_is_complete(self) -> bool:
        """Whether there is no more to do. Raises OSError, or ScoreError for an output of something else."""
        fingerprints = (fingerprint(self._root, chunk["names"]) for chunk in list_chunks(self._root))
        if not self._output.exists() or not self._holds(self._output, _digest(fingerprints)):
            return False
        self._remove()  # left by a run that was killed before it could
        return True

    def missing(self, advance: Callable[[int], None]) -> Iterator[Chunk]:
        """The chunks without a part; for each other one, `advance` gets its number of images. Raises ScoreError."""
        for chunk in list_chunks(self._root):
            self._count += 1
            path = self._path(chunk["number"])
            if path.exists() and self._holds(path, fingerprint(self._root, chunk["names"])):
                advance(chunk["names"].count(b"\0") + 1)
            else:
                yield chunk

    def add(self, part: Part) -> None:
        """Saves a part. Raises OSError."""
        write_atomically({self._path(part["number"]): part["content"]})

    def merge(self) -> "Counter[str | None]":
        """Makes the output of all parts, in order. Returns how many images have each label (None: an error).

        Raises OSError, or ScoreError, unless `overwrite`, for parts of more images than there are now.
        """
        if (further := self._path(self._count)).exists():  # the folder had more images once
            self._holds(further, b"")
        paths, labels = [self._path(number) for number in range(self._count)], Counter[str | None]()
        found = (_read_schema(path).metadata for path in paths)
        files, unreadable = zip(*((each[b"files"], b"unreadable" in each) for each in found), strict=True)
        metadata = {**self._metadata, b"files": _digest(files)}
        if any(unreadable):
            metadata[b"unreadable"] = b"yes"
        schema = _read_schema(paths[0]).with_metadata(metadata)
        whole = self._folder / "whole"
        with whole.open("wb") as file:
            with pq.ParquetWriter(file, schema) as writer:
                for start in range(0, len(paths), _PARTS_PER_ROW_GROUP):
                    table = pa.concat_tables(map(_read_table, paths[start : start + _PARTS_PER_ROW_GROUP]))
                    writer.write_table(table)
                    labels.update(table["label"].to_pylist())
            file.flush()
            os.fsync(file.fileno())
        whole.replace(self._output)
        self._remove()
        return labels

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:09}.parquet"

    def _holds(self, path: Path, files: bytes) -> bool:
        """Whether a file is of this model and of images with this fingerprint. Raises ScoreError unless `overwrite`."""
        try:
            known: Metadata = _read_schema(path).metadata or {}
        except pa.ArrowInvalid:
            known = {}
        unreadable = known.pop(b"unreadable", None)  # which may have changed
        if known == {**self._metadata, b"files": files}:
            return not (unreadable and self._overwrite)
        if self._overwrite:
            return False
        other = "of images that have changed since" if known.items() >= self._metadata.items() else "not of this model"
        raise ScoreError(f"{path} is {other}: name another --output, or replace it with --overwrite")

    def _remove(self) -> None:
        for path in self._folder.iterdir():
            path.unlink()


def _read_schema(path: Path) -> pa.Schema:
    with path.open("rb") as file:  # pyarrow itself cannot open a path that is not UTF-8
        return pq.read_schema(file)


def _read_table(path: Path) -> pa.Table:
    with path.open("rb") as file:
        return pq.ParquetFile(file).read()


def _digest(fingerprints: Iterable[bytes]) -> bytes:
    digest = hashlib.sha256()
    for each in fingerprints:
        digest.update(each)
    return digest.hexdigest().encode()
