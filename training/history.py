"""What is kept of a run's epochs: the curves of a report."""

from typing import NamedTuple


class Epoch(NamedTuple):
    """One pass over the training images."""

    number: int  # from 1
    loss: float  # mean over its mini-batches
    learning_rate: float  # after its last update
    accuracy: float | None  # on the validation images; None where none are held back
    seconds: float  # of training since the run began, those before a resume too
