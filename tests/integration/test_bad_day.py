"""What goes wrong while the service is loaded, and what is lost: nothing that was accepted."""

import contextlib
import os
import signal
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil
import pytest

from models.checkpoint import load as load_net
from tests.integration.conftest import StartService
from tests.integration.load import Load, address
from tests.integration.running import (
    HTTP,
    RunningService,
    processes,
    running_service,
    save_net,
    still_there,
    wait_until,
    worker_of,
)
from tests.integration.test_operations import lines, metrics, predict, wait_for_metric
from tests.pictures import draw_shape


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("picture") / "circle.jpg"
    draw_shape("circle", 1, (32, 32)).save(path)
    return path.read_bytes()


def signal_all(family: Iterable[int], number: signal.Signals) -> None:
    """Sends the signal to every process, as systemd does."""
    for pid in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[RunningService]:
    """A service shared by the tests that leave it as it was."""
    with running_service(tmp_path_factory.mktemp("service"), "--checkpoint", str(checkpoint)) as service:
        yield service


def test_a_worker_killed_twice_in_a_row_loses_no_request(lasting: RunningService, picture: bytes) -> None:
    with Load(lasting.url, picture, connections=64).running() as load:
        for _ in range(2):
            os.kill(worker_of(lasting), signal.SIGKILL)
            load.wait_for_more(500)
    assert (set(load.statuses), load.errors) == ({200}, [])


def test_what_workers_are_forked_from_may_be_killed_too(start: StartService, checkpoint: Path, picture: bytes) -> None:
    service = start("--checkpoint", str(checkpoint))
    worker = worker_of(service)
    with Load(service.url, picture, connections=16).running() as load:
        os.kill(psutil.Process(worker).ppid(), signal.SIGKILL)
        load.wait_for_more(500)
    assert (set(load.statuses), load.errors) == ({200}, [])
    assert worker_of(service) != worker, "there is one, and it is another"
    with Load(service.url, picture, connections=16).running() as load:
        signal_all(processes(service), signal.SIGTERM)  # what forks workers now heeds it no more than before
        assert service.process.wait(timeout=20) == 0
    assert (set(load.statuses), load.errors) == ({200}, [])


def test_a_worker_that_cannot_be_started_is_tried_again(
    lasting: RunningService, picture: bytes, tmp_path: Path
) -> None:
    worker = psutil.Process(worker_of(lasting))
    listening = [Path(str(connection.laddr)) for connection in psutil.Process(worker.ppid()).net_connections("unix")]
    (fork_server,) = (path for path in listening if path.name.startswith("listener-"))
    fork_server.rename(tmp_path / "away")
    worker.kill()
    wait_until(lambda: "no worker can be started" in lasting.log.read_text())
    (tmp_path / "away").rename(fork_server)
    assert HTTP.post(f"{lasting.url}/predict", content=picture, timeout=30).is_success


def test_sigterm_under_load_answers_what_is_in_flight_and_ends_with_0(lasting: RunningService, picture: bytes) -> None:
    """The last test with `lasting`, which it stops."""
    with Load(lasting.url, picture, connections=32).running() as load:
        assert lasting.stop() == 0
    assert set(load.statuses) <= {200, 503}
    assert not load.errors
    assert "Traceback" not in lasting.log.read_text()


def service_of_a_fresh_net(folder: Path, *flags: str) -> Iterator[RunningService]:
    path = folder / "net.pth"
    save_net(path, seed=1)
    with running_service(folder, "--checkpoint", str(path), *flags) as service:
        yield service


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """A service shared by tests that replace its net.pth."""
    yield from service_of_a_fresh_net(tmp_path_factory.mktemp("changing"))


@pytest.fixture(scope="module")
def pinned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """The same, but it takes over no checkpoint by itself."""
    yield from service_of_a_fresh_net(tmp_path_factory.mktemp("pinned"), "--no-reload")


def test_metrics_outlive_a_killed_worker_and_tell_of_it_and_of_checkpoints_taken_over_and_refused(
    changing: RunningService, picture: bytes
) -> None:
    """The first test with `changing`: it counts from nothing."""
    path = changing.log.with_name("net.pth")
    first = load_net(path).card
    for _ in range(5):
        predict(changing, picture)
    wait_for_metric(changing, "cifar_images_total", 5)
    assert f"cifar_model_info,{first.version},net,net" in metrics(changing)
    os.kill(worker_of(changing), signal.SIGKILL)
    wait_for_metric(changing, "cifar_worker_restarts_total", 1)
    assert predict(changing, picture).is_success
    wait_for_metric(changing, "cifar_images_total", 6)
    assert [line for line in lines(changing) if line["message"].startswith("worker 0 ended")]

    second = save_net(path, seed=2)
    wait_until(lambda: predict(changing, picture).json()["model"]["version"] == second.version)
    seen = metrics(changing)
    assert seen["cifar_model_reloads_total"] == 1
    assert [name for name in seen if name.startswith("cifar_model_info")] == [
        f"cifar_model_info,{second.version},net,net"
    ]
    path.write_bytes(b"no checkpoint")
    wait_for_metric(changing, "cifar_checkpoint_refused", 1)
    save_net(path, seed=3)
    wait_for_metric(changing, "cifar_checkpoint_refused", 0)


