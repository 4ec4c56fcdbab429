"""What a request costs each process of the service: the CPU time that the system accounts to it under load by wrk."""

import io
import resource
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from benchmarks.lineup import all_servers
from benchmarks.servers import Server, running
from benchmarks.wrk import run_wrk
from tests.integration.load import gauge
from tests.pictures import draw_shape, encode

CONNECTIONS = (1, 16, 64, 256)
MANY, LARGE = "256 of them in a request, JSON", "one JPEG of grey noise, 1024x768"
IMAGES = 256  # of MANY


@dataclass(frozen=True)
class Performance:
    """What a load's client saw, the mean number of images in a batch, and each process's CPU time per request."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    mean_batch: float
    cpu_us: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """CPU time in µs: for each request, and once for each batch."""

    request: float
    batch: float


class Load(NamedTuple):
    """So many connections, each sending requests with so many of the same image."""

    title: str
    connections: int
    image: bytes
    images: int = 1


def make_loads() -> list[Load]:
    picture, large = encode(draw_shape("circle", 1, (32, 32)), "JPEG"), io.BytesIO()
    Image.effect_noise((1024, 768), 12).convert("RGB").save(large, "JPEG", quality=60)
    singles = [Load(str(count), count, picture) for count in CONNECTIONS]
    return [*singles, Load(MANY, 4, picture, IMAGES), Load(LARGE, 64, large.getvalue())]


def measure(loads: Sequence[Load], rounds: int, seconds: int) -> dict[str, Performance]:
    """Medians of the rounds, by the titles of the loads."""
    server, *_ = all_servers()
    found: dict[str, list[Performance]] = {load.title: [] for load in loads}
    with tempfile.TemporaryDirectory() as folder, running(server):
        for _ in range(rounds):
            for load in loads:
                print(f"connections: {load.title}", file=sys.stderr)
                files = server.protocol.write(Path(folder), "load", [[load.image] * load.images])
                found[load.title].append(_measure_once(server, files, load.connections, seconds))
    return {title: _median(each) for title, each in found.items()}


def _measure_once(server: Server, files: Sequence[Path], connections: int, seconds: int) -> Performance:
    is_worker = list(map(server.is_worker, server.processes))

    def counted() -> list[float]:
        """CPU seconds of each process of the service, its images and batches, and wrk's CPU seconds: all so far."""
        wrk = resource.getrusage(resource.RUSAGE_CHILDREN)
        url = f"http://127.0.0.1:{server.port}"
        images, batches = (gauge(url, f"cifar_batch_size_images_{name}") for name in ("sum", "count"))
        return [*server.cpu_seconds(), images, batches, wrk.ru_utime + wrk.ru_stime]

    before = counted()
    ran = run_wrk(server.port, files, connections, seconds)
    *processes, images, batches, wrk = (now - then for then, now in zip(before, counted(), strict=True))
    worker = sum(spent for spent, at_work in zip(processes, is_worker, strict=True) if at_work)
    seconds_of = {"client": wrk, "HTTP process": sum(processes) - worker, "worker": worker}
    cpu_us = {process: 1e6 * spent_s / ran.requests for process, spent_s in seconds_of.items()}
    return Performance(ran.requests_per_s, ran.p50_ms, ran.p99_ms, images / batches, cpu_us)


def _median(rounds: Sequence[Performance]) -> Performance:
    def of(name: str) -> float:
        return float(statistics.median(getattr(each, name) for each in rounds))

    cpu_us = {process: statistics.median(each.cpu_us[process] for each in rounds) for process in rounds[0].cpu_us}
    return Performance(of("requests_per_s"), of("p50_ms"), of("p99_ms"), of("mean_batch"), cpu_us)


def solve(process: str, alone: Performance, busy: Performance) -> Cost:
    """A request takes `request + batch / (images in a batch)`: two loads whose batches differ in size give both."""
    batch = (alone.cpu_us[process] - busy.cpu_us[process]) / (1 / alone.mean_batch - 1 / busy.mean_batch)
    return Cost(busy.cpu_us[process] - batch / busy.mean_batch, max(0, batch))
