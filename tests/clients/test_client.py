"""`Client` and `AsyncClient`: what they take for an image, what they answer, and how they connect."""

import asyncio
import io
import json
import os
import ssl
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image, ImageOps

from clients import ClassProbability, Client, ImageInput, Prediction
from clients.errors import ServiceUnreachable, StatusError
from clients.images import load
from models.pixels import decode
from tests.clients.conftest import Ask, class_ids
from tests.clients.fake_service import FakeService, Reply, png
from tests.pictures import exif_with_a_damaged_tag

ROOT = Path(__file__).parents[2]


def test_a_prediction_says_the_class_its_confidence_the_runners_up_and_the_model(
    service: FakeService, ask: Ask
) -> None:
    assert ask.one(service.url, png(1)) == Prediction(
        label="square",
        class_id=1,
        confidence=0.9,
        ranked=(
            ClassProbability("square", 1, 0.9),
            ClassProbability("circle", 0, 0.1 / 255),
            ClassProbability("class2", 2, 0.1 / 255),
        ),
        model="cifar_net",
        version="0123456789ab",
    )


def test_an_image_may_be_a_path_its_text_or_a_pil_image(service: FakeService, ask: Ask, tmp_path: Path) -> None:
    path = tmp_path / "seven.png"
    path.write_bytes(png(7))
    images: list[ImageInput] = [path, str(path), Image.new("RGB", (3, 3), (7, 0, 0))]
    assert class_ids(ask.many(service.url, images)) == [7, 7, 7]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "I", "CMYK", "YCbCr", "HSV", "F"])
def test_a_pil_image_of_any_mode_is_sent(service: FakeService, mode: str) -> None:
    with Client(service.url) as client:
        assert client.predict(Image.new(mode, (2, 2))).model == "cifar_net"


def test_fractions_of_grey_arrive_as_they_are(service: FakeService) -> None:
    with Client(service.url) as client:
        client.predict(Image.new("F", (1, 1), 0.5))
    with Image.open(io.BytesIO(service.asked[0].body)) as arrived:
        assert arrived.getpixel((0, 0)) == 0.5


@pytest.mark.parametrize("mode", ["I;16", "I;16B"])
def test_grey_of_16_bits_arrives_as_it_is_whichever_byte_comes_first(mode: str) -> None:
    file = io.BytesIO()
    Image.frombytes(mode, (16, 16), bytes(range(256)) * 2).save(file, "TIFF")
    with Image.open(file) as picture:
        assert picture.mode == mode
        sent = load(picture)
    assert isinstance(sent, bytes)
    assert np.array_equal(decode(sent, 32), decode(file.getvalue(), 32))


def upright_size(image: bytes) -> tuple[int, int]:
    """Width and height of the picture as the service sees it."""
    with Image.open(io.BytesIO(image)) as picture:
        return ImageOps.exif_transpose(picture).size


def test_a_pil_image_is_sent_upright(service: FakeService) -> None:
    picture = Image.new("RGB", (4, 2))
    picture.getexif()[0x0112] = 6  # a quarter turn
    with Client(service.url) as client:
        client.predict(picture)
    assert upright_size(service.asked[0].body) == (2, 4)


def test_a_pil_image_is_sent_upright_whatever_else_its_exif_says(service: FakeService) -> None:
    file = io.BytesIO()
    Image.new("RGB", (4, 2)).save(file, "JPEG", exif=exif_with_a_damaged_tag(orientation=6))  # a quarter turn
    with Image.open(file) as picture, Client(service.url) as client:
        client.predict(picture)
    assert upright_size(service.asked[0].body) == (2, 4)


@pytest.mark.parametrize("orientation", [70_000, "top-left", 0.5])
def test_a_pil_image_is_sent_whatever_orientation_its_exif_claims(service: FakeService, orientation: object) -> None:
    picture = Image.new("RGB", (4, 2))
    picture.getexif()[0x0112] = orientation
    with Client(service.url) as client:
        client.predict(picture)
    assert upright_size(service.asked[0].body) == (4, 2)


def test_a_password_in_the_address_is_used_and_not_shown(service: FakeService, ask: Ask) -> None:
    ask.one(service.url.replace("http://", "http://user:secret@"), png(1))
    assert service.asked[0].headers["authorization"].startswith("Basic ")
    with pytest.raises(ServiceUnreachable, match=r"no answer from http://127\.0\.0\.1:9: ") as caught:
        ask.one("http://user:secret@127.0.0.1:9", png(1), retries=0)
    assert "secret" not in str(caught.value)


def test_a_redirect_is_not_followed_but_says_where_the_service_is(service: FakeService, ask: Ask) -> None:
    service.script.append(Reply(308, b"<html>", "text/html", {"Location": "https://host/predict?top_k=3"}))
    with pytest.raises(StatusError) as caught:
        ask.one(service.url, png(1))
    sentence = "this address redirects to https://host/predict?top_k=3: use the service's address there"
    assert str(caught.value) == f"{sentence} (HTTP 308 http_308)"
    assert len(service.asked) == 1


