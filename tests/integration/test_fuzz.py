"""Whatever is sent, the service answers: never a 500, never something that its OpenAPI document does not have."""

import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.integration.running import COMMANDS, HTTP, RunningService
from tests.integration.test_predict import PICTURES
from tests.pictures import draw_shape, encode

JPEG = encode(draw_shape("circle", 1, (32, 32)), "JPEG")
GIF = encode(draw_shape("circle", 1), "GIF")
TIFF = encode(draw_shape("circle", 1), "TIFF")


@st.composite
def damaged_pictures(draw: st.DrawFn) -> bytes:
    """A real picture with some bytes changed, cut off or put in."""
    picture = bytearray(draw(st.sampled_from([JPEG, PICTURES[0], GIF, TIFF])))
    for _ in range(draw(st.integers(1, 6))):
        start = draw(st.integers(0, len(picture)))
        picture[start : start + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(picture)


bodies = st.one_of(st.binary(max_size=300), damaged_pictures(), st.text(max_size=100).map(str.encode))
content_types = st.sampled_from(
    ["image/jpeg", "application/json", "multipart/form-data; boundary=x", "application/octet-stream", "", "text/html"]
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=bodies, content_type=content_types)
def test_no_body_makes_it_fail(service: RunningService, body: bytes, content_type: str) -> None:
    answer = HTTP.post(f"{service.url}/predict", content=body, headers={"Content-Type": content_type}, timeout=30)
    assert answer.status_code in (200, 400, 413, 415, 422)
    assert "label" in answer.json() or "predictions" in answer.json() or "code" in answer.json()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=st.lists(st.tuples(st.text(max_size=20), bodies), min_size=1, max_size=5))
def test_no_multipart_makes_it_fail(service: RunningService, files: list[tuple[str, bytes]]) -> None:
    parts = [(name, (name, body)) for name, body in files]
    answer = HTTP.post(f"{service.url}/predict", files=parts, timeout=30)
    assert answer.status_code in (200, 400)
    if answer.is_success:
        assert all("label" in each or "error" in each for each in answer.json()["predictions"])


def test_schemathesis_finds_nothing_against_the_openapi_document(service: RunningService) -> None:
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = [str(COMMANDS / "schemathesis"), "run", f"{service.url}/openapi.json", "--checks", checks, "--seed", "1"]
    result = subprocess.run(
        [*command, "--max-examples", "25"], capture_output=True, text=True, timeout=300, check=False
    )
    if result.returncode:
        pytest.fail(result.stdout)
