import asyncio
import itertools
import json
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from PIL import Image

from clients import AsyncClient, ClassProbability, Client, ImageError, ImageInput, Prediction
from clients.limiter import BATCH_SIZE
from clients.many import BATCH_BYTES, RAW_BYTES
from tests.clients.conftest import Ask
from tests.clients.fake_service import Asked, FakeService, Reply, Silence, png


def class_ids(answers: Sequence[Prediction | ImageError]) -> list[int | str]:
    """The class of each prediction, the code of each error."""
    return [answer.class_id if isinstance(answer, Prediction) else answer.code for answer in answers]


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
    ask.one(service.url, png(1), api_key="secret")
    assert service.asked[0].headers["x-api-key"] == "secret"


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
    """As in a notebook."""

    async def notebook() -> int:
        with Client(service.url) as client:
            return client.predict(png(4)).class_id

    assert asyncio.run(notebook()) == 4


def test_many_answers_come_in_order_though_the_first_request_is_answered_last(service: FakeService, ask: Ask) -> None:
    others = threading.Semaphore(0)

    def hold_the_first(asked: Asked) -> None:
        if asked.images[0] == png(0):
            for _ in range(3):
                assert others.acquire(timeout=10)
        else:
            others.release()

    service.before = hold_the_first
    numbers = [0, *(1 + number % 255 for number in range(4 * BATCH_SIZE - 1))]
    assert class_ids(ask.many(service.url, map(png, numbers))) == numbers


def test_a_bad_image_and_an_unreadable_file_get_their_error_in_place(
    service: FakeService, ask: Ask, tmp_path: Path
) -> None:
    images: list[ImageInput] = [png(1), b"text", tmp_path / "missing.png", tmp_path, "null\0byte", png(2)]
    answers = ask.many(service.url, images)
    assert class_ids(answers) == [1, "not_an_image", "unreadable", "unreadable", "unreadable", 2]
    assert str(answers[2]) == f"{tmp_path / 'missing.png'} cannot be read: no such file or directory"
    assert str(answers[3]) == f"{tmp_path} cannot be read: is a directory"


def test_a_stream_without_a_readable_image_asks_the_service_nothing(service: FakeService, ask: Ask) -> None:
    assert class_ids(ask.many(service.url, ["missing.png", "missing.jpg"])) == ["unreadable", "unreadable"]
    assert ask.many(service.url, []) == []
    assert not service.asked


def test_a_concurrency_below_1_is_the_callers_mistake(service: FakeService, ask: Ask) -> None:
    with pytest.raises(ValueError, match="concurrency must be 1 or more, not 0"):
        ask.many(service.url, [png(1)], concurrency=0)


def test_a_lone_bad_image_is_yielded_too(service: FakeService, ask: Ask) -> None:
    assert class_ids(ask.many(service.url, [b"text"])) == ["not_an_image"]


def test_small_images_travel_packed_and_large_ones_alone_as_they_are(service: FakeService, ask: Ask) -> None:
    large = png(9) + bytes(RAW_BYTES)  # what follows a PNG's end is ignored
    images = [large if number == 5 else png(number % 256) for number in range(BATCH_SIZE + 1)]
    assert class_ids(ask.many(service.url, images)) == [*range(5), 9, *range(6, BATCH_SIZE), 0]
    assert sorted(len(asked.images) for asked in service.asked) == [1, 1, BATCH_SIZE - 1]
    assert large in [asked.body for asked in service.asked]


def test_the_bytes_of_a_request_are_bounded(service: FakeService, ask: Ask) -> None:
    medium = png(1) + bytes(RAW_BYTES // 2)
    ask.many(service.url, [medium] * 40)
    assert max(sum(map(len, asked.images)) for asked in service.asked) <= BATCH_BYTES + RAW_BYTES


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
        answers = client.predict_many(endless(), concurrency=2)
        assert class_ids(list(itertools.islice(answers, 3000))) == [number % 256 for number in range(3000)]
        answers.close()
    assert next(taken) <= 3000 + (2 * 2 + 1) * BATCH_SIZE


def test_an_endless_asynchronous_stream_is_read_only_a_window_ahead(service: FakeService) -> None:
    taken = itertools.count()

    async def endless() -> AsyncIterator[ImageInput]:
        for number in taken:
            yield png(number % 256)

    async def ask() -> list[Prediction | ImageError]:
        got: list[Prediction | ImageError] = []
        async with AsyncClient(service.url) as client:
            answers = client.predict_many(endless(), concurrency=2)
            async for answer in answers:
                got.append(answer)
                if len(got) == 3000:
                    await answers.aclose()
        return got

    assert class_ids(asyncio.run(ask())) == [number % 256 for number in range(3000)]
    assert next(taken) <= 3000 + (2 * 2 + 1) * BATCH_SIZE


def test_requests_start_before_the_stream_goes_on(service: FakeService) -> None:
    """What is gathered is not held back until a slow stream has given a window full."""
    asked_for = threading.Event()

    def slow() -> Iterator[ImageInput]:
        yield from [png(1)] * BATCH_SIZE
        assert asked_for.wait(10)
        yield png(2)

    service.before = lambda asked: asked_for.set()
    with Client(service.url) as client:
        assert class_ids(list(client.predict_many(slow()))) == [1] * BATCH_SIZE + [2]


def test_a_stream_is_read_in_the_callers_thread(service: FakeService) -> None:
    """A database's cursor works in no other."""
    threads = set()

    def rows() -> Iterator[ImageInput]:
        threads.add(threading.get_ident())
        yield png(1)

    with Client(service.url) as client:
        list(client.predict_many(rows()))
    assert threads == {threading.get_ident()}


def test_a_client_may_be_closed_before_its_last_answer_is_taken(service: FakeService) -> None:
    with Client(service.url) as client:
        answers = client.predict_many([png(1)] * 5000)
        next(answers)
        service.script.extend([Silence()] * 10)
    answers.close()
    client.close()
    with pytest.raises(RuntimeError, match="the client is closed"):
        client.predict(png(1))


def test_importing_the_clients_loads_neither_torch_nor_numpy_nor_httpx() -> None:
    program = "import clients, clients.predict, clients.evaluate, sys; print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    heavy = {"torch", "numpy", "httpx", "PIL", "rich", "models", "server", "training"}
    assert not heavy & set(out.split())
