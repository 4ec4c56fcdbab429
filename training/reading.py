"""Reads image files on all cores. Its child processes run this module, so it imports no torch: they start in 0.3 s.

Threads would not do: where images are small, they mostly wait for the interpreter's lock. Nor would multiprocessing:
its children run the calling script again, with its import of torch, and outlive a parent that is killed.
"""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import numpy as np

from models.machine import cores
from models.pixels import ImageError, Pixels, decode
from training.errors import TrainingError

Images = tuple[Pixels, list[bytes], list[tuple[str, str]]]

_FIRST = 8  # images that are read here at a time, which also tells how long one takes
_START_S = 0.3  # what starting the children takes: worth it for whatever is not read in that time without them
_BLOCK_S = 0.03  # of work for a child at a time, as for 500 small pictures or one photo: more saves little


def read(root: Path, names: Sequence[str], size: int) -> Images:
    """N files → uint8 [N, size, size, 3], their SHA-256, and the reason and name of each that cannot be read."""
    pixels, digests, broken = np.empty((len(names), size, size, 3), np.uint8), [bytes(32)] * len(names), []
    for index, name in enumerate(names):
        try:
            with open(f"{root}/{name}", "rb", buffering=0) as file:  # half the time of Path.read_bytes
                content = file.read()
            digests[index] = hashlib.sha256(content).digest()
            pixels[index] = decode(content, size)
        except ImageError as error:
            broken.append((error.detail, name))
        except OSError as error:
            broken.append((error.strerror or str(error), name))
    return pixels, digests, broken


def read_on_all_cores(root: Path, names: Sequence[str], size: int) -> Generator[tuple[slice, Images], None, None]:
    """What `read` gives for each slice of `names`, in any order; close it to stop early. Raises TrainingError."""
    started, done, spent_s = time.monotonic(), 0, 0.0
    while done < len(names) and spent_s <= _START_S:
        block = slice(done, done + _FIRST)
        yield block, read(root, names[block], size)
        done, spent_s = done + _FIRST, time.monotonic() - started
    count = max(1, round(_BLOCK_S * done / spent_s))
    blocks = [slice(start, start + count) for start in range(done, len(names), count)]
    try:
        yield from _read_in_children(root, names, size, blocks)
    except (EOFError, ConnectionError, MemoryError):
        raise TrainingError(
            f"a process that read images of {root} was ended: is there too little memory, or an image that crashes it?"
        ) from None


def _read_in_children(
    root: Path, names: Sequence[str], size: int, blocks: list[slice]
) -> Iterator[tuple[slice, Images]]:
    reading: dict[Any, tuple[Connection, slice]] = {}
    with ExitStack() as stack:
        idle = [_start_child(stack) for _ in range(min(cores(), len(blocks)))]
        while blocks or reading:
            while blocks and idle:
                child, block = idle.pop(), blocks.pop()
                child.send((root, names[block], size))
                reading[child] = child, block
            for ready in wait(list(reading)):
                child, block = reading.pop(ready)
                yield block, child.recv()
                idle.append(child)


def _start_child(stack: ExitStack) -> Connection:
    ours, theirs = Pipe()
    with theirs:
        child = subprocess.Popen(  # noqa: S603  (this very interpreter)
            [sys.executable, "-P", "-c", f"from training.reading import serve; serve({theirs.fileno()})"],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            pass_fds=[theirs.fileno()],
            start_new_session=True,  # Ctrl-C in a terminal is for the parent alone
        )
    stack.enter_context(child)
    stack.callback(child.kill)
    return stack.enter_context(ours)


def serve(descriptor: int) -> None:
    """The life of a child: to read what it is asked for, until nobody is there to ask."""
    with Connection(descriptor) as parent, suppress(EOFError, ConnectionError):
        while True:
            parent.send(read(*parent.recv()))
