"""Where the service runs: as process 1, in a bare container, on a full disk, by a clock that jumps."""

import contextlib
import os
import shutil
import signal
import struct
import subprocess
import sys
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import psutil
import pytest
from PIL import Image

from tests.integration.load import Load, requests_under_way
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
from tests.integration.test_operations import metrics, predict, wait_for_metric
from tests.pictures import draw_shape

MANY = 256


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("picture") / "circle.jpg"
    draw_shape("circle", 1, (32, 32)).save(path)
    return path.read_bytes()


def in_namespaces(*which: str, script: str = "", arguments: tuple[Path, ...] = ()) -> list[str]:
    """The head of a command that runs in namespaces of its own, after a shell script with $1, $2, …

    Skips the test where this system gives us none.
    """
    unshare = ["unshare", *([] if os.geteuid() == 0 else ["--map-root-user"]), *which]
    try:
        subprocess.run([*unshare, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"{' '.join(unshare)}: {error}")
    rest = f'set -e; {script}\nshift {len(arguments)}; exec "$@"'
    return [*unshare, "sh", "-c", rest, "sh", *map(str, arguments)]


def is_answered(service: RunningService, picture: bytes, times: int) -> bool:
    """Whether the picture, `times` times in one request, gets a prediction each time."""
    answer = HTTP.post(f"{service.url}/predict", files=[("files", picture)] * times, timeout=60)
    return answer.is_success and answer.text.count('"confidence"') == times


def test_as_process_1_it_reaps_orphans_replaces_its_worker_and_stops_in_order_under_load(
    tmp_path: Path, checkpoint: Path, picture: bytes
) -> None:
    inside = in_namespaces("--pid", "--fork", "--mount-proc", "--kill-child", script="(sleep 1 &)")  # an orphan

    def are_all_reaped() -> bool:
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended while we looked
            family = process_1.children(recursive=True)
            return not any(one.name() == "sleep" or one.status() == psutil.STATUS_ZOMBIE for one in family)
        return False

    with running_service(tmp_path, "--checkpoint", str(checkpoint), inside=inside) as service:
        (process_1,) = psutil.Process(service.process.pid).children()
        try:
            with Load(service.url, picture, connections=16).running() as load:
                os.kill(worker_of(service), signal.SIGKILL)
                wait_for_metric(service, "cifar_worker_restarts_total", 1)
                load.wait_for_more(200)
                wait_until(are_all_reaped)
                assert (set(load.statuses), load.errors) == ({200}, [])
                family = processes(service)
                process_1.send_signal(signal.SIGTERM)
                assert service.process.wait(timeout=20) == 0
            assert (set(load.statuses), load.errors) == ({200}, [])
            wait_until(lambda: not still_there(family))
        finally:
            service.process.kill()  # unshare heeds no SIGTERM; process 1 goes with it
    assert "Traceback" not in service.log.read_text()


def test_a_quota_of_cpu_time_leaves_fewer_cores(tmp_path: Path) -> None:
    inside = in_namespaces("--mount", script='mount --bind "$1" /sys/fs/cgroup', arguments=(tmp_path,))
    look = "import models.machine; print(models.machine.cores())"
    there = len(os.sched_getaffinity(0))
    (tmp_path / "cpu").mkdir()
    for files, cores in (  # as Linux shows a container its limit, by cgroup v1 and v2
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, there),
        ({"cpu/cpu.cfs_quota_us": "50000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, there),
        ({"cpu.max": "50000 100000\n"}, 1),
    ):
        for name, content in files.items():
            (tmp_path / name).write_text(content)
        found = subprocess.run([*inside, sys.executable, "-c", look], check=True, capture_output=True, text=True)
        assert int(found.stdout) == cores


def fill(folder: Path) -> Path:
    """A file there that takes all the room."""
    path = folder / "fill"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))
    return path


