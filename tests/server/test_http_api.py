"""The refusals on docs/http-api.md that no command there provokes are the service's own."""

import asyncio
import base64
import contextlib
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from models.card import ModelCard
from models.pixels import Pixels
from server.asgi import build_app
from server.engine import Engine, Predictions
from server.security import OPEN_PATHS
from server.settings import Settings
from tests.documents import blocks_of
from tests.pictures import draw_shape, encode

PAGE = Path(__file__).parents[2] / "docs" / "http-api.md"
DEADLINE_S = 0.05  # where the page has the default


class NeverDone:
    """An engine whose first batch takes for ever, as does what it is asked to load."""

    slots = 1
    ready = True
    card = ModelCard(sha256="a" * 64)

    async def infer(self, pixels: Pixels) -> Predictions:
        await asyncio.Event().wait()
        raise AssertionError

    async def reload(self) -> ModelCard:
        await asyncio.Event().wait()
        raise AssertionError


async def ask_for_more_than_it_can() -> list[httpx.Response]:
    """Once without a key, and with it four times at once where one picture may wait."""
    settings = Settings(api_keys=SecretStr("key"), max_waiting_images=1, deadline_s=DEADLINE_S)
    app = build_app(settings, NeverDone(), lambda app: contextlib.nullcontext())
    picture = encode(draw_shape("circle", 1))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        headers = [{}, *[{"X-API-Key": "key"}] * 4]
        return await asyncio.gather(*(client.post("/predict", content=picture, headers=each) for each in headers))


def test_the_refusals_that_the_page_shows_are_the_services_own() -> None:
    shown = {}
    for block in blocks_of(PAGE):
        if block.language == "http" and not block.is_output:
            head, _, body = block.text.partition("\n\n")
            shown[int(head.split()[1])] = (head.splitlines(), json.loads(body))
    answers = asyncio.run(ask_for_more_than_it_can())
    for answer in answers:
        head_lines, problem = shown[answer.status_code]
        said = {f"HTTP/1.1 {answer.status_code} {answer.reason_phrase}"}
        assert set(head_lines) <= said | {f"{name}: {value}" for name, value in answer.headers.items()}
        detail = answer.json()["detail"].replace(f"{DEADLINE_S:g} s", f"{Settings().deadline_s:g} s")
        assert {**answer.json(), "detail": detail} == {**problem, "request_id": answer.headers["X-Request-ID"]}
    assert {answer.status_code for answer in answers} == set(shown) == {401, 429, 504}


async def ask_one(method: str, path: str) -> httpx.Response:
    return await ask(Settings(deadline_s=DEADLINE_S), NeverDone(), method, path)


async def ask(settings: Settings, engine: Engine, method: str, path: str, **content: Any) -> httpx.Response:
    app = build_app(settings, engine, lambda app: contextlib.nullcontext())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
        return await client.request(method, path, **content)


class OfManyClasses(NeverDone):
    card = ModelCard(classes=tuple(map(str, range(2000))))


def test_an_answer_that_would_take_long_to_write_is_refused() -> None:
    pictures = {"images": [base64.b64encode(encode(draw_shape("circle", 1))).decode()] * 64}
    settings = Settings(deadline_s=DEADLINE_S)
    refused, slow = (
        asyncio.run(ask(settings, OfManyClasses(), "POST", f"/predict?top_k={top_k}", json=pictures))
        for top_k in (9999, 1500)
    )
    assert (refused.status_code, refused.json()["code"]) == (413, "too_many_images")
    assert "64 images with top_k=9999 are too much for one answer" in refused.json()["detail"]
    assert slow.status_code == 504


def test_a_body_for_which_there_will_never_be_room_is_too_large() -> None:
    settings = Settings(max_body_bytes=2000, max_waiting_bytes=1000)
    answer = asyncio.run(ask(settings, NeverDone(), "POST", "/predict", content=b"no picture" * 150))
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


def test_a_slash_at_the_end_is_another_path_and_leads_nowhere_else() -> None:
    answer = asyncio.run(ask_one("POST", "/predict/"))
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert "location" not in answer.headers
    assert asyncio.run(ask_one("GET", "/v2/")).json() == asyncio.run(ask_one("GET", "/v2")).json()


def test_a_long_path_is_not_said_back_without_end() -> None:
    assert len(asyncio.run(ask_one("GET", "/" + "a" * 10_000)).json()["detail"]) < 1100


@pytest.mark.parametrize("key", [None, SecretStr("key")])
def test_the_openapi_document_tells_of_keys_where_they_are_wanted(key: SecretStr | None) -> None:
    document = build_app(Settings(api_keys=key), NeverDone(), lambda app: contextlib.nullcontext()).openapi()
    schemes = document["components"].get("securitySchemes", {})
    operations = {path: operation for path, methods in document["paths"].items() for operation in methods.values()}
    wanted = {path for path, operation in operations.items() if "401" in operation["responses"]}
    assert wanted == {path for path, operation in operations.items() if operation.get("security")}
    assert wanted == (operations.keys() - OPEN_PATHS if key else set())
    assert {scheme["type"] for scheme in schemes.values()} == ({"apiKey", "http"} if key else set())


def test_a_checkpoint_that_no_worker_loads_in_time_is_a_timeout() -> None:
    answer = asyncio.run(ask_one("POST", "/v2/repository/models/cifar_net/load"))
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
