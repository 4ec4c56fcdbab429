"""Where one request's microseconds go: each stage alone on one core, and what the processes burn when all run together.

    make bench ARGS=stages

Stages are timed in process, the best of several runs each; processes by the CPU time that the system accounts to them
while wrk (Debian: apt-get install wrk) posts 32x32 JPEGs over 64 connections.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import statistics
import sys
import tempfile
import time
import timeit
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvloop
from starlette.types import ASGIApp, Message

from benchmarks.lineup import OURS, all_servers
from benchmarks.servers import Server, running
from benchmarks.wrk import Load, no_wrk, run_wrk
from models.card import STRONG, TUTORIAL_NET, ModelCard
from models.checkpoint import load
from models.pixels import Pixels, decode
from tests.pictures import draw_shape, encode

BARE = "bare ASGI function"
_CONNECTIONS = 64
_BATCH = 32  # half of the connections wait while the other half is classified


@dataclass(frozen=True)
class Burnt:
    """Requests a second, and microseconds of CPU a request."""

    rate: float
    http: float
    worker: float


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description="Where a request's time goes.")
    parser.add_argument("--rounds", type=int, default=3, help="how often each server is loaded (%(default)s)")
    parser.add_argument("--seconds", type=int, default=4, help="of each load (%(default)s)")
    options = parser.parse_args(argv)
    if no_wrk():
        return 1
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # which server.metrics wants before it is imported
        image = encode(draw_shape("circle", 1, (32, 32)), "JPEG")
        alone = {name: run() for name, run in stages(image).items()}
        burnt = {server.name: load_server(server, image, options.rounds, options.seconds) for server in loaded()}
    print_account(alone, burnt)
    return 0


def loaded() -> list[Server]:
    def ceiling(kind: str) -> list[str]:
        return ["{python}", "-m", "benchmarks.peers.ceiling", "{port}", kind]

    return [
        Server(BARE, ceiling("asgi")),
        Server("FastAPI route", ceiling("fastapi")),
        *(server for server in all_servers() if server.name.startswith(OURS)),
    ]


def stages(image: bytes) -> dict[str, Callable[[], float]]:
    """By name, what gives the microseconds for one image."""
    from server.forward import make_forward

    torch.set_num_threads(1)
    batch = np.stack([decode(image, 32)] * _BATCH)
    cpu = torch.device("cpu")
    eager, onnx = (make_forward(load(TUTORIAL_NET), cpu, kind, 1) for kind in ("eager", "onnxruntime"))
    strong = make_forward(load(STRONG), cpu, "eager", 1)
    return {
        "decode": lambda: microseconds(lambda: decode(image, 32)),
        "our layers, decode included": lambda: uvloop.run(time_app(image)),
        "forward, eager, alone": lambda: microseconds(lambda: eager(batch[:1])),
        f"forward, eager, of {_BATCH}": lambda: microseconds(lambda: eager(batch)) / _BATCH,
        "forward, ONNX Runtime, alone": lambda: microseconds(lambda: onnx(batch[:1])),
        f"forward, ONNX Runtime, of {_BATCH}": lambda: microseconds(lambda: onnx(batch)) / _BATCH,
        f"forward of strong, eager, of {_BATCH}": lambda: microseconds(lambda: strong(batch)) / _BATCH,
    }


def microseconds(run: Callable[[], object]) -> float:
    timer = timeit.Timer(run)
    number = max(1, timer.autorange()[0] // 4)
    return min(timer.repeat(repeat=9, number=number)) / number * 1e6


class InstantEngine:
    """An engine that has the answer ready: what is left is the cost of everything around it."""

    slots, ready = 2, True

    def __init__(self) -> None:
        self.card = load(TUTORIAL_NET).card
        self._probabilities = np.random.default_rng(0).dirichlet(np.ones(10), _CONNECTIONS).astype(np.float32)

    async def infer(self, pixels: Pixels) -> Any:
        from server.engine import Predictions

        await asyncio.sleep(0)
        return Predictions(self._probabilities[: len(pixels)], self.card)

    async def reload(self) -> ModelCard:
        return self.card


async def time_app(image: bytes) -> float:
    """Microseconds from our first layer to the answer's last byte: no socket, no worker."""
    from server.asgi import build_app
    from server.settings import Settings

    @contextlib.asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        yield

    app = build_app(Settings(), InstantEngine(), lifespan)
    requests, best = 50, float("inf")
    for _ in range(9):
        started = time.perf_counter()
        await asyncio.gather(*(ask(app, image, requests) for _ in range(_CONNECTIONS)))
        best = min(best, (time.perf_counter() - started) / requests / _CONNECTIONS * 1e6)
    return best


async def ask(app: ASGIApp, image: bytes, requests: int) -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": image, "more_body": False}

    async def send(message: Message) -> None:
        pass

    headers = [(b"host", b"127.0.0.1:8000"), (b"content-type", b"image/jpeg")]
    for _ in range(requests):
        scope = {"type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict", "query_string": b""}
        await app({**scope, "headers": list(headers), "client": ("127.0.0.1", 1)}, receive, send)


def load_server(server: Server, image: bytes, rounds: int, seconds: int) -> Burnt:
    """Requests a second, and the microseconds of CPU that its HTTP process and its worker took for one: medians."""
    rates, http, worker = [], [], []
    with tempfile.TemporaryDirectory() as folder, running(server):
        files = server.protocol.write(Path(folder), "single", [[image]])
        is_worker = list(map(server.is_worker, server.family))
        for _ in range(rounds):
            before = server.cpu_seconds()
            load: Load = run_wrk(server.port, files, _CONNECTIONS, seconds)
            spent = [(after - then) * 1e6 for then, after in zip(before, server.cpu_seconds(), strict=True)]
            rates.append(load.requests_per_s)
            worker.append(sum(itertools.compress(spent, is_worker)) / load.requests)
            http.append(sum(spent) / load.requests - worker[-1])
    return Burnt(*map(statistics.median, (rates, http, worker)))


def print_account(alone: dict[str, float], burnt: dict[str, Burnt]) -> None:
    print(f"one 32x32 JPEG, {_CONNECTIONS} connections ({os.cpu_count()} cores); µs of one core a request")
    uvicorn, decoding = burnt[BARE].http, alone["decode"]
    ours = alone["our layers, decode included"] - decoding
    for name, forward in ((OURS, "eager"), (f"{OURS} --forward onnxruntime", "ONNX Runtime")):
        server, network = burnt[name], alone[f"forward, {forward}, of {_BATCH}"]
        rest = server.http - uvicorn - decoding - ours
        print(f"{name}: {server.rate:,.0f} requests/s")
        print(f"  HTTP process {server.http:6.1f} = uvicorn and kernel {uvicorn:.1f} + decode {decoding:.1f}", end="")
        print(f" + our layers {ours:.1f} + sockets to the worker, colder caches {rest:.1f}")
        print(f"  worker       {server.worker:6.1f} = forward {network:.1f}", end="")
        print(f" + its socket, colder caches {server.worker - network:.1f}")
    print("what one core can do, alone")
    for name, server in burnt.items():
        if not name.startswith(OURS):
            print(f"  {name:36}{server.rate:10,.0f} requests/s, with wrk on the other")
    for name, spent in alone.items():
        print(f"  {name:36}{1e6 / spent:10,.0f} images/s")


if __name__ == "__main__":
    sys.exit(main())
