"""The service from its start to its end: what keeps it from starting, what it survives, how it stops."""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from models.architectures.net import Net
from models.card import CIFAR10_CLASSES
from tests.integration.conftest import StartService
from tests.integration.load import Load
from tests.integration.running import (
    COMMANDS,
    HTTP,
    RunningService,
    free_port,
    processes,
    run_command,
    running_service,
    save_net,
    still_there,
    wait_until,
    worker_of,
)
from tests.pictures import draw_shape


@pytest.fixture
def picture(tmp_path: Path) -> bytes:
    draw_shape("circle", 1).save(tmp_path / "picture.png")
    return (tmp_path / "picture.png").read_bytes()


def test_a_checkpoint_that_cannot_be_served_is_one_sentence_and_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "net.pth").write_bytes(b"damaged")
    result = run_command("cifar-serve", "--checkpoint", "net.pth", cwd=tmp_path)
    assert result.returncode == 1
    assert "is damaged or not a checkpoint" in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_the_tutorials_checkpoint_and_one_of_other_classes_take_over_and_no_process_is_left_at_the_end(
    start: StartService, picture: bytes
) -> None:
    service = start()
    path = service.log.parent / "cifar_net.pth"

    def answer() -> dict[str, Any]:
        given: dict[str, Any] = HTTP.post(f"{service.url}/predict?top_k=10", content=picture, timeout=60).json()
        return given

    def labels() -> set[str]:
        return {entry["label"] for entry in answer()["top"]}

    shipped = answer()["model"]["version"]
    torch.save(Net().state_dict(), path.with_name("arriving"))  # without a card
    path.with_name("arriving").rename(path)
    wait_until(lambda: answer()["model"]["version"] != shipped)
    assert labels() == set(CIFAR10_CLASSES)
    retrained = save_net(path, seed=2, classes=("cat", "dog", "ship"))
    wait_until(lambda: answer()["model"]["version"] == retrained.version)
    assert labels() == {"cat", "dog", "ship"}

    family = processes(service)
    assert len(family) >= 4, "main, manager, worker, HTTP process"
    assert service.stop() == 0
    wait_until(lambda: not still_there(family))


def test_the_health_check_of_the_container_asks_the_service(service: RunningService) -> None:
    dockerfile = (Path(__file__).parents[2] / "Dockerfile").read_text().replace("\\\n", "")
    _python, *words = json.loads(re.findall(r"^HEALTHCHECK .* CMD +(\[.*\])$", dockerfile, re.MULTILINE)[0])

    def status(port: str) -> int:
        environment = {"CIFAR_PORT": port, "CIFAR_SSL_CERTFILE": ""}  # empty, as Compose leaves what is not set
        return subprocess.run([sys.executable, *words], env=environment, check=False).returncode

    assert status(service.url.rpartition(":")[2]) == 0
    assert status(str(free_port())) == 1


def test_while_it_runs_its_temporary_folder_is_locked_for_what_removes_old_files(service: RunningService) -> None:
    sockets = psutil.Process(worker_of(service)).net_connections("unix")
    (path,) = {Path(str(each.laddr)) for each in sockets if str(each.laddr).endswith("worker-0.sock")}
    folder = os.open(path.parent, os.O_RDONLY)
    with pytest.raises(BlockingIOError):  # systemd-tmpfiles asks so, and then leaves the folder alone
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(folder)


@pytest.fixture(scope="module")
def among_traps(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[RunningService]:
    """A service of as many processes as fit, in a folder whose files have the names of what it imports."""
    folder = tmp_path_factory.mktemp("traps")
    for name in ("models", "torch", "server"):
        (folder / f"{name}.py").write_text("raise AssertionError('imported from here')")
    as_many_as_fit = ("--workers", "auto", "--http-processes", "auto")
    with running_service(folder, "--checkpoint", str(checkpoint), *as_many_as_fit) as service:
        yield service


def test_nothing_is_imported_from_where_it_is_started(among_traps: RunningService, picture: bytes) -> None:
    assert HTTP.post(f"{among_traps.url}/predict", content=picture).is_success


def test_no_child_outlives_a_main_process_killed_under_load(among_traps: RunningService, picture: bytes) -> None:
    """The last test with `among_traps`, which it kills."""
    family = processes(among_traps)
    with Load(among_traps.url, picture, connections=16).running():
        among_traps.process.kill()
        among_traps.process.wait()
    wait_until(lambda: not still_there(family))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="this system does not tell who heeds a signal")
def test_told_to_stop_while_it_starts_it_ends_quietly(tmp_path: Path, checkpoint: Path) -> None:
    def heeds_sigterm() -> bool:
        status = Path(f"/proc/{process.pid}/status").read_text()
        caught = int(status.partition("SigCgt:")[2].split()[0], 16)
        return bool(caught >> (signal.SIGTERM - 1) & 1)

    command = [str(COMMANDS / "cifar-serve"), "--port", str(free_port()), "--checkpoint", str(checkpoint)]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE) as process:
        wait_until(heeds_sigterm)
        process.terminate()
        _, said = process.communicate(timeout=30)
    assert (process.returncode, said) == (0, b"")
