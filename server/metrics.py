"""What the service counts. server/exposition.py shows it to Prometheus, summed over all processes.

Each process writes its numbers into files of its own in `$PROMETHEUS_MULTIPROC_DIR` (set before this module is
imported), and whichever process is asked adds all files up: nothing is lost with a process that has ended. A request
only appends to lists, in some 1 µs; every 0.25 s these are counted with numpy and written. prometheus_client's own
calls would take 20 µs per request.
"""

import asyncio
import contextlib
import glob
import logging
import os
from collections import Counter as Count
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence

import numpy as np
import numpy.typing as npt
import prometheus_client.mmap_dict
from prometheus_client import Counter, Gauge, Histogram

from models.card import CONFIDENCE_BOUNDS, ModelCard
from server.wire import Probabilities

_WRITE_EVERY_S = 0.25
_RESERVED_BYTES = 256 * 1024
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

# When a file grows, prometheus_client sets it to twice the size it believes it has: it must know what we reserve.
prometheus_client.mmap_dict._INITIAL_MMAP_SIZE = _RESERVED_BYTES

log = logging.getLogger(__name__)


class BulkHistogram(Histogram):
    """A histogram that takes many values at once."""

    def observe_all(self, values: npt.ArrayLike) -> None:
        # With a NaN the sum would be NaN for ever.
        numbers = np.nan_to_num(np.asarray(values, np.float64))
        self._sum.inc(float(numbers.sum()))
        counts = np.bincount(np.searchsorted(self._upper_bounds, numbers), minlength=len(self._buckets))
        for index in np.flatnonzero(counts).tolist():
            self._buckets[index].inc(int(counts[index]))


REQUESTS = Counter("cifar_requests", "Requests answered; 499 is a client that went away.", ["route", "status"])
REQUEST_SECONDS = BulkHistogram(
    "cifar_request_duration_seconds",
    "Time from a request's header to the end of its answer.",
    ["route"],
    buckets=_SECONDS,
)
REJECTIONS = Counter("cifar_rejections", "Requests, and images among many, that were refused.", ["code"])
QUEUE_SECONDS = BulkHistogram(
    "cifar_queue_wait_seconds",
    "Time until a request's images were sent to a worker, which may still be busy.",
    buckets=_SECONDS,
)
BATCH_SIZE = BulkHistogram(
    "cifar_batch_size_images", "Images that the network took at once.", buckets=[2**power for power in range(11)]
)
IMAGES = Counter("cifar_images", "Images classified.")
PREDICTIONS = Counter("cifar_predictions", "Images by the class predicted.", ["label"])
CONFIDENCE = BulkHistogram("cifar_confidence_ratio", "Probability of the class predicted.", buckets=CONFIDENCE_BOUNDS)
UNCERTAIN = Counter("cifar_uncertain_images", "Images marked uncertain.")
RELOADS = Counter("cifar_model_reloads", "Checkpoints taken over while serving.")
WORKER_RESTARTS = Counter("cifar_worker_restarts", "Workers that died and were replaced.")
IN_FLIGHT = Gauge("cifar_requests_in_flight", "Requests under way, this one included.", multiprocess_mode="livesum")
QUEUED = Gauge("cifar_queued_images", "Images that are not sent to a worker yet.", multiprocess_mode="livesum")
REFUSED = Gauge(
    "cifar_checkpoint_refused",
    "1 while the checkpoint on disk cannot be served, and the previous one stays in use.",
    multiprocess_mode="livesum",
)


