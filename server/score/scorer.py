"""Scores chunks: images in, rows of a Parquet file out. Runs in processes of one machine, or as actors on Ray."""

import io
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from models.card import ModelCard
from models.checkpoint import build_classifier
from models.pixels import ImageError, decode
from server.forward import make_forward
from server.score.images import Chunk, Part, ScoreError, describe, fingerprint

_BATCH = 64  # images the network takes at once
# Lists of any length: many readers fail at a null among lists of a fixed length (apache/arrow#35692).
_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),
        ("label", pa.string()),
        ("class_id", pa.int32()),
        ("confidence", pa.float32()),
        ("probabilities", pa.list_(pa.float32())),
        ("error", pa.string()),
    ]
)


class Scorer:
    """Turns chunks into parts, on one core or with a share of a GPU."""

    def __init__(self, root: str, checkpoint: Path, weights: bytes, card: ModelCard, device: str) -> None:
        """`weights` and `card` are what `checkpoint` held when it was read. Raises CheckpointError or ScoreError."""
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ScoreError("this torch cannot use the NVIDIA GPU that is here: choose --device cpu")
        torch.set_num_threads(1)
        self._root, self._card = root, card
        self._schema = _SCHEMA.with_metadata(describe(checkpoint.stem, card))
        classifier = build_classifier(checkpoint, weights, card)
        self._forward = make_forward(classifier, torch.device(device), "eager", threads=1)

    def __call__(self, chunk: Chunk) -> Part:
        """Raises ScoreError if there is no such folder: else each image would get an error that does not say so."""
        if not os.path.isdir(self._root):
            raise ScoreError(f"there is no folder {self._root} on {socket.gethostname()}, which was to score images")
        files = fingerprint(self._root, chunk["names"])  # before they are read, so that later changes show
        names = chunk["names"].split(b"\0")
        rows = [row for start in range(0, len(names), _BATCH) for row in self._score(names[start : start + _BATCH])]
        metadata = {**self._schema.metadata, b"files": files}
        if self._any_unreadable(names, rows):
            metadata[b"unreadable"] = b"yes"
        content = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, self._schema.with_metadata(metadata)), content)
        return Part(number=chunk["number"], images=len(rows), content=content.getvalue())

    def _any_unreadable(self, names: list[bytes], rows: list[dict[str, object]]) -> bool:
        """Whether a file that exists could not be read: once it can be, its size and time will not show that."""
        errors = ((name, str(row.get("error"))) for name, row in zip(names, rows, strict=True))
        unreadable = (name for name, error in errors if error.startswith("unreadable: "))
        return any(os.path.exists(os.fsencode(self._root) + b"/" + name) for name in unreadable)

    def _score(self, names: list[bytes]) -> Iterator[dict[str, object]]:
        size, classes, folder = self._card.input_size, self._card.classes, os.fsencode(self._root) + b"/"
        pixels, errors = np.zeros((len(names), size, size, 3), np.uint8), dict[int, str]()
        for index, name in enumerate(names):
            try:
                with open(folder + name, "rb", buffering=0, opener=_open_at_once) as file:
                    pixels[index] = decode(file.readall(), size)
            except ImageError as error:
                errors[index] = f"{error.code}: {error.detail}"
            except OSError as error:
                errors[index] = f"unreadable: {(error.strerror or str(error)).lower()}"
        probabilities = self._forward(pixels)
        class_ids, confidences = probabilities.argmax(axis=1).tolist(), probabilities.max(axis=1).tolist()
        for index, name in enumerate(names):
            path = name.decode(errors="backslashreplace")
            if index in errors:
                yield {"path": path, "error": errors[index]}
            else:
                class_id = class_ids[index]
                row = {"label": classes[class_id], "class_id": class_id, "confidence": confidences[index]}
                yield {"path": path, **row, "probabilities": probabilities[index]}


def _open_at_once(path: str, flags: int) -> int:
    """Without waiting for somebody to write into a named pipe, which is then read as empty."""
    return os.open(path, flags | os.O_NONBLOCK)
