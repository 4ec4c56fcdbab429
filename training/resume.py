"""How a run that was stopped goes on: its state is written after every epoch, and when it is told to stop."""

import io
import pickle
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from models.checkpoint import write_atomically
from training.errors import TrainingError


class SavedRun:
    """The state of one run on disk, whole or not at all; `identity` tells it from others."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        self._identity = identity

    def load(self) -> dict[str, Any]:
        """What was saved. Raises TrainingError where there is nothing, or another run's."""
        try:
            saved = torch.load(self.path, weights_only=True)
        except FileNotFoundError:
            raise TrainingError(f"there is no {self.path} to go on from: train without --resume") from None
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            raise TrainingError(f"{self.path} cannot be read ({error}): train without --resume") from None
        for name, value in self._identity.items():
            if saved["identity"][name] != value:
                raise TrainingError(
                    f"{self.path} is of a run whose {name} was {saved['identity'][name]!r}, not {value!r}: "
                    "repeat its command with --resume, or train anew without"
                )
        state: dict[str, Any] = saved["state"]
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Raises TrainingError where it cannot be written; what was saved before is intact then."""
        buffer = io.BytesIO()
        torch.save({"identity": self._identity, "state": state}, buffer)
        try:
            write_atomically(self.path, buffer.getvalue())
        except OSError as error:
            go_on = ", and go on with --resume" if self.path.exists() else ""
            raise TrainingError(f"{self.path} cannot be written ({error.strerror}): make room{go_on}") from None


@contextmanager
def signals_put_off() -> Iterator[Callable[[], bool]]:
    """SIGINT and SIGTERM wait until the end of the block. Gives what tells whether one does; a second does not wait."""
    waiting: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def put_off(number: int, frame: FrameType | None) -> None:
        if waiting:
            restore()
        waiting.append(number)

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, put_off)
    try:
        yield lambda: bool(waiting)
    finally:
        restore()
        if waiting:
            signal.raise_signal(waiting[0])
