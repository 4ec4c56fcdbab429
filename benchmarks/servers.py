"""The servers that are measured, ours and those that users might build: how each is started, and what it costs."""

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from models.card import TUTORIAL_NET
from tests.integration.running import COMMANDS, free_port, wait_until


@dataclass
class Server:
    """One row of the table. `command` has {port} where its port goes; `as_json` for those that take no raw image."""

    name: str
    command: list[str]
    as_json: bool = False
    port: int = field(default_factory=free_port)
    start_s: float = 0.0
    idle_percent: float = 0.0
    family: list[psutil.Process] = field(default_factory=list)

    @property
    def content_type(self) -> str:
        return "application/json" if self.as_json else "image/jpeg"

    def process_megabytes(self) -> list[float]:
        """PSS of each process, the largest first: what they share counts once."""
        return sorted((process.memory_full_info().pss / 1e6 for process in self.family), reverse=True)

    def cpu_seconds(self) -> list[float]:
        """Of each process, so far."""
        return [sum(process.cpu_times()[:2]) for process in self.family]

    def signal(self, number: signal.Signals) -> None:
        for process in self.family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def answers(self, body: Path) -> bool:
        with contextlib.suppress(httpx.TransportError):
            url, headers = f"http://127.0.0.1:{self.port}/predict", {"Content-Type": self.content_type}
            return httpx.post(url, content=body.read_bytes(), headers=headers, timeout=30).is_success
        return False


def all_servers() -> list[Server]:
    def peer(module: str) -> list[str]:
        return [sys.executable, "-W", "ignore", "-m", f"benchmarks.peers.{module}", "{port}"]

    ours = [str(COMMANDS / "cifar-serve"), "--port", "{port}", "--checkpoint", str(TUTORIAL_NET)]
    return [
        Server("cifar-serve", ours),
        Server("cifar-serve --forward onnxruntime", [*ours, "--forward", "onnxruntime"]),
        Server("LitServe, its README's way", peer("litserve_stock"), as_json=True),
        Server("LitServe, tuned", peer("litserve_tuned"), as_json=True),
        Server("FastAPI, forward in the request", peer("fastapi_in_request")),
        Server("FastAPI, batching in the process", peer("fastapi_batching")),
    ]


@contextlib.contextmanager
def running(server: Server, body: Path) -> Iterator[None]:
    """Starts it, notes how long 200 answers took from there and what it burns at rest, and stops it until its turn."""
    command = [word.format(port=server.port) for word in server.command]
    started = time.perf_counter()
    main = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_until(lambda: server.answers(body), timeout_s=90)
        for _ in range(200):
            server.answers(body)
        server.start_s = time.perf_counter() - started
        server.family = [main, *main.children(recursive=True)]
        before = sum(server.cpu_seconds())
        time.sleep(3)
        server.idle_percent = (sum(server.cpu_seconds()) - before) / 3 * 100
        server.signal(signal.SIGSTOP)
        yield
    finally:
        server.signal(signal.SIGKILL)
        main.kill()


def print_processes(servers: Sequence[Server]) -> None:
    print("\nPSS of each process, MB")
    for server in servers:
        print(f"{server.name}: {', '.join(f'{size:.0f}' for size in server.process_megabytes())}")
