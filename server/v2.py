"""The Open Inference Protocol v2: what KServe's, Triton's and MLServer's clients send, and what they are answered.

A message is JSON, or with the binary extension JSON followed by the bytes of its tensors, in their order.
https://github.com/kserve/open-inference-protocol; extensions: Triton's binary_tensor_data and classification.
"""

import base64
import binascii
import itertools
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from models.card import ModelCard
from models.pixels import Pixels
from server.errors import BadRequest
from server.requests import check_values, too_many
from server.wire import Probabilities

OUTPUTS = {"probabilities": "FP32", "label": "BYTES", "class_id": "INT64"}
_ALL_OUTPUTS: list[dict[str, Any]] = [{"name": name} for name in OUTPUTS]
_PIXEL_TYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype("u1"), "FP32": np.dtype("<f4")}
_MOST_DIMENSIONS = 4  # as many as pixels have; the product of thousands would take minutes
_MOST_DIGITS = 20  # of a length in bytes; int() takes no more than 4,300
_LENGTH = struct.Struct("<I")  # before each element of a binary BYTES tensor


@dataclass(frozen=True, slots=True)
class Output:
    """A requested output: whether as bytes after the JSON, and as a ranking of how many classes (0: not ranked)."""

    name: str
    binary: bool
    classes: int


@dataclass(frozen=True, slots=True)
class InferRequest:
    """Encoded images, or pixels uint8 [N, H, W, 3]; and the outputs wanted."""

    id: str
    images: list[bytes] | Pixels
    outputs: list[Output]


def metadata(name: str, card: ModelCard) -> dict[str, Any]:
    """The model's metadata, with the shapes that it takes and gives; -1 is any number of images."""
    size, classes = card.input_size, len(card.classes)
    shapes = {"probabilities": [-1, classes], "label": [-1], "class_id": [-1]}
    return {
        "name": name,
        "versions": [card.version],
        "platform": "pytorch",
        "inputs": [
            {"name": "image", "datatype": "BYTES", "shape": [-1]},
            {"name": "pixels", "datatype": "UINT8", "shape": [-1, size, size, 3]},
        ],
        "outputs": [{"name": output, "datatype": OUTPUTS[output], "shape": shapes[output]} for output in OUTPUTS],
    }


def read_request(body: bytes, json_length: str | None, card: ModelCard, max_images: int) -> InferRequest:
    """`json_length` is the header Inference-Header-Content-Length. Raises BadRequest or PayloadTooLarge."""
    end = len(body) if json_length is None else _read_length(json_length, len(body))
    head = body[:end]
    check_values(head, max_images, card.input_size**2 * 3)
    try:
        document = orjson.loads(head)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON ({error})") from None
    try:
        (tensor,) = document["inputs"]
        outputs = [_read_output(output, document) for output in document.get("outputs") or _ALL_OUTPUTS]
        if len({output.name for output in outputs}) < len(outputs):  # each copy would be sent
            raise BadRequest("each output can be asked for once")
        images = _read_input(tensor, memoryview(body)[end:], card, max_images)
        return InferRequest(str(document.get("id") or ""), images, outputs)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:  # the last: deep nesting
        said = f"{type(error).__name__}: {error}"
        raise BadRequest(
            f"the JSON is not an Open Inference Protocol request with one input, image or pixels ({said})"
        ) from None


def _read_length(text: str, most: int) -> int:
    if not text.isdecimal() or len(text) > _MOST_DIGITS or int(text) > most:
        raise BadRequest(f"Inference-Header-Content-Length {text[:_MOST_DIGITS]!r} is not a length within the body")
    return int(text)


def _read_output(output: dict[str, Any], document: dict[str, Any]) -> Output:
    name, parameters = output["name"], output.get("parameters") or {}
    if name not in OUTPUTS:
        raise BadRequest(f"there is no output {name!r}: ask for {', '.join(OUTPUTS)}")
    classes = parameters.get("classification", 0)
    if type(classes) is not int or classes < 0 or (classes and name != "probabilities"):
        raise BadRequest("classification must be a number of classes, for the output probabilities only")
    binary = parameters.get("binary_data", (document.get("parameters") or {}).get("binary_data_output", False))
    return Output(name, binary is True, classes)


