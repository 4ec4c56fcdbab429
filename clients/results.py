"""What the service answers, as dataclasses; an answer of any other shape is refused, saying what is wrong with it."""

from dataclasses import dataclass
from typing import TypeVar

from clients.errors import ImageError, MalformedAnswer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ClassProbability:
    """One class and its probability, 0..1."""

    label: str
    class_id: int
    probability: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The likeliest class of one image, its probability 0..1, the `top` classes best first, and which model said so."""

    label: str
    class_id: int
    confidence: float
    top: tuple[ClassProbability, ...]
    model: str
    version: str


def parse_one(answer: object) -> Prediction:
    """The answer to one image. Raises MalformedAnswer."""
    return _prediction(answer, *_model(answer))


def parse_many(answer: object, expected: int) -> list[Prediction | ImageError]:
    """The answer to `expected` images, in their order. Raises MalformedAnswer."""
    items = _field(answer, "predictions", list)
    if len(items) != expected:
        raise MalformedAnswer(f"the service answered {len(items)} predictions to {expected} images")
    name, version = _model(answer)
    return [
        _image_error(item) if isinstance(item, dict) and "error" in item else _prediction(item, name, version)
        for item in items
    ]


def _model(answer: object) -> tuple[str, str]:
    model = _field(answer, "model", dict)
    return _field(model, "name", str), _field(model, "version", str)


def _prediction(item: object, model: str, version: str) -> Prediction:
    return Prediction(
        label=_field(item, "label", str),
        class_id=_field(item, "class_id", int),
        confidence=_fraction(item, "confidence"),
        top=tuple(
            ClassProbability(_field(each, "label", str), _field(each, "class_id", int), _fraction(each, "probability"))
            for each in _field(item, "top", list)
        ),
        model=model,
        version=version,
    )


def _image_error(item: object) -> ImageError:
    error = _field(item, "error", dict)
    return ImageError(_field(error, "code", str), _field(error, "detail", str))


def _fraction(item: object, name: str) -> float:
    value = item.get(name) if isinstance(item, dict) else None
    if not isinstance(value, (int, float)) or not 0 <= value <= 1.0001:  # float32 rounding may pass 1
        raise MalformedAnswer(f"the service's answer has no {name!r} between 0 and 1")
    return float(value)


def _field(item: object, name: str, kind: type[T]) -> T:
    value = item.get(name) if isinstance(item, dict) else None
    if not isinstance(value, kind):
        raise MalformedAnswer(f"the service's answer has no {name!r} that is a {kind.__name__}")
    return value
