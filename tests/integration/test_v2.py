"""The Open Inference Protocol, as Triton's own client speaks it to the real service."""

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from models.checkpoint import load
from models.pixels import decode
from tests.integration.running import HTTP, RunningService
from tests.pictures import draw_shape, encode

PICTURES = [encode(draw_shape(("circle", "square")[number % 2], number)) for number in range(70)]
PIXELS = np.stack([decode(picture, 32) for picture in PICTURES])
MODEL = "cifar_net"


@pytest.fixture
def client(service: RunningService) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(service.url.removeprefix("http://")) as client:
        yield client


@pytest.fixture(scope="session")
def expected(checkpoint: Path) -> np.ndarray:
    """The probabilities of PICTURES, computed in this process: float32 [70, 10]."""
    with torch.inference_mode():
        probabilities: np.ndarray = load(checkpoint)(torch.from_numpy(PIXELS)).numpy()
    return probabilities


def encoded(pictures: list[bytes], binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("image", [len(pictures)], "BYTES")
    elements = pictures if binary else [base64.b64encode(picture) for picture in pictures]
    tensor.set_data_from_numpy(np.array(elements, object), binary_data=binary)
    return tensor


def raw(pixels: np.ndarray, datatype: str = "UINT8", binary: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("pixels", list(pixels.shape), datatype)
    tensor.set_data_from_numpy(pixels, binary_data=binary)
    return tensor


def wanted(*names: str, binary: bool = True) -> list[triton.InferRequestedOutput]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def test_the_server_and_its_model_say_what_they_are(client: triton.InferenceServerClient, checkpoint: Path) -> None:
    card = load(checkpoint).card
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(MODEL)
    assert client.is_model_ready(MODEL, card.version)
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data", "classification", "model_repository"]
    model = client.get_model_metadata(MODEL)
    assert (model["name"], model["versions"]) == (MODEL, [card.version])
    assert {tensor["name"]: (tensor["datatype"], tensor["shape"]) for tensor in model["inputs"] + model["outputs"]} == {
        "image": ("BYTES", [-1]),
        "pixels": ("UINT8", [-1, 32, 32, 3]),
        "probabilities": ("FP32", [-1, 10]),
        "label": ("BYTES", [-1]),
        "class_id": ("INT64", [-1]),
    }
    assert client.get_model_repository_index() == [
        {"name": MODEL, "version": card.version, "state": "READY", "reason": ""}
    ]
    client.load_model(MODEL)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("kind", ["image", "UINT8", "FP32"])
def test_all_inputs_and_outputs_in_both_forms_give_the_networks_probabilities(
    client: triton.InferenceServerClient, expected: np.ndarray, kind: str, binary: bool
) -> None:
    pixels = PIXELS.astype(np.float32) if kind == "FP32" else PIXELS
    inputs = encoded(PICTURES, binary) if kind == "image" else raw(pixels, kind, binary)
    outputs = wanted("probabilities", "label", "class_id", binary=binary)
    answer = client.infer(MODEL, [inputs], outputs=outputs, request_id="mine")
    np.testing.assert_allclose(answer.as_numpy("probabilities"), expected, atol=1e-5)
    assert answer.as_numpy("class_id").tolist() == expected.argmax(axis=1).tolist()
    labels = [label.decode() if isinstance(label, bytes) else label for label in answer.as_numpy("label")]
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    assert labels == [classes[class_id] for class_id in expected.argmax(axis=1)]
    assert answer.get_response()["id"] == "mine"


@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_plain_json_takes_pictures_as_base64(service: RunningService, expected: np.ndarray, shape: list[int]) -> None:
    tensor = {
        "name": "image",
        "datatype": "BYTES",
        "shape": shape,
        "data": [base64.b64encode(p).decode() for p in PICTURES[:2]],
    }
    answer = HTTP.post(f"{service.url}/v2/models/{MODEL}/infer", json={"inputs": [tensor]}).json()
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert list(outputs) == ["probabilities", "label", "class_id"]
    np.testing.assert_allclose(np.reshape(outputs["probabilities"]["data"], (2, 10)), expected[:2], atol=1e-5)


def test_classification_names_the_best_classes(client: triton.InferenceServerClient, expected: np.ndarray) -> None:
    asked = triton.InferRequestedOutput("probabilities", class_count=3)
    best = client.infer(MODEL, [encoded(PICTURES[:2])], outputs=[asked]).as_numpy("probabilities")
    assert best.shape == (2, 3)
    for row, probabilities in zip(best, expected, strict=False):
        parts = [element.decode().split(":") for element in row]
        assert [int(class_id) for _, class_id, _ in parts] == (-probabilities).argsort()[:3].tolist()
        assert float(parts[0][0]) == pytest.approx(probabilities.max(), abs=1e-5)
        assert parts[0][2] in ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def test_the_asynchronous_client_is_answered_alike(service: RunningService, expected: np.ndarray) -> None:
    async def ask() -> np.ndarray:
        async with triton_aio.InferenceServerClient(service.url.removeprefix("http://")) as client:
            answers = await asyncio.gather(*(client.infer(MODEL, [raw(PIXELS[n : n + 1])]) for n in range(20)))
        return np.concatenate([answer.as_numpy("probabilities") for answer in answers])

    np.testing.assert_allclose(asyncio.run(ask()), expected[:20], atol=1e-5)


NAN = np.full((1, 32, 32, 3), np.nan, np.float32)


@pytest.mark.parametrize(
    ("inputs", "outputs", "status", "says"),
    [
        (encoded([PICTURES[0], b"no picture"]), None, "422", "not an image that we read"),
        (raw(PIXELS[:1, :16]), None, "400", r"pixels must have the shape \[N, 32, 32, 3\], not \[1, 16, 32, 3\]"),
        (raw(NAN, "FP32"), None, "400", "pixels must be numbers from 0 to 255"),
        (raw(np.full_like(NAN, 256), "FP32"), None, "400", "from 0 to 255"),
        (raw(PIXELS[:1]), wanted("colour"), "400", "there is no output 'colour'"),
        (encoded([PICTURES[0]] * 301), None, "413", "more than 300 images"),
    ],
    ids=["picture", "shape", "nan", "range", "output", "many"],
)
def test_what_cannot_be_answered_is_refused_in_the_protocols_form(
    client: triton.InferenceServerClient,
    inputs: triton.InferInput,
    outputs: list[triton.InferRequestedOutput] | None,
    status: str,
    says: str,
) -> None:
    with pytest.raises(InferenceServerException, match=says) as refusal:
        client.infer(MODEL, [inputs], outputs=outputs)
    assert refusal.value.status() == status


def test_another_model_or_version_is_unknown(client: triton.InferenceServerClient) -> None:
    for name, version in (("other", ""), (MODEL, "7")):
        assert not client.is_model_ready(name, version)
        with pytest.raises(InferenceServerException, match="no model is called"):
            client.infer(name, [raw(PIXELS[:1])], model_version=version)
