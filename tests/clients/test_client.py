import asyncio
import itertools
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from PIL import Image

from clients import AsyncClient, ClassProbability, Client, ImageError, ImageInput, Prediction
from clients.images import MAX_BATCH_BYTES
from tests.clients.conftest import Ask
from tests.clients.fake_service import Asked, FakeService, png


def class_ids(answers: list[Prediction | ImageError]) -> list[int | str]:
    """The class of each prediction, the code of each error."""
    return [answer.class_id if isinstance(answer, Prediction) else answer.code for answer in answers]


def test_a_prediction_says_the_class_its_confidence_the_runners_up_and_the_model(
    service: FakeService, ask: Ask
) -> None:
    assert ask.one(service.url, png(1)) == Prediction(
        label="square",
        class_id=1,
        confidence=0.9,
        top=(
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


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK", "YCbCr", "HSV", "F"])
def test_a_pil_image_of_any_mode_is_sent(service: FakeService, mode: str) -> None:
    with Client(service.url) as client:
        assert client.predict(Image.new(mode, (2, 2))).model == "cifar_net"


def test_a_pil_image_is_sent_upright(service: FakeService) -> None:
    picture = Image.new("RGB", (4, 2))
    picture.getexif()[0x0112] = 6  # a quarter turn
    with Client(service.url) as client:
        client.predict(picture)
    assert service.asked[0].body[16:24] == bytes([0, 0, 0, 2, 0, 0, 0, 4])  # PNG's width and height


def test_what_is_no_image_at_all_is_the_callers_mistake(service: FakeService) -> None:
    with Client(service.url) as client:
        with pytest.raises(TypeError, match="not int"):
            client.predict(3)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="several"):
            next(client.predict_many("cat.jpg"))


def test_a_url_that_is_none_is_refused_at_once() -> None:
    for url in ("localhost:8000", "ftp://host", "http://", "http://host:port"):
        with pytest.raises(ValueError, match=r"http://127\.0\.0\.1:8000|[Pp]ort"):
            Client(url)


def test_an_api_key_travels_with_each_request(service: FakeService, ask: Ask) -> None:
    ask.one(service.url, png(1), api_key="secret")
    assert service.asked[0].headers["x-api-key"] == "secret"


def test_a_service_behind_a_path_is_found() -> None:
    paths = []

    def answer(request: httpx.Request) -> httpx.Response:
        paths.append(request.url.path)
        return httpx.Response(401)

    with (
        Client("https://host/cifar/", transport=httpx.MockTransport(answer)) as client,
        pytest.raises(Exception, match="401"),
    ):
        client.predict(png(1))
    assert paths == ["/cifar/predict"]


def test_many_answers_come_in_order_though_the_first_request_is_answered_last(service: FakeService, ask: Ask) -> None:
    others = threading.Semaphore(0)

    def hold_the_first(asked: Asked) -> None:
        if asked.images[0] == png(0):
            for _ in range(3):
                assert others.acquire(timeout=10)
        else:
            others.release()

    service.before = hold_the_first
    answers = ask.many(service.url, map(png, range(100)), batch_size=10, concurrency=4)
    assert class_ids(answers) == list(range(100))


def test_a_bad_image_and_an_unreadable_file_get_their_error_in_place(
    service: FakeService, ask: Ask, tmp_path: Path
) -> None:
    images: list[ImageInput] = [png(1), b"text", tmp_path / "missing.png", tmp_path, "null\0byte", png(2)]
    answers = ask.many(service.url, images, batch_size=4)
    assert class_ids(answers) == [1, "not_an_image", "unreadable", "unreadable", "unreadable", 2]
    assert str(answers[2]) == f"{tmp_path / 'missing.png'} cannot be read: no such file or directory"
    assert str(answers[3]) == f"{tmp_path} cannot be read: is a directory"


def test_a_stream_without_a_readable_image_asks_the_service_nothing(service: FakeService, ask: Ask) -> None:
    assert class_ids(ask.many(service.url, ["missing.png", "missing.jpg"])) == ["unreadable", "unreadable"]
    assert ask.many(service.url, []) == []
    assert not service.asked


@pytest.mark.parametrize("limit", ["batch_size", "concurrency"])
def test_limits_below_1_are_the_callers_mistake(service: FakeService, ask: Ask, limit: str) -> None:
    with pytest.raises(ValueError, match=r"must be"):
        ask.many(service.url, [png(1)], **{limit: 0})


def test_a_lone_bad_image_is_yielded_too(service: FakeService, ask: Ask) -> None:
    assert class_ids(ask.many(service.url, [b"text"])) == ["not_an_image"]


def test_requests_hold_batch_size_images(service: FakeService, ask: Ask) -> None:
    ask.many(service.url, [png(1)] * 25, batch_size=10)
    assert sorted(len(asked.images) for asked in service.asked) == [5, 10, 10]


def test_large_images_make_small_requests_and_one_too_large_alone_is_refused_alone(
    service: FakeService, ask: Ask
) -> None:
    large = png(1) + bytes(MAX_BATCH_BYTES // 3)  # what follows a PNG's end is ignored
    too_large = png(1) + bytes(service.max_body_bytes)
    answers = ask.many(service.url, [large, large, large, too_large, png(2)])
    assert class_ids(answers) == [1, 1, 1, "body_too_large", 2]
    assert sorted(len(asked.images) for asked in service.asked) == [1, 1, 1, 2]


def test_a_service_with_lower_limits_than_ours_still_gives_every_answer(service: FakeService, ask: Ask) -> None:
    service.max_images = 3
    service.max_body_bytes = 2000
    images = [png(number) for number in range(20)] + [png(20) + bytes(3000)]
    assert class_ids(ask.many(service.url, images)) == [*range(20), "body_too_large"]


def test_an_endless_stream_is_read_only_a_window_ahead(service: FakeService) -> None:
    taken = itertools.count()

    def endless() -> Iterator[ImageInput]:
        for number in taken:
            yield png(number % 256)

    with Client(service.url) as client:
        answers = client.predict_many(endless(), batch_size=5, concurrency=2)
        assert class_ids(list(itertools.islice(answers, 500))) == [number % 256 for number in range(500)]
        answers.close()
    assert next(taken) <= 500 + (2 * 2 + 1) * 5


def test_an_endless_asynchronous_stream_is_read_only_a_window_ahead(service: FakeService) -> None:
    taken = itertools.count()

    async def endless() -> AsyncIterator[ImageInput]:
        for number in taken:
            yield png(number % 256)

    async def ask() -> list[Prediction | ImageError]:
        got: list[Prediction | ImageError] = []
        async with AsyncClient(service.url) as client:
            answers = client.predict_many(endless(), batch_size=5, concurrency=2)
            async for answer in answers:
                got.append(answer)
                if len(got) == 500:
                    await answers.aclose()
        return got

    assert class_ids(asyncio.run(ask())) == [number % 256 for number in range(500)]
    assert next(taken) <= 500 + (2 * 2 + 1) * 5


def test_an_answer_is_given_before_the_stream_goes_on(service: FakeService) -> None:
    """A camera's picture is not held back until the camera has sent a window full."""
    answered = threading.Event()

    def camera() -> Iterator[ImageInput]:
        yield png(1)
        assert answered.wait(10)
        yield png(2)

    def tell(asked: Asked) -> None:
        answered.set()

    service.before = tell
    with Client(service.url) as client:
        assert class_ids(list(client.predict_many(camera(), batch_size=1))) == [1, 2]


def test_importing_the_clients_loads_neither_torch_nor_numpy_nor_httpx() -> None:
    program = "import clients, clients.predict, clients.evaluate, sys; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    heavy = {"torch", "numpy", "httpx", "PIL", "rich", "models", "server", "training"}
    assert not heavy & set(out.split())
