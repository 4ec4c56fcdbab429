"""What can stop a training run."""

import re


class TrainingError(Exception):
    """A run that cannot start or cannot end. The message is a clear sentence or two: what is wrong and what to do."""


def is_out_of_memory(error: Exception) -> bool:
    """torch has a class of its own for CUDA alone."""
    if isinstance(error, RuntimeError):
        return bool(re.search("out of memory|can't allocate memory", str(error)))
    return isinstance(error, MemoryError)


def first_line(error: Exception) -> str:
    """Of what an error says, for a sentence of ours; its name where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
