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
class Seen:
    """A load as its client saw it, the images of a mean batch, and µs of a core a request by who spent them."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    batch: float
    spent: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Cost:
    """µs: of each request, and once more of each batch."""

    request: float
    batch: float


class Column(NamedTuple):
    """A load: so many connections, each with requests of so many of the same image."""

    title: str
    connections: int
    image: bytes
    images: int = 1


def make_loads() -> list[Column]:
    picture, large = encode(draw_shape("circle", 1, (32, 32)), "JPEG"), io.BytesIO()
    Image.effect_noise((1024, 768), 12).convert("RGB").save(large, "JPEG", quality=60)
    singles = [Column(str(count), count, picture) for count in CONNECTIONS]
    return [*singles, Column(MANY, 4, picture, IMAGES), Column(LARGE, 64, large.getvalue())]


def measure(columns: Sequence[Column], rounds: int, seconds: int) -> dict[str, Seen]:
    """Medians of the rounds, by the titles of the columns."""
    server, *_ = all_servers()
    found: dict[str, list[Seen]] = {column.title: [] for column in columns}
    with tempfile.TemporaryDirectory() as folder, running(server):
        for _ in range(rounds):
            for column in columns:
                print(f"connections: {column.title}", file=sys.stderr)
                files = server.protocol.write(Path(folder), "load", [[column.image] * column.images])
                found[column.title].append(load(server, files, column.connections, seconds))
    return {title: median(loads) for title, loads in found.items()}


def load(server: Server, files: Sequence[Path], connections: int, seconds: int) -> Seen:
    is_worker = list(map(server.is_worker, server.family))

    def counted() -> list[float]:
        """Of the service: seconds of each process, images, batches; and the seconds of all wrks so far."""
        wrk = resource.getrusage(resource.RUSAGE_CHILDREN)
        url = f"http://127.0.0.1:{server.port}"
        images, batches = (gauge(url, f"cifar_batch_size_images_{name}") for name in ("sum", "count"))
        return [*server.cpu_seconds(), images, batches, wrk.ru_utime + wrk.ru_stime]

    before = counted()
    ran = run_wrk(server.port, files, connections, seconds)
    *processes, images, batches, wrk = (now - then for then, now in zip(before, counted(), strict=True))
    worker = sum(spent for spent, at_work in zip(processes, is_worker, strict=True) if at_work)
    seconds_of = {"client": wrk, "HTTP process": sum(processes) - worker, "worker": worker}
    spent = {process: 1e6 * spent_s / ran.requests for process, spent_s in seconds_of.items()}
    return Seen(ran.requests_per_s, ran.p50_ms, ran.p99_ms, images / batches, spent)


def median(loads: Sequence[Seen]) -> Seen:
    def of(name: str) -> float:
        return float(statistics.median(getattr(each, name) for each in loads))

    spent = {process: statistics.median(each.spent[process] for each in loads) for process in loads[0].spent}
    return Seen(of("requests_per_s"), of("p50_ms"), of("p99_ms"), of("batch"), spent)


def solve(process: str, alone: Seen, busy: Seen) -> Cost:
    """A request is `request + batch / images of a batch`: two loads whose batches differ give both."""
    batch = (alone.spent[process] - busy.spent[process]) / (1 / alone.batch - 1 / busy.batch)
    return Cost(busy.spent[process] - batch / busy.batch, max(0, batch))