def test_tls_that_fails_after_its_handshake_is_an_error_of_ours(ask: Ask) -> None:
    """This happens if the service asks the client for a certificate."""

    def refuse(request: httpx.Request) -> httpx.Response:
        raise ssl.SSLError("TLSV13_ALERT_CERTIFICATE_REQUIRED")

    with pytest.raises(ServiceUnreachable, match="CERTIFICATE_REQUIRED"):
        ask.one("https://host", png(1), retries=0, transport=httpx.MockTransport(refuse))


def test_what_is_no_image_at_all_is_the_callers_mistake(service: FakeService) -> None:
    with Client(service.url) as client:
        with pytest.raises(TypeError, match="not int"):
            client.predict(3)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="several"):
            next(client.predict_many("cat.jpg"))


def test_a_url_that_is_none_is_refused_at_once() -> None:
    for url in (
        "localhost:8000",
        "ftp://host",
        "http://",
        "http://host:port",
        "http://127.0.0.256",
        "http://host\r",
        "http://host?key=1",
    ):
        with pytest.raises(ValueError, match=r"looks like http://127\.0\.0\.1:8000, not"):
            Client(url)


@pytest.mark.parametrize(("name", "proxy"), [("ALL_PROXY", "socks5://host:1"), ("all_proxy", "socks://host:1")])
def test_a_proxy_that_cannot_be_used_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, name: str, proxy: str) -> None:
    monkeypatch.setenv(name, proxy)
    with pytest.raises(ValueError, match="a proxy in the environment cannot be used: "):
        Client()


def test_certificates_that_are_not_there_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    with pytest.raises(ValueError, match="SSL_CERT_FILE or SSL_CERT_DIR in the environment cannot be used: "):
        Client("https://127.0.0.1")


def test_top_names_the_likeliest_first_and_no_more_than_were_asked_for(service: FakeService, ask: Ask) -> None:
    prediction = ask.one(service.url, png(1))
    assert [each.label for each in prediction.top(2)] == ["square", "circle"]
    assert prediction.top(10) == prediction.ranked


def test_what_a_newer_service_adds_is_passed_over_and_its_doubt_passed_on(service: FakeService, ask: Ask) -> None:
    answer = {"label": "cat", "class_id": 3, "confidence": 0.4, "top": [], "mood": "good"}
    for doubt in ({"uncertain": True}, {"uncertain": False}, {}):
        model = {"name": "n", "version": "v", "licence": "free"}
        service.script.append(Reply(200, json.dumps({**answer, **doubt, "model": model}).encode()))
        assert ask.one(service.url, png(1)).uncertain == doubt.get("uncertain")


def test_an_api_key_travels_with_each_request(service: FakeService, ask: Ask) -> None:
    ask.one(service.url, png(1), api_key="secret\n")  # as files have it
    assert service.asked[0].headers["x-api-key"] == "secret"


def test_the_quickstart_sends_the_key_in_the_environment(service: FakeService, tmp_path: Path) -> None:
    settings = {"CIFAR_URL": service.url, "CIFAR_API_KEY": "secret", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "examples" / "quickstart.py")]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, **settings}, capture_output=True, check=True)
    assert {asked.headers.get("x-api-key") for asked in service.asked} == {"secret"}


@pytest.mark.parametrize("key", ["sec\nret", "secrét"])
def test_a_key_that_no_header_can_hold_is_refused_without_being_told(key: str) -> None:
    with pytest.raises(ValueError, match=r"^the API key contains characters other than printable ASCII$"):
        Client(api_key=key)


def test_a_service_behind_a_path_is_found_and_httpx_transport_is_the_callers(service: FakeService) -> None:
    class Behind(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            paths.append(request.url.path)
            request.url = httpx.URL(f"{service.url}/predict?top_k=3")
            return await super().handle_async_request(request)

    paths: list[str] = []
    with Client("https://host/cifar/", transport=Behind()) as client:
        assert client.predict(png(7)).class_id == 7
    assert paths == ["/cifar/predict"]


def test_connections_are_used_again(service: FakeService) -> None:
    with Client(service.url) as client:
        for _ in range(5):
            client.predict(png(1))
    assert len({asked.connection for asked in service.asked}) == 1


def test_threads_share_a_client(service: FakeService) -> None:
    with Client(service.url) as client, ThreadPoolExecutor(8) as threads:
        found = list(threads.map(client.predict, map(png, range(50))))
    assert class_ids(found) == list(range(50))


def test_a_client_works_inside_a_running_event_loop(service: FakeService) -> None:
    """A notebook runs one."""

    async def notebook() -> int:
        with Client(service.url) as client:
            return client.predict(png(4)).class_id

    assert asyncio.run(notebook()) == 4


def test_importing_the_clients_loads_neither_torch_nor_numpy_nor_httpx() -> None:
    program = "import clients, clients.predict, clients.evaluate, sys; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    heavy = {"torch", "numpy", "httpx", "PIL", "rich", "models", "server", "training"}
    assert not heavy & set(out.split())
