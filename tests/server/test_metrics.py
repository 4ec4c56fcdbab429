"""What happens is counted, at a cost that a request does not feel."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from prometheus_client import REGISTRY

from models.card import CONFIDENCE_BOUNDS, ModelCard, Scores
from server.__main__ import main
from server.exposition import ServedModel
from server.metrics import CONFIDENCE, BulkHistogram, Recorder

CARD = ModelCard(sha256="ab" * 32, uncertain_below=0.4)


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_many_values_at_once_are_the_same_values_one_by_one() -> None:
    at_once = BulkHistogram("at_once", "x", buckets=(1, 2, 4), registry=None)
    one_by_one = BulkHistogram("one_by_one", "x", buckets=(1, 2, 4), registry=None)
    values = [0, 0.5, 1, 1.5, 2, 3, 4, 5, 1000]
    at_once.observe_all(values)
    for number in values:
        one_by_one.observe(number)
    ((first,), (second,)) = (at_once.collect(), one_by_one.collect())
    assert [sample.value for sample in first.samples[:-1]] == [sample.value for sample in second.samples[:-1]]


def test_a_nan_does_not_spoil_the_sum() -> None:
    histogram = BulkHistogram("spoilt", "x", buckets=(1,), registry=None)
    histogram.observe_all([0.5, float("nan")])
    (family,) = histogram.collect()
    assert [sample.value for sample in family.samples if sample.name == "spoilt_sum"] == [0.5]


def test_batches_count_images_classes_confidence_and_waits() -> None:
    recorder = Recorder()
    names = ("images_total", "predictions_total", "confidence_ratio_sum", "queue_wait_seconds_count")
    before = [value(f"cifar_{name}", **({"label": "cat"} if "pred" in name else {})) for name in names]
    marked = value("cifar_uncertain_images_total")
    probabilities = np.zeros((3, 10), np.float32)
    probabilities[:, 3] = [0.3, 0.5, 0.7]
    recorder.batch([0.01, 0.02], probabilities, CARD)
    recorder.write()
    after = [value(f"cifar_{name}", **({"label": "cat"} if "pred" in name else {})) for name in names]
    assert np.subtract(after, before) == pytest.approx([3, 3, 1.5, 2])
    assert value("cifar_uncertain_images_total") == marked + 1, "the one of 0.3"
    recorder.write()
    assert value("cifar_images_total") == after[0], "written once"
    recorder.batch([], probabilities, CARD.model_copy(update={"uncertain_below": None}))
    recorder.write()
    assert value("cifar_uncertain_images_total") == marked + 1, "a card without a threshold marks none"


def test_requests_are_counted_by_route_and_status_and_refusals_by_code() -> None:
    recorder = Recorder()
    for status in (200, 200, 422):
        recorder.request("/test", status, 0.003)
    recorder.rejected("test_code")
    recorder.in_flight, recorder.queued = 7, lambda: 11
    recorder.write()
    assert value("cifar_requests_total", route="/test", status="200") == 2
    assert value("cifar_requests_total", route="/test", status="422") == 1
    assert value("cifar_request_duration_seconds_count", route="/test") == 3
    assert value("cifar_rejections_total", code="test_code") == 1
    assert (value("cifar_requests_in_flight"), value("cifar_queued_images")) == (7, 11)


def test_a_reload_is_a_change_of_version_and_one_process_counts_it() -> None:
    before = value("cifar_model_reloads_total")
    other = CARD.model_copy(update={"sha256": "cd" * 32})
    for counts in (True, False):
        recorder = Recorder()
        recorder.counts_reloads = counts
        for card in (CARD, CARD, other, other):  # the second worker says it again
            recorder.model(card)
    assert value("cifar_model_reloads_total") == before + 1


def test_the_served_model_is_told_by_its_version() -> None:
    family = next(iter(ServedModel("net", CARD).collect()))
    (sample,) = family.samples
    assert sample.labels == {"model": "net", "version": "abababababab", "architecture": "net"}
    assert not next(iter(ServedModel("net", None).collect())).samples, "before there is one"


def test_what_the_card_expects_is_told_in_shares_of_its_test_images_with_the_labels_of_what_is_counted() -> None:
    scores = Scores(
        data="drawn",
        n=20,
        accuracy=0.8,
        interval=(0.6, 0.9),
        per_class={"circle": 0.7, "square": 0.9},
        calibration_error=0,
        confusion=((7, 3), (1, 9)),
        confidence=(0, 0, 0, 0, 0, 2, 5, 9, 12, 15, 20, 20),
    )
    card = ModelCard(classes=("circle", "square"), scores=scores)
    _, classes, confidence = ServedModel("net", card).collect()
    assert {sample.labels["label"]: sample.value for sample in classes.samples} == {"circle": 0.4, "square": 0.6}
    shares = {sample.labels["le"]: sample.value for sample in confidence.samples}
    assert (len(shares), shares["0.6"], shares["0.95"], shares["1.0"]) == (len(CONFIDENCE_BOUNDS), 0.1, 0.75, 1)
    counted = {sample.labels["le"] for sample in next(iter(CONFIDENCE.collect())).samples if "le" in sample.labels}
    assert counted == {*shares, "+Inf"}
    assert not [sample for family in list(ServedModel("net", CARD).collect())[1:] for sample in family.samples]


_PROCESSES = """
import functools, multiprocessing, time
from prometheus_client.multiprocess import mark_process_dead
from server.exposition import render
from server.metrics import RECORDER, metrics_folder

