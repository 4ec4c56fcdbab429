"""What an operator sees and sets, on real processes: metrics, logs, keys, TLS."""

import contextlib
import json
import re
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.load import address, answer_to, requests_under_way
from tests.integration.running import HTTP, RunningService, running_service, wait_until
from tests.pictures import draw_shape

OURS = "https://ours.example"


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("picture") / "circle.png"
    draw_shape("circle", 1).save(path)
    return path.read_bytes()


def metrics(service: RunningService) -> dict[str, float]:
    """name{label,…} → value."""
    page = HTTP.get(f"{service.url}/metrics", timeout=30).raise_for_status()
    assert page.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    samples = [sample for family in text_string_to_metric_families(page.text) for sample in family.samples]
    return {",".join([sample.name, *sorted(sample.labels.values())]): sample.value for sample in samples}


def wait_for_metric(service: RunningService, name: str, value: float) -> None:
    wait_until(lambda: metrics(service).get(name) == value)


def lines(service: RunningService) -> list[dict[str, Any]]:
    """But for what libtiff, in C, says of a damaged TIFF that other tests have sent."""
    written = service.log.read_text().splitlines()
    return [json.loads(line) for line in written if not re.match(r"[A-Z]\w*Decode\w*: |TIFF\w*: ", line)]


def sample_line() -> dict[str, Any]:
    """The one that docs/operations.md shows."""
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    shown: dict[str, Any] = json.loads(page.partition("```json\n")[2].partition("```")[0])
    return shown


def predict(service: RunningService, picture: bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return HTTP.post(f"{service.url}/predict", content=picture, headers=named, timeout=60)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text("kept\nold-secret\n")
    return path


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path, keys: Path) -> Iterator[RunningService]:
    """It wants a key, may be called from the pages of one other origin, and logs every request for people."""
    flags = ("--api-keys-file", str(keys), "--cors-origins", OURS, "--access-log", "--log-format", "plain")
    with running_service(tmp_path_factory.mktemp("service"), "--checkpoint", str(checkpoint), *flags) as service:
        yield service


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[RunningService]:
    """A service with two HTTP processes."""
    flags = ("--checkpoint", str(checkpoint), "--http-processes", "2", "--access-log")
    with running_service(tmp_path_factory.mktemp("service"), *flags) as service:
        yield service


def test_two_http_processes_are_one_sum(of_two: RunningService, picture: bytes) -> None:
    """The first test with `of_two`: it counts from nothing."""
    asked = 0

    def answering() -> set[int]:
        return {line["process"] for line in lines(of_two) if line.get("path") == "/predict"}

    while len(answering()) < 2:
        assert predict(of_two, picture).is_success
        asked += 1
    written = next(line for line in lines(of_two) if line.get("path") == "/predict")
    assert {*written, "trace_id"} == set(sample_line()), "docs/operations.md shows a line as it is"
    many = HTTP.post(f"{of_two.url}/predict", files=[("files", picture), ("files", b"no picture")])
    assert many.is_success
    assert predict(of_two, b"no picture").status_code == 422
    expected = {
        "cifar_requests_total,/predict,200": asked + 1,
        "cifar_requests_total,/predict,422": 1,
        "cifar_images_total": asked + 1,
        "cifar_batch_size_images_sum": asked + 1,
        "cifar_confidence_ratio_count": asked + 1,
        "cifar_queue_wait_seconds_count": asked + 1,
        "cifar_request_duration_seconds_count,/predict": asked + 2,
        "cifar_rejections_total,not_an_image": 2,
    }
    wait_until(lambda: expected.items() <= metrics(of_two).items())  # each of the two writes when its time comes
    seen = metrics(of_two)
    assert sum(value for name, value in seen.items() if name.startswith("cifar_predictions_total")) == asked + 1

    with requests_under_way(of_two.url, 6):
        wait_for_metric(of_two, "cifar_requests_in_flight", 7)  # and the one that asks
    wait_for_metric(of_two, "cifar_requests_in_flight", 1)
    wait_for_metric(of_two, "cifar_requests_total,/predict,499", 6)  # they went away


def test_told_to_stop_all_its_http_processes_refuse_what_is_new_and_answer_what_is_under_way(
    of_two: RunningService,
) -> None:
    """The last test with `of_two`, which it stops."""

    def is_refused() -> bool:
        with contextlib.suppress(ConnectionResetError), socket.socket() as probe:
            return probe.connect_ex(address(of_two.url)) != 0
        return False

    with requests_under_way(of_two.url, 8) as uploads, httpx.Client() as idle:
        wait_for_metric(of_two, "cifar_requests_in_flight", 9)
        assert idle.get(f"{of_two.url}/readyz").is_success
        of_two.process.send_signal(signal.SIGTERM)
        # Perhaps a request was on its way when we were told: it is answered, the connection's last.
        wait_until(lambda: idle.get(f"{of_two.url}/readyz").headers.get("Connection") == "close")
        wait_until(is_refused)
        with pytest.raises(httpx.TransportError):
            idle.get(f"{of_two.url}/readyz")
        for upload in uploads:
            upload.settimeout(10)
            upload.sendall(b"." * 95)
            answer = upload.recv(65536)
            assert answer.startswith(b"HTTP/1.1 422")
            assert b"\r\nconnection: close\r\n" in answer
        assert of_two.process.wait(timeout=20) == 0


