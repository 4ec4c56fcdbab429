"""`predict_many`: a stream of images of any length, good and bad, few or many in a request; its answers in order."""

import asyncio
import gc
import io
import itertools
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageSequence

from clients import AsyncClient, Client, ImageError, ImageInput, Prediction
from clients.errors import ServiceUnreachable
from clients.limiter import BATCH_SIZE, Limiter
from clients.many import BATCH_BYTES, RAW_BYTES, Many
from clients.results import Answers
from tests.clients.conftest import Ask, class_ids
from tests.clients.fake_service import Asked, Drop, FakeService, Reply, Silence, png, problem


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


def test_a_service_that_takes_long_for_many_images_gets_fewer_in_a_request(
    service: FakeService, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a slow service would answer only what it can in 30 s, and not the whole folder."""
    answer = service.answer

    def answer_few(asked: Asked) -> Reply | Drop | Silence:
        return answer(asked) if len(asked.images) <= 20 else problem(504, "deadline_exceeded")

    monkeypatch.setattr(service, "answer", answer_few)
    numbers = [number % 256 for number in range(1200)]
    with Client(service.url) as client:
        assert class_ids(list(client.predict_many(map(png, numbers)))) == numbers


def test_a_stream_that_is_collected_in_the_clients_own_thread_holds_up_nobody(service: FakeService) -> None:
    """This happens to a stream in a reference cycle: the thread would wait for work that it has to do itself."""
    with Client(service.url) as client:
        cycle: dict[str, object] = {"answers": client.predict_many(itertools.repeat(png(1)))}
        cycle["itself"] = cycle
        next(cycle["answers"])  # type: ignore[call-overload]
        del cycle
        collected = threading.Event()
        client._background._loop.call_soon_threadsafe(gc.collect)
        client._background._loop.call_soon_threadsafe(collected.set)
        assert collected.wait(10)
        assert client.predict(png(2)).class_id == 2


def test_a_bad_image_and_an_unreadable_file_get_their_error_in_place(
    service: FakeService, ask: Ask, tmp_path: Path
) -> None:
    images: list[ImageInput] = [png(1), b"text", tmp_path / "missing.png", tmp_path, "null\0byte", png(2)]
    answers = ask.many(service.url, images)
    assert class_ids(answers) == [1, "not_an_image", "unreadable", "unreadable", "unreadable", 2]
    assert str(answers[2]) == f"{tmp_path / 'missing.png'} cannot be read: no such file or directory"
    assert str(answers[3]) == f"{tmp_path} cannot be read: is a directory"


def test_a_damaged_pil_image_gets_its_error_in_place(service: FakeService, ask: Ask) -> None:
    file = io.BytesIO()
    Image.effect_noise((300, 300), 90).save(file, "PNG")  # of several chunks, the first of which shows what it is
    before, _, after = file.getvalue().rpartition(b"IDAT")
    with Image.open(io.BytesIO(before + b"ID\0T" + after)) as picture:
        answers = ask.many(service.url, [png(1), picture, png(2)])
    assert class_ids(answers) == [1, "unreadable", 2]
    assert str(answers[1]).startswith("the PIL image cannot be read: broken png file")


def test_a_pil_image_that_shows_one_picture_after_another_is_answered_for_each(service: FakeService, ask: Ask) -> None:
    file, reds = io.BytesIO(), [10, 60, 110, 160]
    first, *others = (Image.new("RGB", (2, 2), (red, 0, 0)) for red in reds)
    first.save(file, "GIF", save_all=True, append_images=others)
    with Image.open(file) as animation:
        assert class_ids(ask.many(service.url, ImageSequence.Iterator(animation))) == reds


def test_a_pil_image_may_be_closed_when_the_next_is_asked_for(service: FakeService, ask: Ask) -> None:
    def opened() -> Iterator[ImageInput]:
        for number in range(3):
            with Image.open(io.BytesIO(png(number))) as picture:
                yield picture

    assert class_ids(ask.many(service.url, opened())) == [0, 1, 2]


def test_what_was_answered_before_a_failure_is_given_before_it() -> None:
    async def ask(images: list[bytes], _: Limiter) -> Answers:
        if images == [b"second"]:
            raise ServiceUnreachable("gone")
        return [ImageError("first", "")]

    async def two_requests() -> None:
        many = Many(ask, 16, None)
        for image in (b"first", b"second"):
            many.add(image)
            assert await many.send() == []
        await asyncio.wait(many._under_way)
        assert class_ids(await many.rest()) == ["first"]
        with pytest.raises(ServiceUnreachable):
            await many.rest()

    asyncio.run(two_requests())


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
    """A complete batch is sent at once, even if the stream is slow to fill the window."""
    asked_for = threading.Event()

    def slow() -> Iterator[ImageInput]:
        yield from [png(1)] * BATCH_SIZE
        assert asked_for.wait(10)
        yield png(2)

    service.before = lambda asked: asked_for.set()
    with Client(service.url) as client:
        assert class_ids(list(client.predict_many(slow()))) == [1] * BATCH_SIZE + [2]


def test_a_stream_is_read_in_the_callers_thread(service: FakeService) -> None:
    """The stream may read from a database's cursor, which works only in the thread that made it."""
    threads = set()

    def rows() -> Iterator[ImageInput]:
        threads.add(threading.get_ident())
        yield png(1)

    with Client(service.url) as client:
        list(client.predict_many(rows()))
    assert threads == {threading.get_ident()}


def test_under_a_bar_what_the_caller_prints_goes_where_it_is_meant_to(service: FakeService, tmp_path: Path) -> None:
    path = tmp_path / "one.png"
    path.write_bytes(png(1))
    program = (
        "import sys; from clients import Client\n"
        "with Client(sys.argv[1]) as client:\n"
        "    for answer in client.predict_many(sys.argv[2:], progress=True): print(answer.label)"
    )
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", program, service.url, str(path), str(path)]
    environment = {**os.environ, "TERM": "xterm"}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, env=environment, check=True)
    os.close(theirs)
    os.close(ours)
    assert done.stdout == b"square\nsquare\n"
