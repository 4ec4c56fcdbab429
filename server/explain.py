"""Which part of a picture speaks for a class: where a square covers it, the probability of the class falls.

Occlusion sensitivity, https://arxiv.org/abs/1311.2901, section 4.2. It asks for nothing but predictions, so it explains
every network on every engine, at the price of GRID x GRID of them.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.card import ModelCard
from models.pixels import Pixels
from server.errors import BadRequest
from server.service import Service

GRID = 16  # places of the square in a row, and in a column
_COVERED = 3 / 8  # of the picture's side: with less, a network that is sure finds enough beside the square


@dataclass(frozen=True, slots=True)
class Explanation:
    """covered: float32 [GRID, GRID], the probability of one class while a square covers each place.

    Where it is lower than `probability`, what is covered speaks for the class; where it is higher, against it.
    """

    covered: npt.NDArray[np.float32]
    class_id: int
    probability: float  # of the class, with nothing covered
    card: ModelCard


async def explain(service: Service, pixels: Pixels, class_id: int | None, batch_size: int) -> Explanation:
    """uint8 [H, W, 3], as the model takes it → what speaks for this class, or for the most probable one.

    No more than `batch_size` pictures at a time are with the workers, so that others' requests get between.
    Raises InferenceFailed, or BadRequest where the model that answers has no such class.
    """
    while True:
        answers = [await service.probe(pixels[None])]
        answers += [await service.probe(batch) for batch in occlude(pixels, batch_size)]
        if len({answer.card.version for answer in answers}) == 1:  # else the model changed on the way
            break
    probabilities = np.concatenate([answer.probabilities for answer in answers])
    explained = int(probabilities[0].argmax()) if class_id is None else class_id
    if explained >= probabilities.shape[1]:  # it had, when it was asked for
        raise no_such_class(str(class_id), probabilities.shape[1])
    plain, *covered = probabilities[:, explained]
    return Explanation(np.reshape(covered, (GRID, GRID)), explained, float(plain), answers[0].card)


def no_such_class(class_id: str, classes: int) -> BadRequest:
    return BadRequest(f"class_id must be a whole number from 0 to {classes - 1}, not {class_id[:20]!r}")


def occlude(pixels: Pixels, batch_size: int) -> Iterator[Pixels]:
    """uint8 [H, W, 3] → GRID x GRID copies, row by row, each with a square over it: uint8 [≤ batch_size, H, W, 3].

    The square has the picture's mean colour, which is less of a thing of its own than black or grey.
    """
    height, width = pixels.shape[:2]
    squares = [(rows, columns) for rows in _stripes(height) for columns in _stripes(width)]
    colour = pixels.mean(axis=(0, 1)).round().astype(np.uint8)
    for start in range(0, len(squares), batch_size):
        of_this_batch = squares[start : start + batch_size]
        batch = np.repeat(pixels[None], len(of_this_batch), axis=0)
        for picture, (rows, columns) in zip(batch, of_this_batch, strict=True):
            picture[rows, columns] = colour
        yield batch


def _stripes(side: int) -> list[slice]:
    """GRID of them, evenly over the side. Those at its ends reach beyond it, and are cut."""
    half = side * _COVERED / 2
    centres = [(number + 0.5) * side / GRID for number in range(GRID)]
    return [slice(max(0, math.floor(centre - half)), math.ceil(centre + half)) for centre in centres]