def _read_input(tensor: dict[str, Any], binary: memoryview, card: ModelCard, max_images: int) -> list[bytes] | Pixels:
    name, datatype, shape = tensor["name"], tensor["datatype"], tensor["shape"]
    if not 0 < len(shape) <= _MOST_DIMENSIONS or not all(type(length) is int and length >= 0 for length in shape):
        raise BadRequest(
            f"the shape of {name} must be a list of 1 to {_MOST_DIMENSIONS} whole numbers from 0, not {str(shape)[:50]}"
        )
    count = math.prod(shape) if name == "image" else shape[0]  # MLServer sends a column of them, [N, 1]
    if count == 0:
        raise BadRequest("there is no image in the request: send at least one", "no_images")
    if count > max_images:
        raise too_many(max_images)
    size = (tensor.get("parameters") or {}).get("binary_data_size")
    if size is not None and size != len(binary):
        raise BadRequest(f"the binary_data_size of {name} is {size!r}, but {len(binary)} bytes follow the JSON")
    if name == "image" and datatype == "BYTES":
        return _read_encoded(tensor, binary if size is not None else None, count)
    if name == "pixels" and datatype in _PIXEL_TYPES:
        if shape[1:] != [card.input_size, card.input_size, 3]:
            raise BadRequest(f"pixels must have the shape [N, {card.input_size}, {card.input_size}, 3], not {shape}")
        return _read_pixels(tensor, binary if size is not None else None, shape, _PIXEL_TYPES[datatype])
    raise BadRequest(f"there is no input {name!r} of {datatype}: send image as BYTES, or pixels as UINT8 or FP32")


def _read_encoded(tensor: dict[str, Any], binary: memoryview | None, count: int) -> list[bytes]:
    try:
        if binary is not None:
            images = list(itertools.islice(_split_elements(binary), count + 1))
        else:
            texts = np.array(list(tensor["data"]), object).ravel()  # nested as the shape is, or flat
            images = [base64.b64decode(text, validate=True) for text in texts]
    except (binascii.Error, struct.error):
        raise BadRequest(
            "the elements of image must be encoded pictures: base64 in JSON, else each after its length in 4 bytes"
        ) from None
    if len(images) != count:
        there = "more" if len(images) > count else len(images)
        raise BadRequest(f"image has {there} elements, but {count} by its shape")
    return images


def _split_elements(binary: memoryview) -> Iterator[bytes]:
    place = 0
    while place < len(binary):
        (length,) = _LENGTH.unpack_from(binary, place)
        place += _LENGTH.size + length
        if place > len(binary):
            raise struct.error("cut off")
        yield bytes(binary[place - length : place])


def _read_pixels(tensor: dict[str, Any], binary: memoryview | None, shape: list[int], dtype: np.dtype[Any]) -> Pixels:
    values: Any = np.frombuffer(binary, dtype) if binary is not None else np.array(tensor["data"], float).ravel()
    if values.size != math.prod(shape):
        raise BadRequest(f"pixels have {values.size} numbers, but the shape {shape}")
    if values.dtype != np.uint8:
        if not (values.min() >= 0 and values.max() <= 255):  # nor NaN
            raise BadRequest("pixels must be numbers from 0 to 255", "pixels_out_of_range")
        values = np.rint(values).astype(np.uint8)
    pixels: Pixels = values.reshape(shape)
    return pixels


def render_answer(
    request: InferRequest, probabilities: Sequence[Probabilities], card: ModelCard, name: str
) -> tuple[bytes, dict[str, str]]:
    """The body of an answer, and its headers."""
    rows = np.stack(probabilities)
    document: dict[str, Any] = {"model_name": name, "model_version": card.version, "outputs": []}
    if request.id:
        document["id"] = request.id
    tail = b""
    for output in request.outputs:
        datatype, values = _output(output, rows, card)
        tensor: dict[str, Any] = {"name": output.name, "datatype": datatype, "shape": list(values.shape)}
        if output.binary:
            data = _pack_elements(values) if datatype == "BYTES" else values.tobytes()
            tensor["parameters"] = {"binary_data_size": len(data)}
            tail += data
        else:
            tensor["data"] = values.ravel().tolist()
        document["outputs"].append(tensor)
    head = orjson.dumps(document)
    if not any(output.binary for output in request.outputs):
        return head, {"content-type": "application/json"}
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    return head + tail, headers


def _output(output: Output, rows: npt.NDArray[np.float32], card: ModelCard) -> tuple[str, npt.NDArray[Any]]:
    """The datatype and the values, [N] or [N, ...]."""
    if output.classes:  # Triton's "probability:class_id:label", best first
        best = (-rows).argsort(axis=1, kind="stable")[:, : output.classes]
        texts = [
            [f"{row[class_id]:f}:{class_id}:{card.classes[class_id]}" for class_id in ranked]
            for row, ranked in zip(rows, best, strict=True)
        ]
        return "BYTES", np.array(texts, object)
    if output.name == "probabilities":
        return "FP32", rows
    class_ids = rows.argmax(axis=1)
    if output.name == "class_id":
        return "INT64", class_ids
    return "BYTES", np.array([card.classes[class_id] for class_id in class_ids], object)


def _pack_elements(values: npt.NDArray[Any]) -> bytes:
    elements = (text.encode() for text in values.ravel())
    return b"".join(_LENGTH.pack(len(element)) + element for element in elements)
