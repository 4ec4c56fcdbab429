"""What /explain answers, for a network whose reasons are known: it looks at one corner alone."""

import asyncio

import httpx
import numpy as np
import pytest
from PIL import Image

from models.card import ModelCard
from models.pixels import Pixels
from server.engine import Predictions
from server.explain import GRID, occlude
from server.settings import Settings
from tests.pictures import encode
from tests.server.test_http_api import ask

CORNER = 8  # pixels
PICTURE = np.zeros((32, 32, 3), np.uint8)
PICTURE[:CORNER, :CORNER] = 255


class LooksAtACorner:
    """`light` is as probable as the corner at the top left is light. After so many batches another model answers."""

    slots = 1
    ready = True

    def __init__(self, changes_after: int = -1, classes: tuple[str, ...] = ("dark", "light")) -> None:
        self.card = ModelCard(classes=classes, sha256="a" * 64)
        self.batch_sizes: list[int] = []
        self._changes_after = changes_after

    async def infer(self, pixels: Pixels) -> Predictions:
        if len(self.batch_sizes) == self._changes_after:
            self.card = ModelCard(classes=("dark", "light"), sha256="b" * 64)
        self.batch_sizes.append(len(pixels))
        light = pixels[:, :CORNER, :CORNER].mean(axis=(1, 2, 3)) / 255
        others = [0 * light] * (len(self.card.classes) - 2)
        return Predictions(np.stack([1 - light, light, *others], axis=1).astype(np.float32), self.card)

    async def reload(self) -> ModelCard:
        return self.card


def post(engine: LooksAtACorner, path: str, body: bytes) -> httpx.Response:
    return asyncio.run(ask(Settings(max_batch_size=50), engine, "POST", path, content=body))


def explain(engine: LooksAtACorner, query: str = "") -> dict[str, object]:
    answer: dict[str, object] = post(engine, f"/explain{query}", encode(Image.fromarray(PICTURE))).json()
    return answer


def test_every_place_is_covered_in_turn_and_nothing_else_is_touched() -> None:
    noise = np.random.default_rng(0).integers(1, 256, (32, 32, 3), dtype=np.uint8)
    covered = np.concatenate(list(occlude(noise, batch_size=50)))
    changed = (covered != noise).any(axis=-1)
    assert len(covered) == GRID * GRID
    assert changed.any(axis=0).all(), "every pixel is covered in some of them"
    assert changed.sum(axis=(1, 2)).max() <= 12 * 12
    assert not changed[0, 8:].any()
    assert not changed[-1, :24].any()


def test_only_the_corner_that_the_network_looks_at_speaks() -> None:
    answer = explain(LooksAtACorner())
    covered = np.array(answer["covered"])
    assert (answer["label"], answer["class_id"], answer["probability"]) == ("light", 1, 1)
    assert covered.shape == (GRID, GRID)
    assert covered[:3, :3].max() < 0.7
    assert (covered[7:] == 1).all()
    assert (covered[:, 7:] == 1).all()


def test_what_speaks_for_one_of_two_classes_speaks_against_the_other() -> None:
    light, dark = explain(LooksAtACorner()), explain(LooksAtACorner(), "?class_id=0")
    assert dark["label"] == "dark"
    np.testing.assert_allclose(np.array(dark["covered"]), 1 - np.array(light["covered"]), atol=2e-6)


def test_no_batch_is_larger_than_the_network_takes() -> None:
    engine = LooksAtACorner()
    explain(engine)
    assert engine.batch_sizes == [1, 50, 50, 50, 50, 50, 6]


def test_an_explanation_is_of_one_model_though_another_takes_its_place_meanwhile() -> None:
    engine = LooksAtACorner(changes_after=3)
    answer = explain(engine)
    assert answer["model"] == {"name": "cifar_net", "version": "b" * 12}
    assert sum(engine.batch_sizes) == 2 * (1 + GRID * GRID)


@pytest.mark.parametrize("class_id", ["2", "-1", "1.0", "", "²", "9" * 30])
def test_a_class_that_there_is_not_is_refused(class_id: str) -> None:
    answer = post(LooksAtACorner(), f"/explain?class_id={class_id}", encode(Image.fromarray(PICTURE)))
    assert answer.status_code == 400
    assert "from 0 to 1" in answer.json()["detail"]


def test_a_class_that_the_model_of_the_meantime_has_no_more_is_refused() -> None:
    engine = LooksAtACorner(changes_after=0, classes=("dark", "light", "red"))
    answer = post(engine, "/explain?class_id=2", encode(Image.fromarray(PICTURE)))
    assert answer.status_code == 400
    assert answer.json()["detail"] == "class_id must be a whole number from 0 to 1, not '2'"


@pytest.mark.parametrize("path", ["/explain", "/preview"])
def test_what_is_no_picture_is_refused_as_predict_refuses_it(path: str) -> None:
    refused = post(LooksAtACorner(), path, b"no picture")
    assert (refused.status_code, refused.json()["code"]) == (422, "not_an_image")
    assert refused.json()["detail"] == post(LooksAtACorner(), "/predict", b"no picture").json()["detail"]
