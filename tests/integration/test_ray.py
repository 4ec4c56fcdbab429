"""The service on a real Ray cluster: the same answers, a checkpoint changed and a node killed under load."""

import contextlib
import io
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from models.card import ModelCard
from models.checkpoint import load
from tests.integration.conftest import LIMITS, save_marking_net
from tests.integration.load import Load
from tests.integration.running import (
    HTTP,
    RunningService,
    free_port,
    run_command,
    running_service,
    save_net,
    wait_until,
)
from tests.pictures import draw_shape, encode

pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
from ray.cluster_utils import Cluster
from ray.exceptions import RayError

from server.settings import Settings

pytestmark = pytest.mark.timeout(300)

HERE = Path(__file__).parent
PICTURE = encode(draw_shape("circle", 1))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster of one node, which others join for a while. Commands find it by RAY_ADDRESS."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "disabled")  # whatever this user's other clusters do
        # Its own processes have a low priority, and where other tests run beside it Ray would give them up too early.
        environment.setenv("RAY_worker_niceness", "0")
        environment.setenv("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 2,
                "gcs_server_port": free_port(),
                # Processes that only watch, of which Python takes a second of a core each to start.
                "include_dashboard": False,
                "include_log_monitor": False,
                "no_monitor": True,
            },
        )
        environment.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
        cluster.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def second_node(cluster: Cluster) -> Any:
    # Ray's proxies of one machine would share a port, and the kernel would choose between them.
    return cluster.add_node(num_cpus=2, env_vars={"RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(free_port())})


@pytest.fixture(scope="module")
def on_two_nodes(
    cluster: Cluster, second_node: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("service")
    save_marking_net(folder / "cifar_net.pth")
    with running_service(folder, "--engine", "ray", "--workers", "3", *LIMITS) as service:
        # A core each: of three replicas one at least is on the node of the other two cores.
        wait_until(lambda: len(replicas_on(second_node) + replicas_on(cluster.head_node)) == 5)
        yield service


def replicas_on(node: Any) -> list[str]:
    """The deployments that the node has replicas of, once they are ready."""
    (raylet,) = node.all_processes["raylet"]
    titles = []
    for child in psutil.Process(raylet.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            titles.append(" ".join(child.cmdline()))
    running = [title.split(":")[-1].partition(".") for title in titles if title.startswith("ray::ServeReplica:cifar:")]
    return sorted(name.strip() for name, _, doing in running if not doing.startswith("initialize"))


def test_a_folder_is_scored_on_it_as_in_this_process(cluster: Cluster, tmp_path: Path) -> None:
    from models.checkpoint import read
    from server.score.images import CHUNK_SIZE, list_chunks
    from server.score.scorer import Scorer

    folder, output = tmp_path / "images", tmp_path / "rows.parquet"
    folder.mkdir()
    for number in range(CHUNK_SIZE + 9):
        (folder / f"{number}.png").write_bytes(PICTURE if number % 7 else b"no picture")
    save_net(tmp_path / "net.pth", seed=3)
    command = ["cifar-score", folder, "--output", output, "--checkpoint", "net.pth", "--workers", "1"]
    assert run_command(*map(str, command), cwd=tmp_path).returncode == 0
    scorer = Scorer(str(folder), tmp_path / "net.pth", *read(tmp_path / "net.pth"), "cpu")
    there = pq.read_table(output)
    here = pa.concat_tables(pq.read_table(io.BytesIO(scorer(chunk)["content"])) for chunk in list_chunks(str(folder)))
    for name in ("path", "label", "class_id", "error"):
        assert there[name] == here[name]
    theirs, ours = (table["probabilities"].combine_chunks().flatten().to_numpy() for table in (there, here))
    assert np.abs(theirs - ours).max() < 1e-5  # networks are computed in the way that is fastest there


def test_predict_and_its_siblings_answer_on_ray_as_on_litserve(on_two_nodes: RunningService) -> None:
    tests = [HERE / name for name in ("test_predict.py", "test_v2.py", "test_tf_serving.py")]
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:xdist", *tests],
        env={**os.environ, "CIFAR_TESTED_URL": on_two_nodes.url},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "skipped" not in result.stdout


def test_a_changed_checkpoint_is_taken_over_without_a_pause_and_a_damaged_one_is_not(
    on_two_nodes: RunningService,
) -> None:
    path = on_two_nodes.log.parent / "cifar_net.pth"
    first = load(path).card
    with Load(on_two_nodes.url, PICTURE, connections=8).running() as load_on_it:
        path.write_bytes(b"damaged")
        wait_until(lambda: "still serving" in on_two_nodes.log.read_text())
        second = save_net(path, seed=2)
        wait_until(lambda: load_on_it.versions[second.version] > 200)
    assert (load_on_it.errors, set(load_on_it.statuses)) == ([], {200})
    assert set(load_on_it.versions) == {first.version, second.version}


def test_a_node_that_is_killed_under_load_takes_no_request_with_it(
    cluster: Cluster, second_node: Any, on_two_nodes: RunningService
) -> None:
    assert "Classifier" in replicas_on(second_node)
    with Load(on_two_nodes.url, PICTURE, connections=8, due_a_second=200).running() as load_on_it:
        cluster.remove_node(second_node, allow_graceful=False)
        wait_until(lambda: replicas_on(cluster.head_node) == ["Classifier", "Classifier", "Ingress"])
        load_on_it.wait_for_more(500)
    assert (load_on_it.errors, set(load_on_it.statuses)) == ([], {200})


def test_a_start_that_fails_takes_nobody_elses_service_down(
    cluster: Cluster, on_two_nodes: RunningService, tmp_path: Path
) -> None:
    (tmp_path / "damaged.pth").write_bytes(b"damaged")
    port = str(free_port())
    result = run_command("cifar-serve", "--engine", "ray", "--port", port, "--checkpoint", "damaged.pth", cwd=tmp_path)
    assert (result.returncode, "is damaged" in result.stderr) == (1, True)
    assert {"Classifier", "Ingress"} <= set(replicas_on(cluster.head_node))
    assert HTTP.post(f"{on_two_nodes.url}/predict", content=PICTURE).is_success


def test_told_to_stop_it_leaves_the_cluster_as_it_was(cluster: Cluster, on_two_nodes: RunningService) -> None:
    assert on_two_nodes.stop() == 0
    assert replicas_on(cluster.head_node) == []
    with pytest.raises(httpx.ConnectError):
        HTTP.get(on_two_nodes.url)


def test_without_a_cluster_it_says_so_and_ends(tmp_path: Path) -> None:
    result = run_command("cifar-serve", "--engine", "ray", cwd=tmp_path, RAY_ADDRESS=f"127.0.0.1:{free_port()}")
    assert result.returncode == 1
    assert "there is no Ray cluster to join" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize("error", [TimeoutError, RuntimeError, RayError])
def test_a_cluster_that_is_slow_to_take_a_new_checkpoint_keeps_the_service(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    """Ray waits a minute for every proxy; whoever started the service is told, and it is not taken down."""

    def slow(*_: object, **__: object) -> None:
        raise error("a proxy did not answer")

    with warnings.catch_warnings(action="ignore"):  # Ray's own
        from server import ray_run

    monkeypatch.setattr("ray.serve.run", slow)
    ray_run._deploy(Settings(), None, ModelCard(), first=False)  # type: ignore[arg-type]
    with pytest.raises(error):
        ray_run._deploy(Settings(), None, ModelCard(), first=True)  # type: ignore[arg-type]
