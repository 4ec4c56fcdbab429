"""What can stop a training run."""

import re
from collections.abc import Iterator
from contextlib import contextmanager


class TrainingError(Exception):
    """A run that cannot start or cannot end. The message is a clear sentence or two: what is wrong and what to do."""


def is_out_of_memory(error: Exception) -> bool:
    """torch has a class of its own for CUDA alone."""
    if isinstance(error, RuntimeError):
        return bool(re.search("out of memory|can't allocate memory", str(error)))
    return isinstance(error, MemoryError)


@contextmanager
def out_of_memory_told() -> Iterator[None]:
    """Raises TrainingError where the memory does not suffice for the block."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError("there is too little memory: choose a smaller --batch-size or --image-size") from None


def first_line(error: Exception) -> str:
    """Of what an error says, for a sentence of ours; its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
