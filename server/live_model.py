"""The classifier that a worker answers with, kept in step with its checkpoint on disk."""

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from models.card import PRETRAINED, ModelCard
from models.checkpoint import CheckpointError, build_classifier, card_path, read, write_atomically
from models.classifier import Classifier
from models.pixels import Pixels
from server.forward import Forward, make_forward
from server.settings import Settings
from server.wire import Probabilities

_LOOK_EVERY_S = 0.5
_TRY_AGAIN_S = 30.0  # for a refused checkpoint that has not changed: a GPU may have memory again, a disk its network

# For the checkpoint and for its card: inode, size, and when content and permissions changed; None if there is none.
_Files = list[tuple[int, int, int, int] | None]

log = logging.getLogger(__name__)


class _Serving(NamedTuple):
    forward: Forward
    card: ModelCard


class LiveModel:
    """The classifier that answers now. A changed checkpoint takes its place once it has shown that it works.

    `last_good` is a copy of the checkpoint being served, for all workers: a worker that is restarted serves it if the
    one on disk would be refused.
    """

    def __init__(self, settings: Settings, last_good: Path, device: str, threads: int) -> None:
        """Raises CheckpointError. `threads` is how many cores one forward pass on the CPU may take."""
        torch.set_num_threads(threads)
        self._settings = settings
        self._threads = threads
        self._last_good = last_good
        self._device = _usable(device)
        self.refused = False  # whether the checkpoint on disk cannot be served
        self._reloading = threading.Lock()
        self._files: _Files | None = None  # as they were when they were last read
        self._read_at = 0.0
        self._serving, weights = self._start()
        self._save_last_good(weights)

    @property
    def card(self) -> ModelCard:
        return self._serving.card

    def predict(self, pixels: Pixels) -> tuple[Probabilities, ModelCard]:
        """uint8 [N, H, W, 3] → float32 [N, C] and the card of the one model that made all of them."""
        serving = self._serving  # read once: another may take its place meanwhile
        return serving.forward(pixels), serving.card

    def check_device(self) -> None:
        """Raises torch's error if the device computes no more, as a GPU after a fatal error. Lack of memory is none."""
        with contextlib.suppress(torch.OutOfMemoryError):
            torch.ones(1, device=self._device).add(1).cpu()

    def follow_checkpoint(self) -> None:
        """Runs for ever: reloads the checkpoint if its files have changed, or if it may be refused no longer."""
        while True:
            time.sleep(_LOOK_EVERY_S)
            try:
                due = self.refused and time.monotonic() > self._read_at + _TRY_AGAIN_S
                if due or self._stat_files() != self._files:
                    with contextlib.suppress(CheckpointError):  # logged
                        self.reload()
            except Exception:  # without this thread there would be no more reloads
                log.exception("cannot tell whether the checkpoint has changed: trying again in %g s", _TRY_AGAIN_S)
                time.sleep(_TRY_AGAIN_S)

    def reload(self) -> None:
        """Serves the checkpoint as it is on disk. Raises CheckpointError: the one that served before stays in use."""
        with self._reloading:
            if self._stat_files() == self._files and not self.refused:
                return
            try:
                candidate, weights = self._read(self.card)
            except CheckpointError as error:
                self.refused = True
                log.error("still serving %s: %s", self.card.version, error)
                raise
            self.refused = False
            if candidate.card != self.card:
                log.info("now serving %s in place of %s", candidate.card.version, self.card.version)
                self._serving = candidate
                self._save_last_good(weights)

    def _start(self) -> tuple[_Serving, bytes]:
        """What to serve first, and its weights. A restarted worker takes only what the others may be serving too."""
        try:
            weights, card = read(self._last_good)
        except CheckpointError:  # there is none: the service is starting, or there was no room for it
            return self._read(None)
        if self._settings.reload:
            try:
                return self._read(card)
            except CheckpointError as error:
                self.refused = True
                log.error("restarting with the checkpoint served before: %s", error)
        return self._try(build_classifier(self._last_good, weights, card)), weights

    def _read(self, served: ModelCard | None) -> tuple[_Serving, bytes]:
        """What is on disk, and its weights, if it can take the place of what is served (None: of nothing).

        Raises CheckpointError and nothing else, whatever the disk, the network or the device raise.
        """
        self._files, self._read_at = self._stat_files(), time.monotonic()
        path = self._settings.checkpoint_path()
        try:
            weights, card = read(path, served)
            if served and card.input_size != served.input_size:
                sizes = f"{card.input_size} pixels a side in place of {served.input_size}"
                raise CheckpointError(f"it takes another input size, {sizes}: restart to serve it")
            if served and card.sha256 != served.sha256 and path.parent == PRETRAINED:
                raise CheckpointError(f"{self._settings.checkpoint} is gone: restart to serve {path} in its place")
            with self._crash_guard() if served else contextlib.nullcontext():
                return self._try(build_classifier(path, weights, card)), weights
        except CheckpointError:
            raise
        except Exception as error:
            log.exception("%s cannot be served", path)
            raise CheckpointError(f"{path} cannot be served: {type(error).__name__}: {error}") from error

    @contextlib.contextmanager
    def _crash_guard(self) -> Iterator[None]:
        """Refuses a checkpoint that has killed the workers that tried it, by its memory say, which they cannot catch.

        Each that enters the block leaves a note of these files, which it takes back at the end. Raises CheckpointError
        if two that left one are no more: a single one may have been killed for another reason.
        """
        files, notes = repr(self._files), self._last_good.parent
        killed = [note for note in notes.glob("*.trying") if _was_killed(note, files)]
        if len(killed) > 1:
            raise CheckpointError("two workers that tried it were killed, perhaps for lack of memory: replace it")
        note = notes / f"{os.getpid()}.trying"
        with contextlib.suppress(OSError):
            note.write_text(files)
        try:
            yield
        finally:
            note.unlink(missing_ok=True)

    def _save_last_good(self, weights: bytes) -> None:
        """Copies what serves now to `last_good`. On a full disk there is no copy, and a warning."""
        card = card_path(self._last_good)
        try:
            write_atomically({card: self.card.model_dump_json().encode(), self._last_good: weights})
        except OSError as error:
            log.warning("a worker that is restarted will need the checkpoint on disk, as there is no copy: %s", error)
            for path in (self._last_good, card):  # of the one before
                with contextlib.suppress(OSError):
                    path.unlink()

    def _try(self, classifier: Classifier) -> _Serving:
        return _Serving(make_forward(classifier, self._device, self._settings.forward, self._threads), classifier.card)

    def _stat_files(self) -> _Files:
        stats: _Files = []
        checkpoint = self._settings.checkpoint_path()  # anew each time: the default is one that may appear
        for path in (checkpoint, card_path(checkpoint)):
            try:
                stat = path.stat()
                stats.append((stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
            except OSError:
                stats.append(None)
        return stats


def _was_killed(note: Path, files: str) -> bool:
    """Whether the worker of this note was killed while it tried these files."""
    try:
        if note.read_text() == files:  # else of other files, or a full disk kept nothing of it
            os.kill(int(note.stem), 0)
    except ProcessLookupError:
        return True
    except OSError:  # taken back meanwhile; or the process id is another user's now
        pass
    return False


def _usable(device: str) -> torch.device:
    if device.startswith("cuda") and not torch.cuda.is_available():
        log.warning("this machine has an NVIDIA driver, but this torch cannot use it: serving on the CPU")
        return torch.device("cpu")
    return torch.device(device)