def see(requests, stay):
    RECORDER.in_flight = requests
    for _ in range(requests):
        RECORDER.request("/test", 200, 0.001)
    RECORDER.write()
    if stay:
        time.sleep(60)

process = functools.partial(multiprocessing.get_context("fork").Process, target=see, daemon=True)
first, second = process(args=(3, False)), process(args=(4, True))
first.start(); second.start()
first.join()
mark_process_dead(first.pid, metrics_folder())
last = b"cifar_requests_in_flight 4.0", b'count{route="/test"} 7.0', b'status="200"} 7.0'
while not all(line in render("net", None) for line in last):  # they are written to one file after the other
    time.sleep(0.01)
print(render("net", None).decode())
"""


def test_what_a_process_counted_outlives_it_and_what_it_had_in_flight_does_not(tmp_path: Path) -> None:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    (tmp_path / "counter_1.db").touch()  # as of a process that starts, before its file has a size
    page = subprocess.run(
        [sys.executable, "-c", _PROCESSES], env=environment, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert 'cifar_requests_total{route="/test",status="200"} 7.0' in page
    assert 'cifar_request_duration_seconds_count{route="/test"} 7.0' in page
    assert "cifar_requests_in_flight 4.0" in page


_LABELS = """
import asyncio, os
from server.metrics import RECORDER, counting, metrics_folder

async def count():
    async with counting():
        await asyncio.sleep(0)
        for number in range(1000):
            RECORDER.rejected(f"code_{number}")

asyncio.run(count())
for file in os.scandir(metrics_folder()):
    print(file.name, file.stat().st_blocks * 512 - file.stat().st_size)
"""


def test_the_room_on_the_disk_that_metrics_reserve_stays_theirs_as_labels_come(tmp_path: Path) -> None:
    """A memory map over a hole in a file ends the process where the disk is full."""
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    command = [sys.executable, "-c", _LABELS]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout
    holes = {name: -int(more) for name, more in map(str.split, said.splitlines()) if int(more) < 0}
    assert (len(said.splitlines()), holes) == (3, {})


def test_a_full_temporary_folder_keeps_the_service_from_starting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert main([]) == 1
    assert "has less than 16,777,216 bytes left: set TMPDIR to another" in capsys.readouterr().err


def test_a_temporary_folder_whose_path_is_too_long_for_sockets_keeps_the_service_from_starting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    assert main([]) == 1
    assert f"{folder} is too long for sockets in it: set TMPDIR to a shorter one" in capsys.readouterr().err
