"""`--promote PATH [--if-better]`: puts a new checkpoint in the place of the one that is served."""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from models.card import STRONG, ModelCard
from models.checkpoint import CheckpointError, load, save
from models.classifier import Classifier
from training.data import Data
from training.errors import TrainingError
from training.evaluation import evaluate
from training.resume import signals_put_off


def promote(path: Path, classifier: Classifier, card: ModelCard, data: Data, if_better: bool) -> str:
    """Write the checkpoint to `path` as well, at once for whoever follows that file; returns what was done and why.

    With `if_better` only where it is right on more of the run's test images than the checkpoint that is there, or than
    the one that cifar-serve serves where there is none.
    Raises TrainingError.
    """
    try:
        with _alone_in(path.parent):  # or another run's, better than this one, might come between comparing and saving
            if if_better and (reason := _not_better(path, card, data, classifier.mean.device)):
                return f"Not promoted: {reason}"
            with signals_put_off():
                save(path, classifier.net, card)
    except OSError as error:
        raise TrainingError(
            f"{path} cannot be written: {error.strerror}. The run's own --output was written: when {path} can be, the "
            "same command with --resume promotes it"
        ) from None
    return f"Promoted to {path}"


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Runs that promote to one folder take turns, where its file system can lock."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def to_be_better_than(path: Path, classes: Sequence[str], input_size: int) -> Classifier | None:
    """The checkpoint in `path`, or where there is none the one that cifar-serve serves then, if it knows these classes.

    Raises TrainingError where what is there cannot be compared with a network of these.
    """
    served = path if path.exists() else STRONG
    try:
        there = load(served)
    except CheckpointError as error:
        raise TrainingError(f"the checkpoint to compare with cannot be loaded: {error}") from None
    if (list(there.card.classes), there.card.input_size) == (list(classes), input_size):
        return there
    if served != path:
        return None
    raise TrainingError(
        f"{path} has other classes or another image size than this run, so no score can compare them: to replace it "
        "nevertheless, promote once with --no-if-better"
    )


def _not_better(path: Path, card: ModelCard, data: Data, device: torch.device) -> str | None:
    there = to_be_better_than(path, card.classes, card.input_size)
    if not there or there.card.sha256 == card.sha256:  # the same: by this run, which was stopped after that
        return None
    try:
        before = evaluate(there.to(device), data.pixels, data.labels, data.test, data.name)
    except TrainingError:  # it answers NaN
        return None
    assert card.scores  # noqa: S101
    if card.scores.accuracy > before.accuracy:
        return None
    name = path if path.exists() else f"there is no {path}, and {STRONG.stem}, which cifar-serve serves without one,"
    return f"{name} is right on {before.accuracy:.2%} of {before.n} test images, this one on {card.scores.accuracy:.2%}"
