"""Which part of a picture led to a class: where a square covers it, the probability of the class falls.

Occlusion sensitivity, https://arxiv.org/abs/1311.2901, section 4.2. It needs nothing but predictions, so it explains
every network on every engine, at the cost of GRID x GRID predictions.
"""

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from models.pixels import Pixels
from server.errors import BadRequest
from server.service import Service

GRID = 16  # places of the square in a row, and in a column
_COVERED = 3 / 8  # of the picture's side: beside a smaller square, a confident network still finds enough


async def explain(service: Service, pixels: Pixels, class_id: str | None) -> dict[str, Any]:
    """uint8 [H, W, 3], as the model takes it → what led to this class (None: the most probable), as schemas.Explained.

    The workers get one batch of pictures at a time, so that they can answer other requests in between.
    Raises InferenceFailed, or BadRequest if the model has no such class.
    """
    while True:
        answers = [await service.probe(pixels[None])]
        card, (probabilities,) = answers[0].card, answers[0].probabilities
        explained = int(probabilities.argmax()) if class_id is None else _read_class_id(class_id, len(card.classes))
        answers += [await service.probe(batch) for batch in occlude(pixels, service.settings.max_batch_size)]
        if len({answer.card.version for answer in answers}) == 1:  # else the model changed meanwhile
            break
    explained_class = np.concatenate([answer.probabilities for answer in answers])[:, explained]
    plain, *covered = explained_class.astype(float).round(6).tolist()
    return {
        "label": card.classes[explained],
        "class_id": explained,
        "probability": plain,
        "covered": np.reshape(covered, (GRID, GRID)).tolist(),
        "model": service.model_info(card),
    }


def _read_class_id(text: str, classes: int) -> int:
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) >= classes:
        raise BadRequest(f"class_id must be a whole number from 0 to {classes - 1}, not {text[:20]!r}")
    return int(text)


def occlude(pixels: Pixels, batch_size: int) -> Iterator[Pixels]:
    """uint8 [H, W, 3] → GRID x GRID copies, row by row, each with a square over it: uint8 [≤ batch_size, H, W, 3].

    The square has the picture's mean colour, which looks less like an object of its own than black or grey.
    """
    height, width = pixels.shape[:2]
    squares = [(rows, columns) for rows in _stripes(height) for columns in _stripes(width)]
    colour = pixels.mean(axis=(0, 1)).round().astype(np.uint8)
    for start in range(0, len(squares), batch_size):
        places = squares[start : start + batch_size]
        batch = np.repeat(pixels[None], len(places), axis=0)
        for picture, (rows, columns) in zip(batch, places, strict=True):
            picture[rows, columns] = colour
        yield batch


def _stripes(side: int) -> list[slice]:
    """GRID stripes, evenly spaced over the side. Those at its ends reach beyond it, and are cut off."""
    half = side * _COVERED / 2
    centres = [(number + 0.5) * side / GRID for number in range(GRID)]
    return [slice(max(0, math.floor(centre - half)), math.ceil(centre + half)) for centre in centres]