def test_a_full_disk_and_read_only_folders_lose_no_request_and_no_reload(tmp_path: Path, picture: bytes) -> None:
    temporary, models = Path("/mnt"), tmp_path / "models"  # the one is the service's own, in its namespace
    models.mkdir()
    first = save_net(models / "cifar_net.pth", seed=1)
    mounts = """
        mount -t tmpfs -o size=20m none "$1"
        mount --bind "$2" "$2"; mount -o remount,bind,ro "$2"; cd "$2"
        mount -t tmpfs -o ro none /dev/shm
        export TMPDIR="$1" HOME="$2"
    """
    inside = in_namespaces("--mount", script=mounts, arguments=(temporary, models))
    Image.frombytes("RGB", (1000, 700), os.urandom(2_100_000)).save(tmp_path / "large.png")
    large = (tmp_path / "large.png").read_bytes()
    with running_service(models, inside=inside) as service:
        fill(Path(f"/proc/{service.process.pid}/root{temporary}"))
        with Load(service.url, picture, connections=8, due_a_second=200).running() as load:
            assert is_answered(service, picture, MANY)
            assert is_answered(service, large, 1)
            os.kill(worker_of(service), signal.SIGKILL)
            load.wait_for_more(200)
            assert load.versions.keys() == {first.version}
            second = save_net(models / "cifar_net.pth", seed=2)
            wait_until(lambda: load.versions[second.version] > 0)
            third = save_net(models / "cifar_net.pth", seed=3)
            wait_until(lambda: load.versions[third.version] > 0)
            assert predict(service, b"no picture").status_code == 422
        assert (set(load.statuses), load.errors) == ({200}, [])
        wait_for_metric(service, "cifar_images_total", load.answered + MANY + 1)
        assert metrics(service)["cifar_worker_restarts_total"] == 1
        assert service.stop() == 0
    assert "Traceback" not in service.log.read_text()


def with_a_clock_off_by(offset: Path) -> list[str]:
    """The head of a command whose wall clock is off by the seconds in this file, an int64."""
    if not (compiler := shutil.which("gcc")):
        pytest.skip("there is no gcc")
    library, source = offset.with_name("clock.so"), Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return ["env", f"LD_PRELOAD={library}", f"CLOCK_OFFSET={offset}"]


def test_a_wall_clock_that_jumps_loses_no_request_and_no_reload(tmp_path: Path, picture: bytes) -> None:
    offset, path = tmp_path / "offset", tmp_path / "cifar_net.pth"
    offset.write_bytes(struct.pack("=q", 0))
    save_net(path, seed=0)

    def hours_off() -> int:
        there = parsedate_to_datetime(HTTP.get(f"{service.url}/livez").headers["Date"])
        return round((there - datetime.now(UTC)).total_seconds() / 3600)

    def jump_to(hours: int) -> None:
        with offset.open("r+b") as file:  # in place: the service has it mapped
            file.write(struct.pack("=q", hours * 3600))
        wait_until(lambda: hours_off() == hours)
        load.wait_for_more(200)
        card = save_net(path, seed=hours)
        wait_until(lambda: load.versions[card.version] > 0)

    with running_service(tmp_path, inside=with_a_clock_off_by(offset)) as service:
        calm = Load(service.url, picture, connections=8, due_a_second=200)
        with requests_under_way(service.url, 2) as uploads, calm.running() as load:
            jump_to(hours=1)
            jump_to(hours=-1)
            for upload in uploads:
                upload.sendall(b"." * 95)
                assert upload.recv(65536).startswith(b"HTTP/1.1 422"), "its deadline is not over"
        assert (set(load.statuses), load.errors) == ({200}, [])
        assert service.stop() == 0


def test_in_a_container_with_no_home_no_user_no_shared_memory_and_nobody_at_its_log(
    tmp_path: Path, checkpoint: Path, picture: bytes
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    inside = in_namespaces("--mount", script="mount -t tmpfs -o size=64k none /dev/shm")
    # It may read everything, as the interpreter of these tests may be root's, and write nothing but /tmp.
    reads = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    inside += [
        "setpriv",
        "--reuid=12345",
        "--regid=12345",
        "--clear-groups",
        *reads,
        "env",
        "-u",
        "HOME",
        "-u",
        "TMPDIR",
    ]
    log = tmp_path / "log"
    os.mkfifo(log)
    reader = os.open(log, os.O_RDONLY | os.O_NONBLOCK)
    flags = ("--checkpoint", str(checkpoint), "--access-log")
    with running_service(tmp_path, *flags, log=log, inside=inside) as service:
        os.close(reader)
        for _ in range(20):
            assert predict(service, picture).is_success
        assert predict(service, b"no picture").status_code == 422
        assert is_answered(service, picture, MANY)
        assert service.stop() == 0
