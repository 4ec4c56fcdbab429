"""Many images in a request: images a second through the service, beside a plain loop over decoder and network.

    make bench ARGS=batches

256 JPEGs of 32x32 go as multipart files and as base64 in JSON, from two clients at once, so that the service always has
the next request at hand. The ways take turns; the results are medians.
"""

import argparse
import base64
import concurrent.futures
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx
import numpy as np
import torch

from models.card import TUTORIAL_NET
from models.checkpoint import load
from models.pixels import decode
from tests.integration.running import running_service
from tests.pictures import draw_shape

_IMAGES, _REQUESTS, _CLIENTS = 256, 40, 2


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.batches", description="Many images in a request.")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each, for the median (default: %(default)s)")
    options = parser.parse_args(argv)
    images = draw_jpegs()
    with (
        tempfile.TemporaryDirectory() as folder,
        running_service(Path(folder), "--checkpoint", str(TUTORIAL_NET)) as service,
    ):
        as_json = json.dumps({"images": [base64.b64encode(image).decode() for image in images]}).encode()
        multipart = httpx.Request("POST", service.url, files=[("files", image) for image in images])
        ways: dict[str, Callable[[], float]] = {
            "in process": lambda: in_process(images),
            "multipart": lambda: through_service(service.url, multipart.read(), multipart.headers["Content-Type"]),
            "JSON": lambda: through_service(service.url, as_json, "application/json"),
        }
        rates: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            for name, run in ways.items():
                rates[name].append(run())
    medians = {name: statistics.median(values) for name, values in rates.items()}
    print(f"images/s, {_IMAGES} JPEGs a request, median of {options.rounds} rounds ({os.cpu_count()} cores)")
    for name, rate in medians.items():
        print(f"{name:12} {rate:8,.0f}  {rate / medians['in process']:6.0%} of in process")
    return 0


def draw_jpegs() -> list[bytes]:
    images = []
    for number in range(_IMAGES):
        buffer = io.BytesIO()
        draw_shape(("circle", "square")[number % 2], number, (32, 32)).save(buffer, "JPEG", quality=75)
        images.append(buffer.getvalue())
    return images


def in_process(images: Sequence[bytes]) -> float:
    """Images a second: decoded one by one, classified in batches of 64, on one thread as in a worker."""
    torch.set_num_threads(1)
    classifier = load(TUTORIAL_NET)
    started = time.perf_counter()
    with torch.inference_mode():
        for _ in range(_REQUESTS):
            for start in range(0, len(images), 64):
                classifier(torch.tensor(np.stack([decode(image, 32) for image in images[start : start + 64]])))
    return _REQUESTS * len(images) / (time.perf_counter() - started)


def through_service(url: str, body: bytes, content_type: str) -> float:
    """Images a second over HTTP."""
    with httpx.Client(base_url=url, timeout=60) as client, concurrent.futures.ThreadPoolExecutor(_CLIENTS) as threads:

        def ask(_: int) -> None:
            client.post("/predict?top_k=1", content=body, headers={"Content-Type": content_type}).raise_for_status()

        ask(0)
        started = time.perf_counter()
        list(threads.map(ask, range(_REQUESTS)))
        return _REQUESTS * _IMAGES / (time.perf_counter() - started)


if __name__ == "__main__":
    sys.exit(main())
