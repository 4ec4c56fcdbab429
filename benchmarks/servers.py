"""A server to measure: how it is started, asked and stopped, and what memory and CPU time its processes take."""

import contextlib
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from benchmarks.environments import python_with, version_in
from benchmarks.protocols import RAW, Protocol
from models.card import TUTORIAL_NET
from models.checkpoint import card_path
from tests.integration.running import free_port, proportional_bytes, wait_until
from tests.pictures import draw_shape, encode

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "benchmarks" / "peers"


@dataclass
class Server:
    """One row of the tables.

    In `command`, `before` and `variables` these are filled in: {python} of its environment and the folder {bin} that it
    is in, Python's folder of {libraries}, {port} and further free {ports[0]}, ..., {checkpoint} and its {card}, the
    folder {peers}, and an empty {folder} of its own.
    """

    name: str
    command: Sequence[str]
    protocol: Protocol = RAW
    written: Sequence[str] = ()  # files in peers/ that its user writes
    distribution: str = "cifar-service"  # the package whose version is reported
    packages: Sequence[str] = ()  # what to install in an environment of its own; where empty, it runs in ours
    worker: str = "cifar-worker|spawn_main"  # a regular expression that only processes that run the network match
    before: Sequence[str] = ()  # a command to run first, which makes what it serves
    variables: Mapping[str, str] = field(default_factory=dict)
    heavy: Mapping[str, str] = field(default_factory=dict)  # further variables for ResNet-18, which takes all the time
    port: int = field(default_factory=free_port)
    start_s: float = 0.0  # until the first answer
    processes: list[psutil.Process] = field(default_factory=list)  # those seen so far; the first was started by us

    def predict(self, client: httpx.Client, images: Sequence[bytes]) -> list[str]:
        """Encoded images → their labels. Raises httpx.HTTPError."""
        content, headers = self.protocol.encode(images)
        answer = client.post(self.url, content=content, headers=dict(headers)).raise_for_status()
        return self.protocol.labels(answer.json())

    def python(self) -> Path:
        """The interpreter of its environment, which is made where it is missing."""
        return python_with(self.distribution, self.packages) if self.packages else Path(sys.executable)

    def version(self) -> str:
        return version_in(self.python(), self.distribution)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.protocol.path}"

    def process_megabytes(self) -> list[float]:
        """PSS of each process, the largest first: what they share counts once."""
        return sorted((proportional_bytes(process) / 1e6 for process in self._look()), reverse=True)

    def cpu_seconds(self) -> list[float]:
        """CPU time so far of each of `processes`."""
        return [sum(process.cpu_times()[:2]) for process in self.processes]

    def kill_worker(self) -> None:
        """SIGKILL to the process that runs the network; of several, to the busiest."""
        workers = [process for process in self._look() if self.is_worker(process)]
        max(workers, key=lambda process: sum(process.cpu_times()[:2])).kill()

    def is_worker(self, process: psutil.Process) -> bool:
        """Whether it runs the network."""
        return re.search(self.worker, " ".join([process.name(), *process.cmdline()])) is not None

    def _look(self) -> list[psutil.Process]:
        """The processes that run now; `processes` keeps those seen earlier too."""
        main = self.processes[0]
        now = [main, *main.children(recursive=True)] if main.is_running() else []
        self.processes += [process for process in now if process not in self.processes]
        return now

    def stop(self) -> None:
        """SIGTERM to the first process and, when it has ended or after 10 s, SIGKILL to all that are left."""
        self._look()
        with contextlib.suppress(psutil.NoSuchProcess):
            self.processes[0].terminate()
        psutil.wait_procs(self.processes[:1], timeout=10)
        left = {
            *self.processes,
            *(process for process in psutil.process_iter() if _session(process) == self.processes[0].pid),
        }
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=10)


def _session(process: psutil.Process) -> int:
    with contextlib.suppress(ProcessLookupError):
        return os.getsid(process.pid)
    return 0


@contextlib.contextmanager
def running(server: Server, checkpoint: Path = TUTORIAL_NET, log: Path = Path(os.devnull)) -> Iterator[None]:
    """Starts the server, measures the time until its first answer, and stops it at the end.

    Raises RuntimeError, subprocess.CalledProcessError or, after 300 s, AssertionError where it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="serving-", ignore_cleanup_errors=True) as folder, log.open("wb") as output:
        python = server.python()
        values = {
            "python": python,
            "bin": python.parent,
            "port": server.port,
            "ports": [free_port() for _ in range(6)],
            "checkpoint": checkpoint,
            "card": card_path(checkpoint),
            "peers": PEERS,
            "libraries": sysconfig.get_config_var("LIBDIR"),
            "folder": folder,
        }
        variables = {**server.variables, **(server.heavy if checkpoint != TUTORIAL_NET else {})}
        environment = {
            **os.environ,
            "PATH": f"{python.parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "CHECKPOINT": str(checkpoint),
            **{name: text.format_map(values) for name, text in variables.items()},
        }
        if server.before:
            words = [word.format_map(values) for word in server.before]
            subprocess.run(words, cwd=folder, env=environment, stdout=output, stderr=output, check=True)
        command = [word.format_map(values) for word in server.command]
        started = time.perf_counter()
        # By its session stop() finds processes whose parents are gone.
        main = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        server.processes = [psutil.Process(main.pid)]
        try:
            with httpx.Client(timeout=30) as client:
                wait_until(lambda: main.poll() is not None or _answers(server, client), timeout_s=300)
            if main.poll() is not None:
                raise RuntimeError(f"{server.name} ended with {main.returncode}: see {log}")
            server.start_s = time.perf_counter() - started
            server.process_megabytes()
            yield
        finally:
            server.stop()
            main.wait()


def _answers(server: Server, client: httpx.Client) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return bool(server.predict(client, [encode(draw_shape("circle", 1, (32, 32)), "JPEG")]))
    return False
