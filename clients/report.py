"""Scores as text for people and as JSON for programs."""

from typing import Any

from clients.errors import ImageError
from clients.results import Prediction
from clients.scores import Scores, percentile, wilson_interval

_PERCENTILES = (50, 95, 99)
_LARGEST_MATRIX = 12  # classes that fit beside each other in 80 columns
_REFUSED_SHOWN = 5


def as_text(scores: Scores, batch_size: int, concurrency: int) -> str:
    """A page: the overall figures, the classes with their confusion, and what was refused."""
    low, high = wilson_interval(scores.correct, scores.n)
    latencies = ", ".join(f"p{each} {percentile(scores.latencies_s, each) * 1000:.0f} ms" for each in _PERCENTILES)
    lines = [
        f"model      {', '.join(scores.models) or 'unknown: it refused every image'}",
        f"accuracy   {scores.accuracy:.2%} ({scores.correct:,} of {scores.n:,}; 95 % interval {low:.2%} to {high:.2%})",
        f"speed      {scores.n / scores.seconds:,.0f} images/s ({scores.n:,} in {scores.seconds:.2f} s)",
        f"latency    {latencies} for a request of up to {batch_size} images, {concurrency} at a time",
    ]
    if len(scores.models) > 1:
        lines.append("warning: more than one model answered, so these figures belong to none of them")
    return "\n".join([*lines, "", *_class_lines(scores), *_refused_lines(scores)])


def as_json(scores: Scores, **about: object) -> dict[str, Any]:
    """Everything, each image's prediction too; `about` says what was evaluated. Fractions 0..1, seconds."""
    return {
        **about,
        "models": scores.models,
        "n": scores.n,
        "correct": scores.correct,
        "accuracy": scores.accuracy,
        "interval": wilson_interval(scores.correct, scores.n),
        "refused": len(scores.refused),
        "per_class": {label: {"n": n, "accuracy": accuracy} for label, (n, accuracy) in scores.per_class.items()},
        "classes": scores.classes,
        "confusion": [[scores.confusion[truth, label] for label in scores.classes] for truth in scores.classes],
        "seconds": scores.seconds,
        "images_per_s": scores.n / scores.seconds,
        "latency_s": {f"p{each}": percentile(scores.latencies_s, each) for each in _PERCENTILES},
        "predictions": [
            {"file": example.name, "truth": example.truth, **_answer(answer)}
            for example, answer in zip(scores.examples, scores.answers, strict=True)
        ],
    }


def _answer(answer: Prediction | ImageError) -> dict[str, Any]:
    if isinstance(answer, ImageError):
        return {"label": None, "confidence": None, "error": {"code": answer.code, "detail": answer.detail}}
    return {"label": answer.label, "confidence": answer.confidence}


def _class_lines(scores: Scores) -> list[str]:
    """One line a class, and where there are few enough of them, how often it was taken for which."""
    name_width = max(map(len, ["class", *scores.per_class]))
    matrix = len(scores.classes) <= _LARGEST_MATRIX
    count_width = max(4, *(len(str(count)) for count in scores.confusion.values()))
    heads = "".join(f" {label[:count_width]:>{count_width}}" for label in scores.classes)
    lines = [f"{'class':{name_width}}      n accuracy" + (f"  as{heads}" if matrix else "")]
    for truth, (n, accuracy) in scores.per_class.items():
        counts = "".join(f" {scores.confusion[truth, label]:{count_width}}" for label in scores.classes)
        lines.append(f"{truth:{name_width}} {n:6,} {accuracy:8.2%}" + (f"    {counts}" if matrix else ""))
    return lines


def _refused_lines(scores: Scores) -> list[str]:
    refused = scores.refused
    if not refused:
        return []
    lines = [f"  {name}: {error.detail}" for name, error in refused[:_REFUSED_SHOWN]]
    more = [f"  and {len(refused) - _REFUSED_SHOWN:,} more"] if len(refused) > _REFUSED_SHOWN else []
    return ["", f"refused    {len(refused):,}, counted as wrong:", *lines, *more]
