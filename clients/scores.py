"""The results of an evaluation: accuracy with its interval, confusion, latencies, and whether two services differ."""

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from clients.datasets import Example
from clients.errors import ImageError
from clients.results import Answers, Prediction

_PERCENTILES = (50, 95, 99)
_SIGNIFICANCE_LEVEL = 0.05  # a difference with a smaller p-value is called more than chance


def summarise(
    classes: list[str], examples: Sequence[Example], answers: Answers, seconds: float, latencies_s: list[float]
) -> dict[str, Any]:
    """All results and every prediction, ready for JSON; fractions are 0..1. A refused image counts as wrong.

    `classes` are the service's, in its order; `seconds` is the whole run's time, `latencies_s` each answered request's.
    """
    labels = [answer.label if isinstance(answer, Prediction) else None for answer in answers]
    pairs = Counter(zip((example.truth for example in examples), labels, strict=True))
    n, of_class = len(examples), Counter(example.truth for example in examples)
    correct = sum(pairs[label, label] for label in classes)
    return {
        "models": sorted({f"{answer.model} {answer.version}" for answer in answers if isinstance(answer, Prediction)}),
        "n": n,
        "correct": correct,
        "accuracy": correct / n,
        "interval": wilson_interval(correct, n),
        "refused": labels.count(None),
        "per_class": {
            label: {"n": of_class[label], "accuracy": pairs[label, label] / of_class[label]}
            for label in classes
            if of_class[label]
        },
        "classes": classes,
        "confusion": [[pairs[truth, label] for label in classes] for truth in classes],
        "seconds": seconds,
        "images_per_s": n / seconds,
        "latency_s": {f"p{each}": percentile(latencies_s, each) for each in _PERCENTILES},
        "predictions": [
            {"file": example.name, "truth": example.truth, **_describe(answer)}
            for example, answer in zip(examples, answers, strict=True)
        ],
    }


def _describe(answer: Prediction | ImageError) -> dict[str, Any]:
    if isinstance(answer, ImageError):
        return {"label": None, "confidence": None, "error": dataclasses.asdict(answer)}
    return {"label": answer.label, "confidence": answer.confidence}


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Two summaries of the same images → how many each alone gets right, and what McNemar's exact test says of that."""
    right = [[each["label"] == each["truth"] for each in scores["predictions"]] for scores in (ours, theirs)]
    pairs = Counter(zip(*right, strict=True))
    only_ours, only_theirs = pairs[True, False], pairs[False, True]
    p = mcnemar(only_ours, only_theirs)
    return {"only_this": only_ours, "only_against": only_theirs, "p": p, "more_than_chance": p < _SIGNIFICANCE_LEVEL}


def mcnemar(only_first: int, only_second: int) -> float:
    """The two-sided p-value of McNemar's exact test: if both were equally good, how likely is so uneven a split?

    https://doi.org/10.1007/BF02295996; exact: a binomial test, a coin toss for each image that one alone gets right.
    """
    n = only_first + only_second
    tail = ways = 1  # `ways`: n over 0, then each from the one before; each from scratch takes hours where n is large
    for count in range(1, min(only_first, only_second) + 1):
        ways = ways * (n - count + 1) // count
        tail += ways
    return min(1.0, 2 * tail / (1 << n))


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a fraction of n ≥ 1 (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""
    z = 1.959964
    fraction, spread = correct / n, z * z / n
    centre = fraction + spread / 2
    half = z * math.sqrt(fraction * (1 - fraction) / n + spread / (4 * n))
    return max(0.0, (centre - half) / (1 + spread)), min(1.0, (centre + half) / (1 + spread))


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest of the values that at least `percent` % of them do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(len(values) * percent / 100) - 1)]
