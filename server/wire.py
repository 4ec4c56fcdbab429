"""The messages between an HTTP process and a worker, over a Unix socket; multiprocessing.connection frames them.

HTTP process → worker: a batch, or an empty message, which asks it to reload its checkpoint now. Worker → HTTP process:
its model card and whether it has refused the checkpoint on disk, first and whenever that changes; and for every
message, in the order sent, the answer or why there is none.
"""

import struct
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from models.pixels import Pixels

Probabilities = npt.NDArray[np.float32]

FRAME_LENGTH = struct.Struct("!i")  # multiprocessing.connection's own prefix, for messages under 2 GiB
RELOAD = b""
BATCH_FAILED = "the network failed on this batch: the log has the reason"  # what the client is told
_BATCH_SHAPE = struct.Struct("!IHH")  # N, H, W


class Kind(IntEnum):
    """The first byte of a worker's message."""

    CARD = 1  # then a byte, 1 if the checkpoint on disk was refused, and the card as JSON
    PREDICTIONS = 2
    RELOADED = 3
    FAILURE = 4


def pack_batch(pixels: Pixels) -> bytes:
    """uint8 [N, H, W, 3] → message: N, H, W, then the bytes of the pixels."""
    return _BATCH_SHAPE.pack(*pixels.shape[:3]) + pixels.tobytes()


def unpack_batch(message: bytes) -> Pixels:
    """Message → uint8 [N, H, W, 3]."""
    shape = (*_BATCH_SHAPE.unpack_from(message), 3)
    return np.frombuffer(message, np.uint8, offset=_BATCH_SHAPE.size).reshape(shape)


def pack_predictions(probabilities: Probabilities) -> bytes:
    """float32 [N, C] → message: its kind, N, then the bytes of the probabilities."""
    return bytes([Kind.PREDICTIONS]) + struct.pack("!I", len(probabilities)) + probabilities.tobytes()


def unpack_predictions(message: bytes) -> Probabilities:
    """Message → float32 [N, C]."""
    (count,) = struct.unpack_from("!I", message, offset=1)
    return np.frombuffer(message, np.float32, offset=5).reshape(count, -1)
