"""The worker process: loads the checkpoint, answers batches on a Unix socket, follows the checkpoint as it changes.

ClassifierServer starts one or more per device, and replaces those that die. Only workers, and the process that they are
forked from, import torch: the main process and the HTTP processes import this module too, and start faster and stay
smaller without torch.
"""

import contextlib
import functools
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from typing import TYPE_CHECKING, Any

import litserve
from litserve.loops.base import LitLoop

from models.card import ModelCard
from server import logs
from server.init import begin_worker
from server.settings import Settings
from server.wire import BATCH_FAILED, RELOAD, Kind, pack_predictions, unpack_batch

if TYPE_CHECKING:
    from server.live_model import LiveModel

_NEWS_EVERY_S = 0.5  # within which an HTTP process without requests hears of another checkpoint
_STUCK_DEADLINES, _STUCK_S = 10, 60.0  # a batch that takes longer than both is stuck: nobody waits for it any more

Turn = Callable[[], contextlib.AbstractContextManager[None]]

log = logging.getLogger(__name__)


def socket_path(folder: Path, worker_id: int) -> Path:
    """The Unix socket that worker `worker_id` listens on."""
    return folder / f"worker-{worker_id}.sock"


class ClassifierAPI(litserve.LitAPI):
    """Loads the checkpoint in the worker; the batches then come through SocketLoop, not through LitServe's queue."""

    def __init__(self, settings: Settings, sockets: Path, threads: int) -> None:
        super().__init__(loop=SocketLoop())  # type: ignore[no-untyped-call]  # LitServe's __init__ has no types
        self.settings = settings
        self.sockets = sockets
        self.threads = threads

    def setup(self, device: str) -> None:
        begin_worker()  # Ctrl-C reaches only the main process, which ends us after the HTTP processes
        logs.configure(self.settings.log_format, self.settings.log_level)
        from models.checkpoint import CheckpointError
        from server.live_model import LiveModel

        try:
            self.model = LiveModel(self.settings, self.sockets / "serving.pth", device, self.threads)
        except CheckpointError as error:
            sys.exit(f"cifar-serve: {error}")  # the main process sees this one end, and gives up
        if self.settings.reload:
            threading.Thread(target=self.model.follow_checkpoint, daemon=True).start()
        gc.freeze()  # a full collection over torch's object graph takes about 100 ms


class SocketLoop(LitLoop):
    """In place of LitServe's loop over its queue, which costs a third process and a round trip for every request."""

    def run(self, lit_api: litserve.LitAPI, device: str, worker_id: int, *_: Any) -> None:
        """Serves every HTTP process that connects, each from a thread of its own; never returns.

        SIGTERM, which a service manager may send to all processes at once, ends it once the last one has disconnected.
        """
        assert isinstance(lit_api, ClassifierAPI)  # noqa: S101
        path = socket_path(lit_api.sockets, worker_id)
        path.unlink(missing_ok=True)  # left by the worker before this one
        lock, stuck_s = threading.Lock(), max(_STUCK_S, _STUCK_DEADLINES * lit_api.settings.deadline_s)
        connections, stopping = set[Connection](), threading.Event()

        def end_when_idle() -> None:
            if stopping.is_set() and not connections:
                os._exit(0)

        def stop(*_: object) -> None:
            stopping.set()
            end_when_idle()

        def serve(connection: Connection) -> None:
            try:
                with connection:  # closed, whatever happens: the HTTP process sees it, and reconnects
                    _serve_connection(connection, lit_api.model, functools.partial(_turn, lock, stuck_s))
            finally:
                connections.discard(connection)
                end_when_idle()

        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process: see _turn
        with Listener(str(path), family="AF_UNIX", backlog=128) as listener:
            while True:
                connection = listener.accept()
                connections.add(connection)
                threading.Thread(target=serve, args=[connection], daemon=True).start()


@contextlib.contextmanager
def _turn(lock: threading.Lock, timeout_s: float) -> Iterator[None]:
    """One thread at a time. If it takes over `timeout_s`, as on a GPU that hangs, SIGALRM ends the process."""
    with lock:
        signal.setitimer(signal.ITIMER_REAL, timeout_s)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def _serve_connection(connection: Connection, model: "LiveModel", turn: Turn) -> None:
    """Answers the messages of one HTTP process, in order, until the connection ends."""
    told = None
    with contextlib.suppress(EOFError, OSError):  # it ended, perhaps in the middle of a message
        while True:
            answer, card = b"", model.card
            if told and connection.poll(_NEWS_EVERY_S):
                answer, card = _answer(connection.recv_bytes(), model, turn)
            if (news := (card, model.refused)) != told:  # sent before the answer, which this card has made
                connection.send_bytes(bytes([Kind.CARD, news[1]]) + card.model_dump_json().encode())
                told = news
            if answer:
                connection.send_bytes(answer)


def _answer(message: bytes, model: "LiveModel", turn: Turn) -> tuple[bytes, ModelCard]:
    """The message that answers this one, and the card of its model. Whatever a network raises becomes an answer too."""
    from models.checkpoint import CheckpointError

    if message == RELOAD:
        try:
            model.reload()
            return bytes([Kind.RELOADED]), model.card
        except CheckpointError as error:
            return bytes([Kind.FAILURE]) + str(error).encode(errors="replace"), model.card
    try:
        with turn():
            probabilities, card = model.predict(unpack_batch(message))
        return pack_predictions(probabilities), card
    except Exception:
        log.exception("a batch failed")
        _end_if_device_fails(model, turn)
        return bytes([Kind.FAILURE]) + BATCH_FAILED.encode(), model.card


def _end_if_device_fails(model: "LiveModel", turn: Turn) -> None:
    try:
        with turn():
            model.check_device()
    except Exception:  # this worker would fail every batch at once, and so get most of them
        log.critical("the device fails: this worker ends, to be replaced", exc_info=True)
        os._exit(1)
