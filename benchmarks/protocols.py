"""How each server is asked for the classes of encoded images, and how it answers: one or many images in a request."""

import base64
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

_JSON = {"Content-Type": "application/json"}
_HEADER_BYTES = 256  # length of the JSON before Triton's binary tensors, padded with spaces


class Body(NamedTuple):
    """The body of a POST, and the headers that describe it."""

    content: bytes
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Protocol:
    """Encoded images → a request's body; the JSON of its answer → their labels, in order."""

    path: str
    encode: Callable[[Sequence[bytes]], Body]
    labels: Callable[[Any], list[str]]

    def http_request(self, images: Sequence[bytes]) -> bytes:
        """The whole request, as it goes over the wire."""
        content, headers = self.encode(images)
        fields = {"Host": "127.0.0.1", **headers, "Content-Length": str(len(content))}
        lines = [f"POST {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        return "\r\n".join([*lines, "", ""]).encode() + content

    def write(self, folder: Path, name: str, requests: Sequence[Sequence[bytes]]) -> list[Path]:
        """Writes a file for each request, the whole of it, with those images. Returns their paths."""
        paths = [folder / f"{name}-{number}.http" for number in range(len(requests))]
        for path, images in zip(paths, requests, strict=True):
            path.write_bytes(self.http_request(images))
        return paths


def raw(path: str = "/predict") -> Protocol:
    """One image is the body; several are base64 in JSON. For servers whose routes are written by their users."""

    def encode(images: Sequence[bytes]) -> Body:
        return Body(images[0], {"Content-Type": "image/jpeg"}) if len(images) == 1 else _json_images(images)

    return Protocol(path, encode, _labels)


def _json_images(images: Sequence[bytes]) -> Body:
    return Body(json.dumps({"images": [base64.b64encode(image).decode() for image in images]}).encode(), _JSON)


def _labels(answer: Any) -> list[str]:
    return [prediction["label"] for prediction in answer.get("predictions", [answer])]


def _multipart(images: Sequence[bytes]) -> Body:
    """BentoML's: a form field called `images` for each image."""
    boundary = "benchmark-of-cifar-service"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="images"; filename="{{}}.jpg"\r\n'
    head += "Content-Type: image/jpeg\r\n\r\n"
    parts = [head.format(number).encode() + image + b"\r\n" for number, image in enumerate(images)]
    return Body(
        b"".join([*parts, f"--{boundary}--\r\n".encode()]),
        {"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )


def _v2_json(images: Sequence[bytes]) -> Body:
    """The Open Inference Protocol in JSON, with MLServer's `content_type` for base64."""
    tensor = {
        "name": "image",
        "shape": [len(images)],
        "datatype": "BYTES",
        "parameters": {"content_type": "base64"},
        "data": [base64.b64encode(image).decode() for image in images],
    }
    return Body(json.dumps({"inputs": [tensor]}).encode(), _JSON)


def _v2_binary(images: Sequence[bytes]) -> Body:
    """The same with Triton's binary tensor data: the images as they are, each after its length."""
    data = b"".join(struct.pack("<I", len(image)) + image for image in images)
    parameters = {"binary_data_size": len(data)}
    tensor = {"name": "image", "shape": [len(images), 1], "datatype": "BYTES", "parameters": parameters}
    header = json.dumps({"inputs": [tensor]}).encode().ljust(_HEADER_BYTES)
    return Body(
        header + data,
        {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(header))},
    )


def _v2_labels(answer: Any) -> list[str]:
    (labels,) = (output["data"] for output in answer["outputs"] if output["name"] == "label")
    return list(labels)


RAW = raw()
LITSERVE = Protocol("/predict", _json_images, _labels)
TORCHSERVE = raw("/predictions/cifar")
BENTOML = Protocol("/predict", _multipart, lambda answer: [prediction["label"] for prediction in answer])
MLSERVER = Protocol("/v2/models/cifar/infer", _v2_json, _v2_labels)
TRITON = Protocol("/v2/models/cifar/infer", _v2_binary, _v2_labels)
