"""What the service answers, as dataclasses. Members that this version does not know are ignored."""

import json
from dataclasses import dataclass
from typing import Any

from clients.errors import ImageError, MalformedAnswer


@dataclass(frozen=True, slots=True)
class ClassProbability:
    """One class and its probability, 0..1."""

    label: str
    class_id: int
    probability: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """The likeliest class of one image, its probability 0..1, and the model that answered.

    `uncertain` is the service's own judgement, None where it gives none; `ranked` has the `top_k` classes, best first.
    """

    label: str
    class_id: int
    confidence: float
    ranked: tuple[ClassProbability, ...]
    model: str
    version: str
    uncertain: bool | None = None

    def top(self, k: int) -> tuple[ClassProbability, ...]:
        """The `k` likeliest classes, best first; no more than the `top_k` that were asked for."""
        return self.ranked[:k]


Answers = list[Prediction | ImageError]


def parse(content: bytes, count: int) -> Answers:
    """JSON → the answers to `count` images, in their order. Raises MalformedAnswer."""
    try:
        answer = json.loads(content)
        model, version = (_member(answer["model"], name, str) for name in ("name", "version"))
        answers = [_parse_one(item, model, version) for item in answer.get("predictions", [answer])]
    except (AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError) as error:
        raise MalformedAnswer(f"the answer is not cifar-service's ({type(error).__name__}: {error})") from None
    if len(answers) != count:
        raise MalformedAnswer(f"the service returned {len(answers)} predictions for {count} images")
    return answers


def _parse_one(item: dict[str, Any], model: str, version: str) -> Prediction | ImageError:
    if "error" in item:
        return ImageError(_member(item["error"], "code", str), _member(item["error"], "detail", str))
    ranked = tuple(ClassProbability(*_class(each), float(each["probability"])) for each in item["top"])
    uncertain = None if item.get("uncertain") is None else _member(item, "uncertain", bool)
    return Prediction(*_class(item), float(item["confidence"]), ranked, model, version, uncertain)


def _class(item: dict[str, Any]) -> tuple[str, int]:
    return _member(item, "label", str), _member(item, "class_id", int)


def _member(item: dict[str, Any], name: str, kind: type) -> Any:
    if not isinstance(value := item[name], kind):
        raise TypeError(f"{name} is {type(value).__name__}, not {kind.__name__}")
    return value
