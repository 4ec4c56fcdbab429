"""How many requests a second: our service beside what its users might build instead, on the same cores.

    make bench ARGS=serving

Each server runs the same checkpoint, takes the same images and is loaded by wrk (Debian: apt-get install wrk) on the
same machine. They take turns, round after round, the others stopped with SIGSTOP; medians count.
"""

import argparse
import base64
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from models.card import PRETRAINED
from tests.integration.running import COMMANDS, free_port, wait_until
from tests.pictures import draw_shape

CONNECTIONS = (1, 16, 64, 256, 1000)
_WRK_SCRIPT = Path(__file__).with_name("wrk.lua")


@dataclass
class Server:
    """One row of the table. `command` has {port} where its port goes; `as_json` for those that take no raw image."""

    name: str
    command: list[str]
    as_json: bool = False
    port: int = field(default_factory=free_port)
    start_s: float = 0.0
    megabytes: float = 0.0
    idle_percent: float = 0.0
    family: list[psutil.Process] = field(default_factory=list)

    def signal(self, number: signal.Signals) -> None:
        for process in self.family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)


@dataclass(frozen=True)
class Load:
    """What wrk saw in one run."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    failed: int


def servers() -> list[Server]:
    def peer(module: str) -> list[str]:
        return [sys.executable, "-W", "ignore", "-m", f"benchmarks.peers.{module}", "{port}"]

    ours = [str(COMMANDS / "cifar-serve"), "--port", "{port}", "--checkpoint", str(PRETRAINED)]
    return [
        Server("cifar-serve", ours),
        Server("cifar-serve --forward onnxruntime", [*ours, "--forward", "onnxruntime"]),
        Server("LitServe, its README's way", peer("litserve_stock"), as_json=True),
        Server("LitServe, tuned", peer("litserve_tuned"), as_json=True),
        Server("FastAPI, forward in the request", peer("fastapi_in_request")),
        Server("FastAPI, batching in the process", peer("fastapi_batching")),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description="Requests a second, side by side."
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each is loaded (%(default)s)")
    parser.add_argument("--seconds", type=int, default=4, help="of each load (%(default)s)")
    parser.add_argument("--connections", type=int, nargs="+", default=CONNECTIONS, help="loads (1 16 64 256 1000)")
    parser.add_argument("--only", default="", help="servers whose name has this in it")
    parser.add_argument("--image", type=Path, help="the image to send (default: a drawn 32x32 JPEG)")
    options = parser.parse_args(argv)
    if not shutil.which("wrk"):
        print("benchmarks.serving: wrk is not installed: apt-get install wrk", file=sys.stderr)
        return 1
    chosen = [server for server in servers() if options.only in server.name]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:
        bodies = write_bodies(Path(folder), options.image)
        for server in chosen:
            running.enter_context(run_server(server, bodies[server.as_json]))
        loads = take_turns(chosen, bodies, options.connections, options.rounds, options.seconds)
    print_table(chosen, loads, options.connections)
    return 0


def write_bodies(folder: Path, image: Path | None) -> dict[bool, Path]:
    """The same image as raw bytes (False) and as base64 in JSON (True)."""
    raw, as_json = folder / "image.jpg", folder / "image.json"
    if image:
        raw.write_bytes(image.read_bytes())
    else:
        draw_shape("circle", 1, (32, 32)).save(raw, quality=75)
    as_json.write_text(json.dumps({"image": base64.b64encode(raw.read_bytes()).decode()}))
    return {False: raw, True: as_json}


@contextlib.contextmanager
def run_server(server: Server, body: Path) -> Iterator[None]:
    """Starts it, notes how long it took and what it holds and burns at rest, and stops it until its turn comes."""
    command = [word.format(port=server.port) for word in server.command]
    started = time.perf_counter()
    main = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: answers(server, body), timeout_s=90)
        server.start_s = time.perf_counter() - started
        for _ in range(200):
            answers(server, body)
        server.family = [main, *main.children(recursive=True)]
        server.megabytes = sum(process.memory_full_info().pss for process in server.family) / 1e6
        before = cpu_seconds(server.family)
        time.sleep(3)
        server.idle_percent = (cpu_seconds(server.family) - before) / 3 * 100
        server.signal(signal.SIGSTOP)
        yield
    finally:
        server.signal(signal.SIGKILL)
        main.kill()


def cpu_seconds(family: Sequence[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in family)


def answers(server: Server, body: Path) -> bool:
    headers = {"Content-Type": content_type(server)}
    with contextlib.suppress(httpx.TransportError):
        return httpx.post(
            f"http://127.0.0.1:{server.port}/predict", content=body.read_bytes(), headers=headers, timeout=30
        ).is_success
    return False


def content_type(server: Server) -> str:
    return "application/json" if server.as_json else "image/jpeg"


Loads = dict[tuple[str, int], list[Load]]


def take_turns(
    chosen: Sequence[Server], bodies: dict[bool, Path], connections: Sequence[int], rounds: int, seconds: int
) -> Loads:
    loads: Loads = {}
    for number in range(rounds):
        for count in connections:
            for server in chosen:
                print(f"round {number + 1}/{rounds}, {count} connections: {server.name}", file=sys.stderr)
                server.signal(signal.SIGCONT)
                load = run_wrk(server, bodies[server.as_json], count, seconds)
                server.signal(signal.SIGSTOP)
                loads.setdefault((server.name, count), []).append(load)
    return loads


def run_wrk(server: Server, body: Path, connections: int, seconds: int) -> Load:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "--latency"]
    output = subprocess.run(
        [*command, "-s", str(_WRK_SCRIPT), f"http://127.0.0.1:{server.port}/predict"],
        env={**os.environ, "BODY": str(body), "CONTENT_TYPE": content_type(server)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (line,) = (line for line in output.splitlines() if line.startswith("RESULT"))
    requests, microseconds, p50, p99, failed = map(int, line.split()[1:])
    return Load(requests / microseconds * 1e6, p50 / 1e3, p99 / 1e3, failed)


def print_table(chosen: Sequence[Server], loads: Loads, connections: Sequence[int]) -> None:
    print(f"requests/s, p50 and p99 in ms, by connections ({os.cpu_count()} cores); failed requests in brackets")
    width = max(len(server.name) for server in chosen)
    print(" " * width + "".join(f"{count:>22}" for count in connections) + "      MB  start s  idle %")
    for server in chosen:
        cells = ""
        for count in connections:
            runs = loads[server.name, count]
            rate, p50, p99 = (
                statistics.median(getattr(run, name) for run in runs) for name in ("requests_per_s", "p50_ms", "p99_ms")
            )
            failed = sum(run.failed for run in runs)
            cells += f"{f'{rate:,.0f} · {p50:.1f} · {p99:.0f}' + (f' ({failed})' if failed else ''):>22}"
        print(f"{server.name:{width}}{cells}{server.megabytes:8.0f}{server.start_s:9.1f}{server.idle_percent:8.1f}")


if __name__ == "__main__":
    sys.exit(main())
