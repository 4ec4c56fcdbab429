"""POST /predict over real HTTP: its three forms, its refusals, and that nobody suffers from another's bad image."""

import base64
import concurrent.futures
import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from PIL import Image

from models.checkpoint import load
from models.pixels import decode
from tests.integration.running import RunningService
from tests.pictures import draw_shape, encode

PICTURES = [encode(draw_shape(("circle", "square")[number % 2], number)) for number in range(40)]


@pytest.fixture
def http(service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def expected(checkpoint: Path) -> list[torch.Tensor]:
    """The probabilities of PICTURES, computed in this process."""
    classifier = load(checkpoint)
    with torch.inference_mode():
        return [classifier(torch.tensor(decode(picture, 32))[None])[0] for picture in PICTURES]


def assert_prediction(answer: dict[str, Any], probabilities: torch.Tensor, top_k: int = 3) -> None:
    values, class_ids = probabilities.topk(top_k)
    assert answer["class_id"] == class_ids[0]
    assert answer["confidence"] == pytest.approx(values[0].item(), abs=1e-4)
    assert [entry["class_id"] for entry in answer["top"]] == class_ids.tolist()


@pytest.mark.parametrize("content_type", ["image/png", "application/octet-stream", None])
def test_one_raw_image_gets_one_prediction(
    http: httpx.Client, expected: list[torch.Tensor], content_type: str | None, checkpoint: Path
) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    answer = http.post("/predict", content=PICTURES[0], headers=headers).raise_for_status()
    assert_prediction(answer.json(), expected[0])
    assert answer.json()["model"] == {"name": "cifar_net", "version": load(checkpoint).card.version}


def test_an_answer_below_the_cards_threshold_is_marked(http: httpx.Client, checkpoint: Path) -> None:
    answers = http.post("/predict", files=[("files", picture) for picture in PICTURES]).json()["predictions"]
    below = load(checkpoint).card.uncertain_below
    assert [answer["uncertain"] for answer in answers] == [answer["confidence"] < below for answer in answers]
    assert {answer["uncertain"] for answer in answers} == {True, False}


def test_top_k_is_taken_and_clamped(http: httpx.Client, expected: list[torch.Tensor]) -> None:
    assert_prediction(http.post("/predict?top_k=1", content=PICTURES[0]).json(), expected[0], top_k=1)
    every_class = http.post("/predict?top_k=1000", content=PICTURES[0]).json()["top"]
    assert sum(entry["probability"] for entry in every_class) == pytest.approx(1, abs=1e-4)


def test_many_images_come_back_in_order_split_over_batches(http: httpx.Client, expected: list[torch.Tensor]) -> None:
    order = [number % len(PICTURES) for number in range(0, 7 * 211, 7)]  # 211 images: more than three batches
    encoded = [base64.b64encode(PICTURES[number]).decode() for number in order]
    as_json = http.post("/predict", json={"images": encoded}).json()["predictions"]
    as_files = http.post("/predict", files=[("files", PICTURES[number]) for number in order]).json()["predictions"]
    for predictions in (as_json, as_files):
        assert len(predictions) == len(order)
        for number, prediction in zip(order, predictions, strict=True):
            assert_prediction(prediction, expected[number])


def test_a_bad_image_among_many_gets_an_error_and_the_others_their_prediction(
    http: httpx.Client, expected: list[torch.Tensor]
) -> None:
    files = [("files", PICTURES[0]), ("files", b"not a picture"), ("files", b""), ("files", PICTURES[1])]
    good, text, empty, also_good = http.post("/predict", files=files).raise_for_status().json()["predictions"]
    assert_prediction(good, expected[0])
    assert_prediction(also_good, expected[1])
    assert (text["error"]["code"], empty["error"]["code"]) == ("not_an_image", "empty")
    encoded = [base64.b64encode(PICTURES[2]).decode(), "%%% not base64 %%%"]
    good, bad = http.post("/predict", json={"images": encoded}).json()["predictions"]
    assert_prediction(good, expected[2])
    assert bad["error"]["code"] == "not_base64"


def test_bad_images_among_concurrent_good_ones_harm_nobody(http: httpx.Client, expected: list[torch.Tensor]) -> None:
    bad = [b"", b"text", PICTURES[0][:80], png_header(40_000, 40_000)]

    def ask(number: int) -> httpx.Response:
        body = bad[number % len(bad)] if number % 3 == 0 else PICTURES[number % len(PICTURES)]
        return http.post("/predict", content=body)

    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        answers = list(threads.map(ask, range(300)))
    for number, answer in enumerate(answers):
        if number % 3 == 0:
            assert answer.status_code in (413, 422)
        else:
            assert_prediction(answer.raise_for_status().json(), expected[number % len(PICTURES)])


def png_header(width: int, height: int) -> bytes:
    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"")


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"", "image/jpeg", 422, "empty"),
        (b"hello", "image/jpeg", 422, "not_an_image"),
        (PICTURES[0][:100], "image/png", 422, "corrupt_image"),
        (png_header(40_000, 40_000), "image/png", 413, "too_many_pixels"),
        (bytes(5 * 2**20), "image/png", 413, "body_too_large"),
        (b"hello", "text/plain", 415, "unsupported_media_type"),
        (b"{", "application/json", 400, "bad_request"),
        (b"[" * 10_000, "application/json", 400, "bad_request"),
        (b"{}", "application/json", 400, "bad_request"),
        (b'{"images": [1]}', "application/json", 400, "bad_request"),
        (b'{"images": []}', "application/json", 400, "no_images"),
        (json.dumps({"images": ["QQ=="] * 301}).encode(), "application/json", 413, "too_many_images"),
        (b"no parts", "multipart/form-data; boundary=x", 400, "bad_request"),
        (b"no boundary", "multipart/form-data", 400, "bad_request"),
    ],
)
def test_a_refusal_is_a_problem_with_its_status_code_and_request_id(
    http: httpx.Client, body: bytes, content_type: str, status: int, code: str
) -> None:
    headers = {"Content-Type": content_type, "X-Request-ID": "mine-1"}
    answer = http.post("/predict", content=body, headers=headers)
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json")
    problem = answer.json()
    assert (problem["code"], problem["status"], problem["request_id"]) == (code, status, "mine-1")
    assert problem["detail"]
    assert answer.headers["X-Request-ID"] == "mine-1"


