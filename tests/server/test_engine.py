"""What an HTTP process makes of a worker that says what it cannot read."""

import asyncio
from pathlib import Path

import pytest

from models.card import ModelCard
from server import engine as engine_module
from server.engine import WorkerEngine
from server.wire import FRAME_LENGTH, Kind

UNREADABLE = (b"", bytes([Kind.CARD, 0]) + b'{"temperature": null}', bytes([Kind.PREDICTIONS]), b"\xff\xff")


def test_a_worker_that_says_what_cannot_be_read_is_connected_to_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine_module, "_UNREADABLE_S", 0.0)
    card = ModelCard(sha256="a" * 64)
    ended = asyncio.Event()
    messages = [*UNREADABLE, bytes([Kind.CARD, 0]) + card.model_dump_json().encode()]

    async def say_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        message = messages.pop(0)
        writer.write(FRAME_LENGTH.pack(len(message)) + message)
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
