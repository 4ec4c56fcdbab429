"""Starts the real service as its users do: the installed command, a free port, real HTTP."""

import contextlib
import os
import random
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import torch

from models.architectures.net import Net
from models.card import CIFAR10_CLASSES, TUTORIAL_NET, ModelCard
from models.checkpoint import card_path, save

COMMANDS = Path(sys.executable).parent
# A connection for each request, as httpx.get has it, which reads the certificates of the whole web each time: 50 ms.
# This one has none, and so refuses all that is not plain HTTP.
HTTP = httpx.Client(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), limits=httpx.Limits(max_keepalive_connections=0))


@dataclass
class RunningService:
    """A cifar-serve process that is ready."""

    process: subprocess.Popen[bytes]
    url: str
    log: Path

    def stop(self) -> int:
        """SIGTERM, as an orchestrator does it; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=40)


def free_port() -> int:
    """A port that neither the system gives out on its own, nor another pytest process takes for its services."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = random.randrange(20_000 + worker % 16, 32_000, 16)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def running_service(
    folder: Path,
    *flags: str,
    trust: ssl.SSLContext | None = None,
    log: Path | None = None,
    inside: Sequence[str] = (),
) -> Iterator[RunningService]:
    """cifar-serve with `flags`, its working directory and log in `folder`: ready when it is yielded, stopped after.

    It has one worker and one HTTP process, as on two cores, unless `flags` say otherwise; `inside` is a command that
    makes its surroundings and then becomes it, as `env` does; `trust` is for one that answers HTTPS; `log` for one that
    writes elsewhere.
    """
    port = free_port()
    url, log = f"{'https' if trust else 'http'}://127.0.0.1:{port}", log or folder / f"service-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*inside, COMMANDS / "cifar-serve", "--port", str(port), *flags],
            cwd=folder,
            env={**os.environ, "CIFAR_WORKERS": "1", "CIFAR_HTTP_PROCESSES": "1"},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    service = RunningService(process, url, log)
    try:
        wait_until(lambda: process.poll() is not None or _is_ready(url, trust))
        if process.poll() is not None:
            raise RuntimeError(f"cifar-serve {' '.join(flags)} ended with {process.returncode}:\n{log.read_text()}")
        yield service
    finally:
        if process.poll() is None:
            service.stop()
        if log.is_file():
            print(log.read_text(errors="replace")[-5000:])  # what pytest shows where a test failed


def _is_ready(url: str, trust: ssl.SSLContext | None) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return (httpx.get(f"{url}/readyz", verify=trust) if trust else HTTP.get(f"{url}/readyz")).is_success
    return False


def wait_until(condition: Callable[[], bool], timeout_s: float = 120) -> None:
    """Checks the condition until it holds; fails the test if it does not hold in time."""
    give_up_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < give_up_at, f"it did not come about within {timeout_s} s"
        time.sleep(0.05)  # each look is work: a request, a walk through /proc


def processes(service: RunningService) -> dict[int, str]:
    """The command lines of the service's processes, by process id."""
    main = psutil.Process(service.process.pid)
    return {process.pid: " ".join(process.cmdline()) for process in [main, *main.children(recursive=True)]}


def still_there(family: dict[int, str]) -> list[str]:
    return [args for pid, args in family.items() if psutil.pid_exists(pid)]


def worker_of(service: RunningService) -> int:
    (pid,) = (pid for pid in processes(service) if psutil.Process(pid).name() == "cifar-worker")
    return pid


def proportional_bytes(process: psutil.Process) -> int:
    """Memory of a process, with its part of what it shares with others (PSS); 0 if it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return int(process.memory_full_info().pss)
    return 0


def save_net(
    path: Path, seed: int, classes: tuple[str, ...] = CIFAR10_CLASSES, uncertain_below: float | None = None
) -> ModelCard:
    """A fresh Net of that seed as a checkpoint."""
    torch.manual_seed(seed)
    card = ModelCard(classes=classes, uncertain_below=uncertain_below)
    return save(path, Net(num_classes=len(card.classes)), card)


def copy_tutorial_net(path: Path) -> None:
    """The shipped checkpoint and its card, as `path`."""
    shutil.copy(TUTORIAL_NET, path)
    shutil.copy(card_path(TUTORIAL_NET), card_path(path))


def run_command(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs one of our commands to its end, with no terminal for input or output."""
    return subprocess.run(
        [COMMANDS / words[0], *words[1:]],
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def run_unread(*command: str) -> tuple[int, str]:
    """Runs a command whose reader has gone, as `| head` may; returns its exit code and what it says on stderr."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
    return process.returncode, said
