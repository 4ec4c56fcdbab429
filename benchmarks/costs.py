"""What a request costs each process of the service: the CPU time that the system accounts to it under load by wrk."""

import base64
import json
import resource
import signal
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from benchmarks.servers import Server, all_servers, running
from benchmarks.serving import Column, make_columns, run_wrk
from tests.integration.load import gauge

CONNECTIONS = (1, 16, 64, 256)
MANY, PHOTO = "256 of them in a request, JSON", "one photograph of 1024x768"
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


def make_loads(folder: Path) -> list[Column]:
    columns = make_columns(folder, CONNECTIONS, None)
    (picture,) = columns[0].bodies[False]
    many, photo = folder / "many.json", folder / "photo.jpg"
    many.write_text(json.dumps({"images": [base64.b64encode(picture.read_bytes()).decode()] * IMAGES}))
    Image.effect_noise((1024, 768), 12).convert("RGB").save(photo, quality=60)
    return [*columns, Column(MANY, 4, {True: [many]}), Column(PHOTO, 64, {False: [photo]})]


def measure(columns: Sequence[Column], rounds: int, seconds: int) -> dict[str, Seen]:
    """Medians of the rounds, by the titles of the columns."""
    server, *_ = all_servers()
    found: dict[str, list[Seen]] = {column.title: [] for column in columns}
    with running(server, columns[0].bodies[False][0]):
        server.signal(signal.SIGCONT)
        for _ in range(rounds):
            for column in columns:
                print(f"connections: {column.title}", file=sys.stderr)
                found[column.title].append(load(replace(server, as_json=False not in column.bodies), column, seconds))
    return {title: median(loads) for title, loads in found.items()}


def load(server: Server, column: Column, seconds: int) -> Seen:
    is_worker = ["spawn_main" in " ".join(process.cmdline()) for process in server.family]

    def counted() -> list[float]:
        """Of the service: seconds of each process, images, batches; and the seconds of all wrks so far."""
        wrk = resource.getrusage(resource.RUSAGE_CHILDREN)
        url = f"http://127.0.0.1:{server.port}"
        images, batches = (gauge(url, f"cifar_batch_size_images_{name}") for name in ("sum", "count"))
        return [*server.cpu_seconds(), images, batches, wrk.ru_utime + wrk.ru_stime]

    before = counted()
    ran = run_wrk(server, column, seconds)
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
