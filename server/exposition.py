"""The page at /metrics: what all processes have counted (server/metrics.py), and what is expected of the model."""

import glob
import os
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from models.card import CONFIDENCE_BOUNDS, ModelCard
from server.metrics import folder


def render(model_name: str, card: ModelCard | None) -> bytes:
    """In Prometheus's text format 0.0.4. Reads files: some milliseconds; for a thread."""
    registry = CollectorRegistry()
    registry.register(_Written())
    registry.register(ServedModel(model_name, card))
    return generate_latest(registry)


class _Written(Collector):
    """What all processes have written."""

    def collect(self) -> Iterator[Metric]:
        # A process that starts makes its files before it gives them a size; MultiProcessCollector.collect fails there.
        files = [path for path in glob.glob(f"{folder()}/*.db") if _size(path)]
        yield from MultiProcessCollector.merge(files, accumulate=True)  # type: ignore[no-untyped-call]


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:  # of a process that has ended meanwhile
        return 0


class ServedModel(Collector):
    """What the process that is asked serves: read when asked, so that no version of the past lingers."""

    def __init__(self, name: str, card: ModelCard | None) -> None:
        self._name = name
        self._card = card

    def collect(self) -> Iterator[Metric]:
        labels = ["model", "version"]
        family = InfoMetricFamily("cifar_model", "The model that answers; always 1.", labels=labels)
        if self._card:
            family.add_metric([self._name, self._card.version], {"architecture": self._card.architecture})
        yield family
        yield from self._expected()

    def _expected(self) -> Iterator[Metric]:
        """What the card says of the test images, for what is counted above to be compared with."""
        classes = GaugeMetricFamily(
            "cifar_expected_predictions_ratio",
            "Part of the test images of the card, by the class predicted.",
            labels=["label"],
        )
        confidence = GaugeMetricFamily(
            "cifar_expected_confidence_ratio",
            "Part of the test images of the card with a confidence up to `le`.",
            labels=["le"],
        )
        if self._card and (scores := self._card.scores):  # a card need not have them
            for label, counts in zip(self._card.classes, zip(*scores.confusion, strict=False), strict=False):
                classes.add_metric([label], sum(counts) / scores.n)
            for bound, count in zip(CONFIDENCE_BOUNDS, scores.confidence, strict=False):
                confidence.add_metric([str(bound)], count / scores.n)
        yield classes
        yield confidence
