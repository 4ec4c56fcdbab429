"""How an HTTP process copes with a worker that sends nonsense, or dies between two requests."""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
import uvloop

from models.card import ModelCard
from server import engine as engine_module
from server.batcher import Batcher
from server.engine import WorkerEngine
from server.wire import FRAME_LENGTH, RELOAD, Kind, pack_batch, pack_predictions

UNREADABLE = (b"", bytes([Kind.CARD, 0]) + b'{"temperature": null}', bytes([Kind.PREDICTIONS]), b"\xff\xff")


def test_a_worker_that_says_what_cannot_be_read_is_connected_to_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine_module, "_UNREADABLE_S", 0.0)
    card = ModelCard(sha256="a" * 64)
    ended = asyncio.Event()
    messages = [*UNREADABLE, card_message(card)]

    async def say_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        message = messages.pop(0)
        writer.write(framed(message))
        await reader.read()
        writer.close()
        if not messages:
            ended.set()

    async def scenario() -> None:
        async with await asyncio.start_unix_server(say_one, tmp_path / "worker-0.sock"):
            engine = WorkerEngine([tmp_path / "worker-0.sock"])
            connecting = asyncio.create_task(engine.keep_connected())
            async with asyncio.timeout(10):
                assert await engine.wait_until_ready() == card
            connecting.cancel()
            await ended.wait()

    asyncio.run(scenario())
    assert caplog.text.count("cannot be read") == len(UNREADABLE)


def test_a_request_that_comes_as_a_worker_dies_is_answered_by_the_next(tmp_path: Path) -> None:
    """Its connection is closed then, though nobody has been told; uvloop, which serves, would not write to it."""
    image = np.zeros((4, 4, 3), np.uint8)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "worker-0.sock"))
    listener.listen()
    listener.setblocking(False)

    async def start_worker() -> socket.socket:
        loop = asyncio.get_running_loop()
        connection, _ = await loop.sock_accept(listener)
        await loop.sock_sendall(connection, framed(card_message(ModelCard())))
        return connection

    async def scenario() -> None:
        engine = WorkerEngine([tmp_path / "worker-0.sock"])
        batcher = Batcher(engine, max_batch_size=64, max_waiting_images=64)
        connecting = asyncio.create_task(engine.keep_connected())
        async with asyncio.timeout(10):
            worker = await start_worker()
            await engine.wait_until_ready()
            first = asyncio.create_task(batcher.infer([image]))
            await until_readable(worker)  # it stays unread, so that the worker's end will be a reset
            second = asyncio.create_task(batcher.infer([image]))
            await asyncio.sleep(0)  # about to be sent
            worker.close()
            worker = await start_worker()
            for number, task in enumerate((first, second), start=1):
                asked = 0
                while asked < len(framed(pack_batch(image[None]))):
                    asked += len(await asyncio.get_running_loop().sock_recv(worker, 1))
                answer = framed(pack_predictions(np.array([[number]], np.float32)))
                await asyncio.get_running_loop().sock_sendall(worker, answer)
                assert (await task).probabilities.tolist() == [[number]]
        connecting.cancel()
        worker.close()

    with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())


def test_a_checkpoint_is_loaded_by_the_worker_that_takes_the_place_of_one_that_died(tmp_path: Path) -> None:
    cards = [ModelCard(sha256=letter * 64) for letter in "ab"]
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        writer.write(framed(card_message(cards[0])))
        if await reader.read(FRAME_LENGTH.size) == framed(RELOAD):
            asked += 1
            if asked == 2:  # the other one died of it
                writer.write(framed(card_message(cards[1])) + framed(bytes([Kind.RELOADED])))
                await reader.read()

    async def scenario(engine: WorkerEngine) -> None:
        assert await engine.reload() == cards[1]
        assert engine.card == cards[1]

    ask_workers(scenario, [tmp_path / "worker-0.sock"], serve)


def test_while_a_worker_loads_a_checkpoint_it_is_sent_batches_and_not_asked_to_load_again(tmp_path: Path) -> None:
    batch, loaded, asked = np.zeros((1, 4, 4, 3), np.uint8), asyncio.Event(), 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        writer.write(framed(card_message(ModelCard())))
        while message := await reader.read(len(framed(pack_batch(batch)))):
            if message == framed(RELOAD):
                asked += 1
                await loaded.wait()
                writer.write(framed(bytes([Kind.RELOADED])))
            else:
                writer.write(framed(pack_predictions(np.ones((1, 1), np.float32))))

    async def scenario(engine: WorkerEngine) -> None:
        reloading = [asyncio.create_task(engine.reload()) for _ in range(2)]
        for _ in range(3):
            await engine.infer(batch)
        assert not reloading[0].done()
        assert asked == 1
        loaded.set()
        assert await asyncio.gather(*reloading) == [ModelCard()] * 2

    ask_workers(scenario, [tmp_path / "worker-0.sock"], serve)


def test_one_request_after_the_other_reaches_every_worker(tmp_path: Path) -> None:
    """All HTTP processes would otherwise send to the first worker, while the others have nothing to do."""
    batch, workers = np.zeros((1, 4, 4, 3), np.uint8), 3
    numbers = iter(range(workers))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = next(numbers)
        writer.write(framed(card_message(ModelCard())))
        while await reader.read(len(framed(pack_batch(batch)))):
            writer.write(framed(pack_predictions(np.array([[number]], np.float32))))

    async def scenario(engine: WorkerEngine) -> None:
        answers = [(await engine.infer(batch)).probabilities.item() for _ in range(2 * workers)]
        assert sorted(answers[:workers]) == [0, 1, 2]
        assert answers[:workers] == answers[workers:]

    ask_workers(scenario, [tmp_path / f"worker-{number}.sock" for number in range(workers)], serve)


def ask_workers(
    scenario: Callable[[WorkerEngine], Awaitable[None]],
    sockets: list[Path],
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> None:
    """Run the scenario with an engine that is connected to workers which serve a connection so, and then close it."""
    serving = set[asyncio.Task[None] | None]()

    async def serve_and_close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        await serve(reader, writer)
        writer.close()
        await writer.wait_closed()

    async def connected() -> None:
        async with contextlib.AsyncExitStack() as servers:
            for socket_of_one in sockets:
                await servers.enter_async_context(await asyncio.start_unix_server(serve_and_close, socket_of_one))
            engine = WorkerEngine(sockets)
            connecting = asyncio.create_task(engine.keep_connected())
            async with asyncio.timeout(10):
                while len(engine._workers) < len(sockets):  # noqa: ASYNC110  # an engine tells nobody of its workers
                    await asyncio.sleep(0)
                await scenario(engine)
            connecting.cancel()
            await asyncio.wait([connecting, *filter(None, serving)])

    asyncio.run(connected())


def card_message(card: ModelCard) -> bytes:
    return bytes([Kind.CARD, 0]) + card.model_dump_json().encode()


async def until_readable(connection: socket.socket) -> None:
    while True:
        try:
            connection.recv(1, socket.MSG_PEEK)
            return
        except BlockingIOError:
            await asyncio.sleep(0)


def framed(message: bytes) -> bytes:
    return FRAME_LENGTH.pack(len(message)) + message
