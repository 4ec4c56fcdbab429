"""What clients of TensorFlow Serving and Vertex AI send, to the real service: https://www.tensorflow.org/tfx/serving/api_rest."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from models.checkpoint import load
from tests.integration.running import RunningService
from tests.integration.test_predict import PICTURES

MODEL = "/v1/models/cifar_net"
INSTANCES = [{"b64": base64.b64encode(picture).decode()} for picture in PICTURES]


@pytest.fixture
def http(service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=30) as client:
        yield client


@pytest.mark.parametrize("content_type", ["application/json", "application/x-www-form-urlencoded", None])
@pytest.mark.parametrize("named", [False, True])
def test_instances_are_answered_as_predict_answers_images(
    http: httpx.Client, named: bool, content_type: str | None
) -> None:
    instances = [{"image_bytes": instance} for instance in INSTANCES] if named else INSTANCES
    document = {"signature_name": "serving_default", "instances": instances}
    headers = {"Content-Type": content_type} if content_type else {}  # curl -d sends that of a form, requests none
    answer = http.post(f"{MODEL}:predict", content=json.dumps(document), headers=headers).raise_for_status().json()
    images = [instance["b64"] for instance in INSTANCES]
    assert answer == http.post("/predict", json={"images": images}).json()
    assert {"label", "class_id", "confidence"} <= set(answer["predictions"][0])


def test_all_probabilities_are_there_for_the_asking(http: httpx.Client) -> None:
    answer = http.post(f"{MODEL}:predict?top_k=10", json={"instances": INSTANCES[:1]}).json()
    assert len(answer["predictions"][0]["top"]) == 10


def test_a_bad_instance_has_an_error_in_its_place(http: httpx.Client) -> None:
    instances = [INSTANCES[0], {"b64": "%%%"}, {"b64": base64.b64encode(b"no picture").decode()}]
    good, not_base64, no_picture = http.post(f"{MODEL}:predict", json={"instances": instances}).json()["predictions"]
    assert "label" in good
    assert (not_base64["error"]["code"], no_picture["error"]["code"]) == ("not_base64", "not_an_image")


@pytest.mark.parametrize(
    ("path", "document", "status"),
    [
        (MODEL, {}, 400),
        (MODEL, {"instances": []}, 400),
        (MODEL, {"instances": [1.0, 2.0]}, 400),
        (MODEL, {"instances": [{"image_bytes": None}]}, 400),
        (MODEL, {"inputs": INSTANCES[:1]}, 400),
        (MODEL, {"instances": INSTANCES[:1] * 301}, 413),
        ("/v1/models/other", {"instances": INSTANCES[:1]}, 404),
    ],
)
def test_a_refusal_says_why_where_its_clients_look(
    http: httpx.Client, path: str, document: dict[str, Any], status: int
) -> None:
    refusal = http.post(f"{path}:predict", json=document)
    assert refusal.status_code == status
    assert refusal.json()["error"] == refusal.json()["detail"]
    assert refusal.headers["Content-Type"] == "application/json", "KServe's client reads no other"


def test_the_model_says_that_it_is_there(http: httpx.Client, checkpoint: Path) -> None:
    answer = http.get(MODEL).raise_for_status().json()
    assert (answer["name"], answer["ready"]) == ("cifar_net", True)
    (version,) = answer["model_version_status"]
    assert version == {
        "version": load(checkpoint).card.version,
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }
    refusal = http.get(f"{MODEL}:predict")
    assert (refusal.status_code, refusal.headers["Allow"]) == (405, "POST")
    assert "no model is called 'other'" in http.get("/v1/models/other").json()["error"]