def test_too_many_files_are_refused(http: httpx.Client) -> None:
    answer = http.post("/predict", files=[("files", b"x")] * 301)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_many_images")


def test_a_body_over_the_limit_is_refused_where_its_length_was_not_announced(http: httpx.Client) -> None:
    answer = http.post("/predict", content=(bytes(2**20) for _ in range(6)))
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


@pytest.mark.parametrize("top_k", ["0", "-1", "many", "1.5", "", "9" * 5000, "٣"])
def test_a_top_k_that_is_no_count_is_refused(http: httpx.Client, top_k: str) -> None:
    answer = http.post(f"/predict?top_k={top_k}", content=PICTURES[0])
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")


def test_pictures_of_every_kind_are_answered(http: httpx.Client) -> None:
    picture = draw_shape("circle", 1)
    exif = Image.Exif()
    exif[0x0112] = 6
    for body in (
        encode(picture.convert("CMYK"), "JPEG"),
        encode(picture.convert("I;16")),
        encode(picture, "GIF"),
        encode(picture.convert("RGBA")),
        encode(picture, "JPEG", exif=exif),
        encode(picture.resize((1, 1))),
        encode(picture.resize((20_000, 1))),
    ):
        assert http.post("/predict", content=body).is_success


def test_unknown_paths_and_methods_are_problems_too(http: httpx.Client) -> None:
    nothing = http.get("/nothing").json()
    assert (nothing["code"], nothing["detail"]) == (
        "not_found",
        "GET /nothing: there is no such path: see /docs",
    )
    wrong_method = http.get("/predict")
    assert (wrong_method.status_code, wrong_method.json()["code"]) == (405, "method_not_allowed")
    assert wrong_method.json()["detail"] == "GET /predict: this path takes POST"


def test_probes_answer(http: httpx.Client) -> None:
    assert http.get("/livez").json() == {"status": "alive"}
    assert http.get("/readyz").json()["status"] == "ready"


def test_openapi_documents_every_form_with_schemas_and_an_example_that_works(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    predict = document["paths"]["/predict"]["post"]
    forms = predict["requestBody"]["content"]
    assert set(forms) == {"image/*", "application/octet-stream", "multipart/form-data", "application/json"}
    assert {"200", "400", "413", "415", "422", "429", "500", "503", "504"} <= set(predict["responses"])
    example = http.post("/predict", json=forms["application/json"]["example"]).raise_for_status().json()
    assert "label" in example["predictions"][0]
    assert http.get("/docs").is_success


def test_the_service_still_answers_after_all_that(http: httpx.Client, expected: list[torch.Tensor]) -> None:
    assert_prediction(http.post("/predict", content=PICTURES[3]).json(), expected[3])