def test_a_checkpoint_replaced_under_load_loses_no_request_and_a_bad_one_changes_nothing(
    changing: RunningService, picture: bytes
) -> None:
    path = changing.log.with_name("net.pth")
    first = save_net(path, seed=1)
    wait_until(lambda: predict(changing, picture).json()["model"]["version"] == first.version)
    with Load(changing.url, picture, connections=16).running() as load:
        second = save_net(path, seed=2)
        wait_until(lambda: load.versions[second.version] > 0)

        third = save_net(path, seed=3)
        answer = HTTP.post(f"{changing.url}/v2/repository/models/net/load", timeout=30)
        assert answer.json() == {"name": "net", "version": third.version}
        asked = HTTP.post(f"{changing.url}/predict", content=picture).json()
        assert asked["model"]["version"] == third.version, "load answers when it is done"

        path.write_bytes(b"damaged")
        refused = HTTP.post(f"{changing.url}/v2/repository/models/net/load", timeout=30)
        assert (refused.status_code, refused.json()["code"]) == (409, "checkpoint_refused")
        assert "damaged" in refused.json()["detail"]
        os.kill(worker_of(changing), signal.SIGKILL)  # the one that comes must not need the damaged file
        load.wait_for_more(200)
    assert (set(load.statuses), load.errors) == ({200}, [])
    assert set(load.versions) == {first.version, second.version, third.version}
    assert HTTP.post(f"{changing.url}/v2/repository/models/other/load").json()["code"] == "unknown_model"


def forked_by_main(service: RunningService) -> list[int]:
    """LitServe's manager and the HTTP process, in the order in which they began."""
    children = psutil.Process(service.process.pid).children()
    forked = [child for child in children if not {"-c", "-B"} & set(child.cmdline())]
    return [child.pid for child in sorted(forked, key=psutil.Process.create_time)]


def test_an_http_process_that_is_killed_ends_the_service_with_1(changing: RunningService) -> None:
    """The last test with `changing`, which it ends."""
    _manager, http_process = forked_by_main(changing)
    os.kill(http_process, signal.SIGKILL)
    assert changing.process.wait(timeout=30) == 1
    assert "an HTTP process ended" in changing.log.read_text()


def test_no_reload_pins_the_checkpoint_until_it_is_asked_to_load(pinned: RunningService, picture: bytes) -> None:
    path = pinned.log.with_name("net.pth")
    first = load_net(path).card
    second = save_net(path, seed=2)
    with Load(pinned.url, picture, connections=4).running() as load:
        load.wait_for_more(500)
        os.kill(worker_of(pinned), signal.SIGKILL)  # nor does the one that comes take it by itself
        load.wait_for_more(500)
    assert set(load.versions) == {first.version}
    assert HTTP.post(f"{pinned.url}/v2/repository/models/net/load").json()["version"] == second.version


def test_without_litserves_manager_the_service_ends_in_one_sentence(pinned: RunningService) -> None:
    """The last test with `pinned`, which it ends."""
    manager, _http_process = forked_by_main(pinned)
    os.kill(manager, signal.SIGKILL)
    assert pinned.process.wait(timeout=30) == 1
    assert "LitServe's manager process ended" in pinned.log.read_text().splitlines()[-1]


def test_a_worker_killed_while_the_service_stops_is_replaced_for_what_is_in_flight(
    start: StartService, checkpoint: Path, picture: bytes
) -> None:
    service = start("--checkpoint", str(checkpoint))

    def refuses() -> bool:
        with contextlib.suppress(ConnectionRefusedError):
            socket.create_connection(address(service.url)).close()
            return False
        return True

    def half_then_the_rest() -> Iterator[bytes]:
        yield picture[:100]
        service.process.send_signal(signal.SIGTERM)
        wait_until(refuses)
        worker = worker_of(service)
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: not psutil.pid_exists(worker))
        yield picture[100:]

    assert HTTP.post(f"{service.url}/predict", content=half_then_the_rest(), timeout=30).status_code == 200
    assert service.process.wait(timeout=20) == 0


@pytest.mark.parametrize(
    ("to", "signals"),
    [
        ("group", [signal.SIGINT]),
        ("group", [signal.SIGHUP]),
        ("every process", [signal.SIGTERM, signal.SIGINT]),
    ],
)
def test_a_signal_to_all_its_processes_under_load_still_answers_what_is_in_flight(
    start: StartService, checkpoint: Path, picture: bytes, to: str, signals: list[signal.Signals]
) -> None:
    service = start("--checkpoint", str(checkpoint))
    family = processes(service)
    with Load(service.url, picture, connections=16).running() as load:
        for number in signals:
            if to == "group":  # a terminal's Ctrl-C, or its end; `timeout`
                os.killpg(service.process.pid, number)
            else:
                signal_all(family, number)
        assert service.process.wait(timeout=20) == 0
    assert set(load.statuses) == {200}
    assert not load.errors
    assert "Traceback" not in service.log.read_text()
    if to == "group":  # of which the main process alone heeds it
        assert "starting another" not in service.log.read_text()
    wait_until(lambda: not still_there(family))
