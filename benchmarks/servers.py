"""A server that is measured: how it is started, asked and stopped, and what its processes cost."""

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

    In `command`, `before` and `variables` these are filled in: {python} of its environment and the folder {bin} around
    it, {libraries} of Python, {port} and further {ports[0]}, ..., {checkpoint} and its {card}, {peers}, and an empty
    {folder} of its own.
    """

    name: str
    command: Sequence[str]
    protocol: Protocol = RAW
    written: Sequence[str] = ()  # files in peers/ that its user writes
    distribution: str = "cifar-service"  # whose version is its version
    packages: Sequence[str] = ()  # of an environment of its own; ours where there are none
    worker: str = "cifar-worker|spawn_main"  # in the name and command line of a process that runs the network
    before: Sequence[str] = ()  # a command that makes what it serves
    variables: Mapping[str, str] = field(default_factory=dict)
    heavy: Mapping[str, str] = field(default_factory=dict)  # variables more, where the network takes all the time
    port: int = field(default_factory=free_port)
    start_s: float = 0.0
    family: list[psutil.Process] = field(default_factory=list)

    def predict(self, client: httpx.Client, images: Sequence[bytes]) -> list[str]:
        """Their labels. Raises httpx.HTTPError."""
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
        """Of each process in `family`, so far."""
        return [sum(process.cpu_times()[:2]) for process in self.family]

    def kill_worker(self) -> None:
        """SIGKILL to the process that runs the network; of several, to the busiest."""
        workers = [process for process in self._look() if self.is_worker(process)]
        max(workers, key=lambda process: sum(process.cpu_times()[:2])).kill()

    def is_worker(self, process: psutil.Process) -> bool:
        """Whether it runs the network."""
        return re.search(self.worker, " ".join([process.name(), *process.cmdline()])) is not None

    def _look(self) -> list[psutil.Process]:
        """The processes that there are now; `family` keeps those that were seen before too."""
        main = self.family[0]
        now = [main, *main.children(recursive=True)] if main.is_running() else []
        self.family += [process for process in now if process not in self.family]
        return now

    def stop(self) -> None:
        """SIGTERM to the first process, and SIGKILL to all that are left when it has ended, or not within 10 s."""
        self._look()
        with contextlib.suppress(psutil.NoSuchProcess):
            self.family[0].terminate()
        psutil.wait_procs(self.family[:1], timeout=10)
        left = {
            *self.family,
            *(process for process in psutil.process_iter() if _session(process) == self.family[0].pid),
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
    """Starts it, notes how long its first answer took from there, and stops it at the end."""
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
        # A session of its own shows at the end which processes were started by some that are gone.
        main = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        server.family = [psutil.Process(main.pid)]
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
