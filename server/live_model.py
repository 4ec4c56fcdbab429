"""The classifier that a worker answers with, kept in step with its checkpoint on disk."""

import contextlib
import hashlib
import logging
import threading
import time
from pathlib import Path
from typing import NamedTuple

import torch

from models.card import ModelCard
from models.checkpoint import CheckpointError, card_path, load, write_atomically
from models.classifier import Classifier
from models.pixels import Pixels
from server.forward import Forward, make_forward
from server.settings import Settings
from server.wire import Probabilities

_RELOAD_EVERY_S = 0.5

log = logging.getLogger(__name__)


class _Serving(NamedTuple):
    forward: Forward
    card: ModelCard


class LiveModel:
    """The classifier that answers now. A changed checkpoint takes its place once it has shown that it works.

    `last_good` is where the checkpoint that serves is kept: a worker that starts anew while the one on disk is damaged
    goes on with it.
    """

    def __init__(self, settings: Settings, last_good: Path, device: str, threads: int) -> None:
        """Raises CheckpointError. `threads` is how many cores one forward pass on the CPU may take."""
        torch.set_num_threads(threads)
        self._settings = settings
        self._threads = threads
        self._last_good = last_good
        self._device = _usable(device)
        self.refused = False  # whether the checkpoint on disk is one that cannot be served
        self._reloading = threading.Lock()
        self._files = self._stat_files()
        try:
            self._serving = self._try(load(settings.checkpoint_path()))
        except CheckpointError as error:
            if not last_good.exists():
                raise
            self.refused = True
            log.error("starting anew with the checkpoint served before: %s", error)
            self._serving = self._try(load(last_good))
        self._keep()

    @property
    def card(self) -> ModelCard:
        return self._serving.card

    def predict(self, pixels: Pixels) -> tuple[Probabilities, ModelCard]:
        """uint8 [N, H, W, 3] → float32 [N, C] and the card of the one model that made all of them."""
        serving = self._serving  # read once: another may take its place meanwhile
        return serving.forward(pixels), serving.card

    def follow_checkpoint(self) -> None:
        """Runs for ever: looks at the files, and takes over what has changed."""
        while True:
            time.sleep(_RELOAD_EVERY_S)
            if self._stat_files() != self._files:
                with contextlib.suppress(CheckpointError):  # logged, and looked at again when it has changed again
                    self.reload()

    def reload(self) -> None:
        """Take over the checkpoint as it is on disk. Raises CheckpointError: what served before serves on."""
        with self._reloading:
            self._files = self._stat_files()
            try:
                classifier = load(self._settings.checkpoint_path())
                if classifier.card.input_size != self.card.input_size:
                    raise CheckpointError("it takes another input size: restart to serve it")
                candidate = self._try(classifier)
            except CheckpointError as error:
                self.refused = True
                log.error("still serving %s: %s", self.card.version, error)
                raise
            self.refused = False
            if candidate.card != self.card:
                log.info("now serving %s in place of %s", candidate.card.version, self.card.version)
                self._serving = candidate
                self._keep()

    def _keep(self) -> None:
        """Copy what serves now to `last_good`, unless the files have changed again already. A full disk is no harm."""
        checkpoint, copied_card = self._settings.checkpoint_path(), card_path(self._last_good)
        try:
            weights = checkpoint.read_bytes() if checkpoint.exists() else b""
            if hashlib.sha256(weights).hexdigest() == self.card.sha256:
                write_atomically({copied_card: self.card.model_dump_json().encode(), self._last_good: weights})
        except OSError as error:
            log.warning("a worker that starts anew will need the checkpoint on disk, there is no copy: %s", error)
            for path in (self._last_good, copied_card):  # one without the other is none
                path.unlink(missing_ok=True)

    def _try(self, classifier: Classifier) -> "_Serving":
        return _Serving(make_forward(classifier, self._device, self._settings.forward, self._threads), classifier.card)

    def _stat_files(self) -> list[tuple[int, int, int] | None]:
        stats: list[tuple[int, int, int] | None] = []
        checkpoint = self._settings.checkpoint_path()  # anew each time: the default is one that may appear
        for path in (checkpoint, card_path(checkpoint)):
            try:
                stat = path.stat()
                stats.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
            except OSError:
                stats.append(None)
        return stats


def _usable(device: str) -> torch.device:
    if device.startswith("cuda") and not torch.cuda.is_available():
        log.warning("this machine has an NVIDIA driver, but this torch cannot use it: serving on the CPU")
        return torch.device("cpu")
    return torch.device(device)
