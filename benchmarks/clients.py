"""What a Python program gets out of the service: images/s of the clients, beside the single images of wrk.

    make bench ARGS=clients

JPEGs of 32x32 lie in files, which the clients read as they go. wrk (Debian: apt-get install wrk) posts the same over 64
connections. They take turns on the same service; each round gives a ratio, and the median of those counts.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.protocols import RAW
from benchmarks.wrk import no_wrk, run_wrk
from clients import AsyncClient, Client
from models.card import TUTORIAL_NET
from tests.integration.running import running_service
from tests.pictures import draw_shape

_FILES, _TIMES, _ALONE = 2000, 15, 1000


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clients", description="The clients, beside wrk.")
    parser.add_argument("--rounds", type=int, default=5, help="how often each runs (%(default)s)")
    parser.add_argument("--seconds", type=int, default=4, help="of each load by wrk (%(default)s)")
    options = parser.parse_args(argv)
    if no_wrk():
        return 1
    with (
        tempfile.TemporaryDirectory() as folder,
        running_service(Path(folder), "--checkpoint", str(TUTORIAL_NET)) as service,
    ):
        paths = draw_files(Path(folder))
        port = urlsplit(service.url).port or 0
        requests = RAW.write(Path(folder), "single", [[path.read_bytes()] for path in paths])
        ways: dict[str, Callable[[], float]] = {
            "wrk, single images": lambda: run_wrk(port, requests, 64, options.seconds).requests_per_s,
            "Client.predict_many": lambda: many(service.url, paths * _TIMES),
            "AsyncClient.predict_many": lambda: asyncio.run(many_async(service.url, paths * _TIMES)),
            "Client.predict, one by one": lambda: one_by_one(service.url, paths[:_ALONE]),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, run in ways.items():
                rates[name].append(run())
    base = rates["wrk, single images"]
    print(f"images/s, medians of {options.rounds} rounds ({os.cpu_count()} cores)")
    for name, found in rates.items():
        ratio = statistics.median(rate / of_wrk for rate, of_wrk in zip(found, base, strict=True))
        print(f"{name:28} {statistics.median(found):8,.0f}  {ratio:5.0%} of wrk's")
    return 0


def draw_files(folder: Path) -> list[Path]:
    paths = [folder / f"{number}.jpg" for number in range(_FILES)]
    for number, path in enumerate(paths):
        draw_shape(("circle", "square")[number % 2], number, (32, 32)).save(path, quality=75)
    return paths


def many(url: str, paths: Sequence[Path]) -> float:
    with Client(url) as client:
        started = time.perf_counter()
        count = sum(1 for _ in client.predict_many(paths))
        return count / (time.perf_counter() - started)


async def many_async(url: str, paths: Sequence[Path]) -> float:
    async with AsyncClient(url) as client:
        started = time.perf_counter()
        count = len([answer async for answer in client.predict_many(paths)])
        return count / (time.perf_counter() - started)


def one_by_one(url: str, paths: Sequence[Path]) -> float:
    with Client(url) as client:
        client.predict(paths[0])
        started = time.perf_counter()
        for path in paths:
            client.predict(path)
        return len(paths) / (time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
