"""The page at /metrics: what all processes have counted (server/metrics.py), and what the model card expects."""

import glob
import os
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from models.card import CONFIDENCE_BOUNDS, ModelCard
from server.metrics import metrics_folder


def render(model_name: str, card: ModelCard | None) -> bytes:
    """The page, in Prometheus's text format 0.0.4. Reads files for some milliseconds: to be called in a thread."""
    registry = CollectorRegistry()
    registry.register(_Written())
    registry.register(ServedModel(model_name, card))
    return generate_latest(registry)


class _Written(Collector):
    """The metrics that all processes have written."""

    def collect(self) -> Iterator[Metric]:
        # A process that starts creates its files empty, and MultiProcessCollector.collect fails on empty ones.
        files = [path for path in glob.glob(f"{metrics_folder()}/*.db") if _size(path)]
        yield from MultiProcessCollector.merge(files, accumulate=True)  # type: ignore[no-untyped-call]


def _size(path: str) -> int:
    try:
        return os.path.getsize(path)
    except FileNotFoundError:  # its process has ended meanwhile
        return 0


class ServedModel(Collector):
    """The model that this process serves: read at each scrape, so that no past version lingers."""

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
        """What the card says of the test images, to compare the counted metrics with."""
        classes = GaugeMetricFamily(
            "cifar_expected_predictions_ratio",
            "Fraction of the card's test images, by the class predicted.",
            labels=["label"],
        )
        confidence = GaugeMetricFamily(
            "cifar_expected_confidence_ratio",
            "Fraction of the card's test images with a confidence up to `le`.",
            labels=["le"],
        )
        if self._card and (scores := self._card.scores):  # a card need not have them
            for label, counts in zip(self._card.classes, zip(*scores.confusion, strict=False), strict=False):
                classes.add_metric([label], sum(counts) / scores.n)
            for bound, count in zip(CONFIDENCE_BOUNDS, scores.confidence, strict=False):
                confidence.add_metric([str(bound)], count / scores.n)
        yield classes
        yield confidence
