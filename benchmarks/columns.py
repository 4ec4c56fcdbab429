"""What is measured of a running server: a function for each column, which returns a few named numbers."""

import asyncio
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import numpy as np
import torch

from benchmarks.servers import Server
from benchmarks.wrk import run_wrk
from models.checkpoint import load
from models.pixels import decode

Cell = dict[str, float]

CONNECTIONS = (1, 16, 64, 256, 1000)
MANY = 256  # images in a request of the column "batch"
OPEN_RATE = 300  # requests a second in the column "open": every server can keep up with them
OPEN_SHARE = 0.8  # the rate of the column "open, high", as a fraction of what ours answers at 64 connections
_OPEN_CONNECTIONS = 1000
HIGH = "open, high"
_KILL_RATE, _KILL_S, _KILL_AT_S = 200, 15, 3  # requests a second; seconds; second of the kill
_WELL_S = 0.5  # a service whose answer takes longer is unwell


@dataclass(frozen=True)
class Trial:
    """A running server, and what is sent to it: files, each a whole HTTP request, and images."""

    server: Server
    seconds: int  # of a load; some take twice as long
    single: list[Path]
    batch: list[Path]
    photos: list[Path]
    images: list[bytes]
    high_rate: float = 0  # requests a second of the column "open, high"


def check(server: Server, checkpoint: Path, images: Sequence[bytes]) -> None:
    """Checks that each image, sent alone and with all others, gets the class that the network gives it in this process.

    Raises RuntimeError where it does not.
    """
    classifier = load(checkpoint)
    with torch.inference_mode():
        rows = classifier(torch.tensor(np.stack([decode(image, 32) for image in images])))
    expected = [classifier.card.classes[index] for index in rows.argmax(dim=1)]
    with httpx.Client(timeout=60) as client:
        alone = [label for image in images for label in server.predict(client, [image])]
        together = server.predict(client, images)
    for way, found in (("alone", alone), ("together", together)):
        if found != expected:
            right = sum(label == wanted for label, wanted in zip(found, expected, strict=False))
            raise RuntimeError(f"{server.name} is right about {right} of {len(expected)} images sent {way}")


def single(trial: Trial, connections: int) -> Cell:
    """Requests a second with one image each, one after the other on each connection; latencies too."""
    return asdict(run_wrk(trial.server.port, trial.single, connections, trial.seconds))


def batch(trial: Trial) -> Cell:
    """Images a second in requests with many, over four connections."""
    load = run_wrk(trial.server.port, trial.batch, 4, 2 * trial.seconds)
    return {"images_per_s": load.requests_per_s * MANY, "failed": load.failed}


def photos(trial: Trial) -> Cell:
    """Requests a second with a photograph each."""
    return asdict(run_wrk(trial.server.port, trial.photos, 64, trial.seconds))


def open_loop(trial: Trial, rate: float | None = None) -> Cell:
    """Latencies where requests come at a fixed rate, whether or not earlier ones have been answered."""
    rate = rate or trial.high_rate
    return {
        "rate": rate,
        **asdict(run_wrk(trial.server.port, trial.single, _OPEN_CONNECTIONS, 2 * trial.seconds, rate)),
    }


def memory(trial: Trial) -> Cell:
    """MB (PSS) of all processes after the loads so far."""
    return {"megabytes": sum(trial.server.process_megabytes())}


def killed(trial: Trial) -> Cell:
    """Kills the process that runs the network, under a small steady load: how many requests are lost, for how long."""
    return asyncio.run(_kill_under_load(trial.server, trial.images))


async def _kill_under_load(server: Server, images: Sequence[bytes]) -> Cell:
    outcomes: list[tuple[float, bool, float]] = []  # when it was due, whether it was answered, after how many seconds
    bodies = [server.protocol.encode([image]) for image in images]
    started = time.perf_counter()

    async def ask(client: httpx.AsyncClient, number: int) -> None:
        due = number / _KILL_RATE
        content, headers = bodies[number % len(bodies)]
        try:
            answered = (await client.post(server.url, content=content, headers=dict(headers))).is_success
        except httpx.TransportError:
            answered = False
        outcomes.append((due, answered, time.perf_counter() - started - due))

    async with (
        # Few are kept of those that an outage opened: the pool searches all of its connections with each request.
        httpx.AsyncClient(
            timeout=30, limits=httpx.Limits(max_connections=None, max_keepalive_connections=20)
        ) as client,
        asyncio.TaskGroup() as group,
    ):
        for number in range(_KILL_RATE * _KILL_S):
            await asyncio.sleep(started + number / _KILL_RATE - time.perf_counter())
            if number == _KILL_RATE * _KILL_AT_S:
                await asyncio.to_thread(server.kill_worker)
            group.create_task(ask(client, number))
    lost = sum(not answered for _, answered, _ in outcomes)
    unwell = [due for due, answered, took in outcomes if not answered or took > _WELL_S]
    return {"lost": lost, "of": len(outcomes), "unwell_s": max((due - _KILL_AT_S for due in unwell), default=0.0)}


COLUMNS: dict[str, Callable[[Trial], Cell]] = {
    **{str(count): functools.partial(single, connections=count) for count in CONNECTIONS},
    "batch": batch,
    "photos": photos,
    "open": functools.partial(open_loop, rate=OPEN_RATE),
    HIGH: open_loop,
    "memory": memory,
    "killed": killed,  # last: it may end the server
}
