"""Starts the real service as its users do: the installed command, a free port, real HTTP."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import torch

from models.architectures.net import Net
from models.card import ModelCard
from models.checkpoint import save

_START_S = 60

COMMANDS = Path(sys.executable).parent


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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start_service(folder: Path, *flags: str) -> RunningService:
    """cifar-serve with `flags`, its working directory and log in `folder`; returns when it is ready."""
    port = free_port()
    log = folder / f"service-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [COMMANDS / "cifar-serve", "--port", str(port), *flags], cwd=folder, stdout=output, stderr=output
        )
    url = f"http://127.0.0.1:{port}"
    give_up_at = time.monotonic() + _START_S
    while time.monotonic() < give_up_at and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz").is_success:
                return RunningService(process, url, log)
        time.sleep(0.05)  # between looks at its readiness
    process.kill()
    pytest.fail(f"cifar-serve {' '.join(flags)} did not become ready:\n{log.read_text()}")


def save_net(path: Path, seed: int, classes: tuple[str, ...] | None = None) -> ModelCard:
    """A fresh Net of that seed as a checkpoint."""
    torch.manual_seed(seed)
    card = ModelCard(classes=classes) if classes else ModelCard()
    return save(path, Net(num_classes=len(card.classes)), card)


def run_command(*words: str, cwd: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """One of our commands to its end, as typed in a shell where nothing is a terminal."""
    return subprocess.run(
        [COMMANDS / words[0], *words[1:]],
        cwd=cwd,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
