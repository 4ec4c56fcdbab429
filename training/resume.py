"""How a run that was stopped goes on: its state is written after every epoch, and when it is told to stop."""

import io
import os
import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from models.checkpoint import write_atomically
from training import distributed
from training.errors import TrainingError


class SavedRun:
    """The state of one run on disk, whole or not at all; `identity` tells it from others."""

    def __init__(self, path: Path, identity: dict[str, Any]) -> None:
        self.path = path
        self._identity = identity

    def load_where_asked(self, asked: bool) -> dict[str, Any] | None:
        """What was saved, for all processes as the first one finds it; None for a run that starts anew.

        One that torchrun starts again goes on unasked, if it was saved. Raises TrainingError as `load`.
        """
        restarts = distributed.all_reduce_max(int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)))  # not on every host
        asked, state = asked or restarts > 0, None
        if distributed.rank() == 0 and self.path.exists():
            state = self.load() if asked else None
            if not state:
                self._put_aside("is of other or changed pictures" if asked else "held a stopped run")
        elif asked:
            distributed.say(f"There is no {self.path} to go on from: this run begins anew")
        return distributed.broadcast_from_first(state)

    def _put_aside(self, why: str) -> None:
        """Whoever forgot `--resume`, or took other pictures by mistake, loses nothing."""
        names = (Path(f"{self.path}.{number}") for number in count(1))
        aside = next(name for name in names if not name.exists())
        self.path.replace(aside)
        distributed.say(
            f"{self.path} {why}, and is now {aside}: this run begins anew. To go on with that one, stop this one, move "
            "it back, and use --resume with its pictures"
        )

    def load(self) -> dict[str, Any] | None:
        """What was saved; None if the pictures are others now, as for a job that is tried again while more come in.

        Raises TrainingError where it is damaged, or of another command.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                if archive.testzip():  # torch does not look at the checksums
                    raise ValueError
            saved = torch.load(self.path, map_location="cpu", weights_only=True)
            identity: dict[str, Any] = saved["identity"]
            state: dict[str, Any] = saved["state"]
        except OSError as error:
            raise TrainingError(f"{self.path} cannot be read: {error.strerror}") from None
        except Exception:  # of damage torch and zipfile raise EOFError, KeyError, RuntimeError, BadZipFile, ...
            raise TrainingError(f"{self.path} is damaged: train anew without --resume") from None
        others = [name for name, value in self._identity.items() if identity.get(name) != value]
        if others == ["data_fingerprint"]:
            return None
        if others:
            name = others[0]
            raise TrainingError(
                f"{self.path} is of a run whose {name} was {identity.get(name)!r}, not {self._identity[name]!r}: "
                "repeat its command with --resume, or train anew without"
            )
        return state

    def save(self, state: dict[str, Any]) -> None:
        """By the first of several processes. Raises TrainingError where it cannot; what was saved before is intact."""
        if distributed.rank() > 0:
            return
        buffer = io.BytesIO()
        torch.save({"identity": self._identity, "state": state}, buffer)
        try:
            write_atomically({self.path: buffer.getvalue()})
        except OSError as error:
            go_on = ", and go on with --resume" if self.path.exists() else ""
            raise TrainingError(f"{self.path} cannot be written ({error.strerror}): make room{go_on}") from None


@contextmanager
def signals_put_off() -> Iterator[Callable[[], bool]]:
    """SIGINT, SIGTERM and SIGHUP wait until the end of the block. Yields a function that says whether one is waiting.

    A second SIGINT acts at once: somebody is impatient. A second SIGTERM does not: a service manager sends it to
    torchrun and to its processes, and torchrun passes its own on. All processes of a run must call the function at the
    same places: then a signal to one stops all of them at the same place.
    """
    waiting = 0  # the first signal, for all processes; 0 for none
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    before = {number: handler for number, handler in before.items() if handler != signal.SIG_IGN}  # as nohup has it

    def put_off(number: int, frame: FrameType | None) -> None:
        nonlocal waiting
        if number == signal.SIGINT:
            signal.signal(number, before[signal.SIGINT])
        waiting = waiting or number

    def told_to_stop() -> bool:
        nonlocal waiting
        anywhere = distributed.all_reduce_max(waiting)
        waiting = waiting or anywhere
        return anywhere > 0  # not our own that came meanwhile: all stop at the same place

    for number in before:
        signal.signal(number, put_off)
    try:
        yield told_to_stop
    except (RuntimeError, TrainingError):  # to be told: torchrun stops the others when one is lost, as they find out
        waiting = 0
        if signal.SIGTERM in before:
            before[signal.SIGTERM] = signal.SIG_IGN
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if waiting:
            signal.raise_signal(waiting)
