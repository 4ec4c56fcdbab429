"""What an evaluation found, and the figures that follow from it: accuracy with its interval, confusion, latencies."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from clients.datasets import Example
from clients.errors import ImageError
from clients.results import Prediction


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a fraction of n ≥ 1 (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""
    z = 1.959964
    fraction, spread = correct / n, z * z / n
    centre = fraction + spread / 2
    half = z * math.sqrt(fraction * (1 - fraction) / n + spread / (4 * n))
    return max(0.0, (centre - half) / (1 + spread)), min(1.0, (centre + half) / (1 + spread))


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that `percent` % of all are at most (nearest rank)."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]


@dataclass(frozen=True)
class Scores:
    """The answers to `examples`, one each; a refused image counts as wrong.

    `classes` are the service's, in its order; `seconds` is the whole run's, `latencies_s` each request's.
    """

    classes: list[str]
    examples: list[Example]
    answers: list[Prediction | ImageError]
    seconds: float
    latencies_s: list[float]

    @property
    def n(self) -> int:
        return len(self.examples)

    @property
    def accuracy(self) -> float:
        return self.correct / self.n

    @property
    def correct(self) -> int:
        return sum(self.confusion[label, label] for label in self.classes)

    @property
    def refused(self) -> list[tuple[str, ImageError]]:
        pairs = zip(self.examples, self.answers, strict=True)
        return [(example.name, answer) for example, answer in pairs if isinstance(answer, ImageError)]

    @cached_property
    def confusion(self) -> Counter[tuple[str, str]]:
        """How often (true class, predicted class) came; refused images are in no pair."""
        pairs = zip(self.examples, self.answers, strict=True)
        return Counter((example.truth, answer.label) for example, answer in pairs if isinstance(answer, Prediction))

    @cached_property
    def per_class(self) -> dict[str, tuple[int, float]]:
        """n and accuracy of each class that has images, in the service's order."""
        n = Counter(example.truth for example in self.examples)
        return {label: (n[label], self.confusion[label, label] / n[label]) for label in self.classes if n[label]}

    @cached_property
    def models(self) -> list[str]:
        """`name version` of all that answered."""
        found = {f"{answer.model} {answer.version}" for answer in self.answers if isinstance(answer, Prediction)}
        return sorted(found)
