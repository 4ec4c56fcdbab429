"""Debian's Prometheus scrapes the running service: every query finds data, and alerts fire. Grafana does not run."""

import contextlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import yaml

from tests.integration.running import (
    HTTP,
    RunningService,
    copy_tutorial_net,
    free_port,
    running_service,
    wait_until,
    worker_of,
)
from tests.pictures import draw_flat, encode
from training.__main__ import main

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "alerts.yml"

needs_prometheus = pytest.mark.skipif(
    not shutil.which("prometheus"), reason="no Prometheus: apt-get install prometheus"
)


@dataclass
class Watched:
    """A service, and the Prometheus that scrapes it."""

    service: RunningService
    prometheus: str

    def get(self, path: str, **parameters: str) -> Any:
        answer = HTTP.get(f"{self.prometheus}/api/v1/{path}", params=parameters, timeout=30)
        assert answer.is_success, answer.text
        return answer.json()["data"]

    def finds(self, query: str) -> bool:
        """Whether the query has data: a finite number, not the NaN of 0 / 0."""
        return any(math.isfinite(float(sample["value"][1])) for sample in self.get("query", query=query)["result"])

    def firing(self) -> set[str]:
        alerts = self.get("alerts")["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """The state after requests of every kind: answered, refused, too many at a time, without an answer in time."""
    folder = tmp_path_factory.mktemp("watched")
    checkpoint = folder / "cifar_net.pth"
    copy_tutorial_net(checkpoint)
    flags = ["--checkpoint", str(checkpoint)]
    limits = ["--max-waiting-images", "4", "--deadline-s", "2"]
    with (
        running_service(folder, *flags, *limits) as service,
        running_prometheus(folder, service) as prometheus,
        traffic(service),
    ):
        watched = Watched(service, prometheus)
        wait_until(lambda: watched.finds("cifar_images_total > 0"))
        overload(service)
        checkpoint.write_bytes(b"no checkpoint")
        yield watched


@contextlib.contextmanager
def running_prometheus(folder: Path, service: RunningService) -> Iterator[str]:
    """Prometheus with our configuration, but intervals of seconds instead of minutes; yields its address."""
    configuration = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    configuration = configuration.replace("service:8000", urlsplit(service.url).netloc)
    (folder / "prometheus.yml").write_text(re.sub(r"_interval: \w+", "_interval: 500ms", configuration))
    (folder / "alerts.yml").write_text(re.sub(r"\bfor: \w+", "for: 1s", RULES.read_text()))
    address = f"127.0.0.1:{free_port()}"
    files = [f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/prometheus"]
    with (folder / "prometheus.log").open("wb") as log:
        command = ["prometheus", *files, f"--web.listen-address={address}"]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_until(lambda: process.poll() is not None or is_ready(f"http://{address}"))
        assert process.poll() is None, (folder / "prometheus.log").read_text()
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def is_ready(prometheus: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return HTTP.get(f"{prometheus}/-/ready").is_success
    return False


@contextlib.contextmanager
def traffic(service: RunningService) -> Iterator[None]:
    """Sends pictures of all colours, and a body that is no picture, one after the other."""
    bodies = [*(encode(draw_flat(class_id, 0)) for class_id in range(10)), b"no picture"]
    over = threading.Event()

    def ask() -> None:
        while True:
            for body in bodies:
                if over.wait(0.02):
                    return
                with contextlib.suppress(httpx.TransportError):  # a test ends the service
                    HTTP.post(f"{service.url}/predict", content=body)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def overload(service: RunningService) -> None:
    """More requests than may wait, while the worker stands still: some get 429, the others 504."""
    picture, worker = encode(draw_flat(0, 0)), worker_of(service)
    os.kill(worker, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor(16) as threads:
            answers = threads.map(lambda _: HTTP.post(f"{service.url}/predict", content=picture, timeout=30), range(16))
            assert {answer.status_code for answer in answers} == {429, 504}
    finally:
        os.kill(worker, signal.SIGCONT)


def wait_for_data(watched: Watched, queries: Sequence[str]) -> None:
    give_up_at = time.monotonic() + 30
    while (empty := [query for query in queries if not watched.finds(query)]) and time.monotonic() < give_up_at:
        time.sleep(0.2)
    assert queries
    assert not empty


def dashboard() -> Any:
    return json.loads((DEPLOY / "grafana" / "dashboards" / "cifar-service.json").read_text())


@needs_prometheus
@pytest.mark.parametrize("words", ["check config prometheus.yml", "test rules alerts.test.yml"])
def test_promtool_agrees(words: str) -> None:
    command = ["promtool", *words.split()]
    result = subprocess.run(command, cwd=RULES.parent, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@needs_prometheus
def test_every_query_of_the_dashboard_finds_data(watched: Watched) -> None:
    queries = [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]
    queries = [query.replace("$__rate_interval", "5s").replace("$instance", ".*") for query in queries]
    assert not [query for query in queries if "$" in query]
    wait_for_data(watched, queries)


@needs_prometheus
def test_the_expression_of_every_alert_finds_data(watched: Watched) -> None:
    rules = [rule["query"] for group in watched.get("rules")["groups"] for rule in group["rules"]]
    wait_for_data(watched, [re.sub(r" (==|>) (?=[\d.])", r" \1 bool ", query) for query in rules])  # 0 where it is calm


@needs_prometheus
def test_an_alert_fires_while_the_checkpoint_on_disk_cannot_be_served(watched: Watched) -> None:
    wait_until(lambda: "CifarCheckpointRefused" in watched.firing())


@needs_prometheus
def test_an_alert_fires_when_the_service_has_ended(watched: Watched) -> None:
    assert "CifarServiceDown" not in watched.firing()
    watched.service.stop()
    wait_until(lambda: "CifarServiceDown" in watched.firing())


def test_every_alert_is_tried_and_explained() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    tried, explained = RULES.with_name("alerts.test.yml").read_text(), (ROOT / "docs" / "monitoring.md").read_text()
    assert alerts
    assert not [name for name in alerts if f'alertname="{name}"' not in tried]
    assert re.findall(r"^\| `(\w+)` \|", explained, re.MULTILINE) == alerts


def test_drift_is_recorded_as_it_is_explained() -> None:
    explained = re.findall(r"```promql\n# [^\n]*\n(.*?)```", (ROOT / "docs" / "uncertainty.md").read_text(), re.DOTALL)
    groups = yaml.safe_load(RULES.read_text())["groups"]
    recorded = [rule["expr"].split() for group in groups for rule in group["rules"] if "record" in rule]
    assert [expression.split() for expression in explained] == recorded


def test_every_panel_says_what_it_shows_and_in_what_unit() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["description"] and panel["fieldConfig"]["defaults"]["unit"] for panel in panels)


def test_compose_mounts_builds_and_scrapes_what_there_is() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        sources = [volume.partition(":")[0] for volume in service["volumes"] if isinstance(volume, str)]
        assert not [source for source in sources if source not in compose["volumes"] and not (DEPLOY / source).exists()]
        assert service["read_only"], name
    assert f" AS {compose['services']['retrain']['build']['target']}\n" in (ROOT / "Dockerfile").read_text()
    configuration = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    (scraped,) = configuration["scrape_configs"]
    host, port = scraped["static_configs"][0]["targets"][0].split(":")
    assert compose["services"][host]["ports"][0].endswith(f":{port}")
    assert f'job="{scraped["job_name"]}"' in RULES.read_text()


def test_a_retrain_job_of_compose_leaves_the_checkpoint_of_another_day_and_takes_further_arguments() -> None:
    retrain = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["retrain"]
    command = (*retrain["entrypoint"], *retrain["command"], "--list")
    shown = [word.replace("$$", "$").replace("exec cifar-train", "echo") for word in command]
    words = subprocess.run(shown, check=True, capture_output=True, text=True).stdout.split()
    assert re.fullmatch(r"/runs/\d{4}-\d\d-\d\d-\d{4}/cifar_net\.pth", words[words.index("--output") + 1])
    assert words[-2:] == ["net-best", "--list"]
    assert main(words) == 0, "cifar-train takes all these words"