class Recorder:
    """What this process has counted and not written yet. For its event loop only: nothing here is locked."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.queued: Callable[[], int] = lambda: 0
        self.counts_reloads = False  # only one HTTP process does: all of them see the same reloads
        self.card: ModelCard | None = None  # of the model that answers now
        self._reset()

    def _reset(self) -> None:
        self._requests: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
        self._rejections: Count[str] = Count()
        self._waits: list[float] = []
        # By classes and threshold: a reload may change both.
        self._batches: defaultdict[tuple[Sequence[str], float | None], list[Probabilities]] = defaultdict(list)

    def request(self, route: str, status: int, seconds: float) -> None:
        """One request is over."""
        self._requests[route, status].append(seconds)

    def rejected(self, code: str) -> None:
        """A request, or one image of many, was refused."""
        self._rejections[code] += 1

    def batch(self, waits_s: list[float], probabilities: Probabilities, card: ModelCard) -> None:
        """A batch was answered: how long each of its requests waited, its probabilities (float32 [N, C]) and card."""
        self._waits += waits_s
        self._batches[card.classes, card.uncertain_below].append(probabilities)

    def model(self, card: ModelCard, refused: bool = False) -> None:
        """A worker says that it serves `card`, and whether it has refused the checkpoint on disk."""
        if self.counts_reloads:
            REFUSED.set(refused)
            if self.card and self.card.version != card.version:
                RELOADS.inc()
        self.card = card

    def write(self) -> None:
        """Writes the counts into files that every process of the service can read. If it cannot, logs a warning."""
        try:
            self._write()
        except OSError as error:  # a service without metrics is better than none
            log.warning("metrics of the last %g s are lost: %s", _WRITE_EVERY_S, error)

    def _write(self) -> None:
        requests, rejections, waits, batches = self._requests, self._rejections, self._waits, self._batches
        self._reset()  # first: what cannot be written must not pile up
        IN_FLIGHT.set(self.in_flight)
        QUEUED.set(self.queued())
        for (route, status), seconds in requests.items():
            REQUESTS.labels(route, status).inc(len(seconds))
            REQUEST_SECONDS.labels(route).observe_all(seconds)
        for code, count in rejections.items():
            REJECTIONS.labels(code).inc(count)
        if waits:
            QUEUE_SECONDS.observe_all(waits)
        for (classes, uncertain_below), blocks in batches.items():
            BATCH_SIZE.observe_all([len(block) for block in blocks])
            _write_predictions(np.concatenate(blocks), classes, uncertain_below)

    async def keep_writing(self) -> None:
        """Writes every 0.25 s until cancelled."""
        _reserve_files()
        while True:
            self.write()
            await asyncio.sleep(_WRITE_EVERY_S)


@contextlib.asynccontextmanager
async def counting() -> AsyncIterator[None]:
    """Writes this process's counts while the block runs, and the last ones at its end."""
    task = asyncio.create_task(RECORDER.keep_writing())
    yield
    task.cancel()
    RECORDER.write()


def _write_predictions(probabilities: Probabilities, classes: Sequence[str], uncertain_below: float | None) -> None:
    IMAGES.inc(len(probabilities))
    confidence = probabilities.max(axis=1)
    CONFIDENCE.observe_all(confidence)
    if uncertain_below is not None:
        UNCERTAIN.inc(int(np.count_nonzero(confidence < uncertain_below)))
    counts = np.bincount(probabilities.argmax(axis=1), minlength=len(classes))
    for class_id in np.flatnonzero(counts).tolist():
        PREDICTIONS.labels(classes[class_id]).inc(int(counts[class_id]))


def _reserve_files() -> None:
    """Reserves disk space for this process's files: on a full disk, writing to a memory map ends it with SIGBUS."""
    IN_FLIGHT.set(0)  # creates all three files: after a fork, every metric is given its place again
    if hasattr(os, "posix_fallocate"):
        for path in glob.glob(f"{metrics_folder()}/*_{os.getpid()}.db"):
            with open(path, "r+b") as file, contextlib.suppress(OSError):  # not every file system can
                os.posix_fallocate(file.fileno(), 0, _RESERVED_BYTES)


def metrics_folder() -> str:
    return os.environ["PROMETHEUS_MULTIPROC_DIR"]


RECORDER = Recorder()