def test_a_full_disk_under_the_log_harms_nobody(tmp_path: Path, checkpoint: Path, picture: bytes) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with running_service(tmp_path, "--checkpoint", str(checkpoint), "--access-log", log=Path("/dev/full")) as service:
        for _ in range(20):
            assert predict(service, picture).is_success
        assert predict(service, b"no picture").status_code == 422
        wait_for_metric(service, "cifar_images_total", 20)
        assert service.stop() == 0


def test_every_line_of_the_log_is_json_and_a_failed_request_is_found_by_its_id(
    service: RunningService, picture: bytes
) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    predict(service, b"no picture", X_Request_ID="mine-1", traceparent=f"00-{trace}-b7ad6b7169203331-01")
    predict(service, picture, X_Request_ID="mine-2")
    HTTP.get(f"{service.url}/a%0Ab?secret=query")
    wait_until(lambda: "%0Ab" in service.log.read_text())
    written = lines(service)
    (refused,) = (line for line in written if line.get("request_id") == "mine-1")
    assert (refused["status"], refused["path"], refused["images"]) == (422, "/predict", 1)
    assert (refused["client"], refused["method"], refused["trace_id"]) == ("127.0.0.1", "POST", trace)
    assert refused["ms"] > 0
    assert not [line for line in written if line.get("request_id") == "mine-2"], "it succeeded"
    assert not [line for line in written if line.get("path") == "/readyz"], "asked until there was a model"
    assert "secret" not in service.log.read_text()


def test_with_the_access_log_every_request_is_a_line_with_its_batch(guarded: RunningService, picture: bytes) -> None:
    predict(guarded, picture, X_Request_ID="mine-3", X_API_Key="kept")
    wait_until(lambda: "mine-3" in guarded.log.read_text())
    (line,) = (line for line in guarded.log.read_text().splitlines() if "mine-3" in line)
    assert "INFO request answered request_id=mine-3 client=127.0.0.1 method=POST path=/predict status=200" in line
    assert line.endswith("images=1 batch_size=1")


def test_keys_are_replaced_without_a_restart_and_are_nowhere_in_the_log(
    guarded: RunningService, keys: Path, picture: bytes
) -> None:
    refused = predict(guarded, picture)
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    assert refused.headers["X-Request-ID"] == refused.json()["request_id"]
    assert predict(guarded, picture, X_API_Key="old-secret").is_success
    assert predict(guarded, picture, X_API_Key="new-secret").status_code == 401

    keys.write_text("kept\nold-secret\nnew-secret\n")
    wait_until(lambda: predict(guarded, picture, Authorization="Bearer new-secret").is_success)
    assert predict(guarded, picture, X_API_Key="old-secret").is_success
    keys.write_text("kept\nnew-secret\n")
    wait_until(lambda: predict(guarded, picture, X_API_Key="old-secret").status_code == 401)

    for path in ("/livez", "/readyz", "/metrics"):
        assert HTTP.get(f"{guarded.url}{path}").is_success
    assert HTTP.get(f"{guarded.url}/openapi.json").status_code == 401
    assert "secret" not in guarded.log.read_text()


def test_a_body_without_a_key_is_refused_before_it_is_read(guarded: RunningService) -> None:
    with requests_under_way(guarded.url, 1) as (upload,):
        upload.settimeout(10)
        assert upload.recv(100).startswith(b"HTTP/1.1 401")


def test_a_key_after_the_body_is_none(guarded: RunningService) -> None:
    request = b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-API-Key: kept\r\n\r\n"
    assert answer_to(guarded.url, request)[0] == 401


def test_tls_is_served_with_the_files_given(tmp_path: Path, checkpoint: Path, picture: bytes) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    certificate.cert_chain_pems[0].write_to_path(chain)
    certificate.private_key_pem.write_to_path(key)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    flags = ("--checkpoint", str(checkpoint), "--ssl-certfile", str(chain), "--ssl-keyfile", str(key))
    with httpx.Client(verify=trust) as client:  # which keeps its connection, and never says that it is closed
        with running_service(tmp_path, *flags, trust=trust) as service:
            assert client.post(f"{service.url}/predict", content=picture).is_success
            assert f"at {service.url}," in service.log.read_text()
        assert "graceful shutdown exceeded" not in service.log.read_text()


def test_other_origins_may_call_where_they_are_named_and_not_elsewhere(
    guarded: RunningService, service: RunningService, picture: bytes
) -> None:
    assert "Access-Control-Allow-Origin" not in predict(service, picture, Origin=OURS).headers
    answer = predict(guarded, picture, Origin=OURS, X_API_Key="kept")
    assert answer.is_success
    assert answer.headers["Access-Control-Allow-Origin"] == OURS
    assert "Inference-Header-Content-Length" in answer.headers["Access-Control-Expose-Headers"]
    other = predict(guarded, picture, Origin="https://other.example", X_API_Key="kept")
    assert "Access-Control-Allow-Origin" not in other.headers
    asked = {"Origin": OURS, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "X-API-Key"}
    assert HTTP.options(f"{guarded.url}/predict", headers=asked).is_success
