"""Reads requests in all their forms: a raw image, multipart files, JSON with base64, TensorFlow Serving's JSON."""

import base64
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import ClientDisconnect, Request

from models.pixels import ImageError
from server.errors import BadRequest, PayloadTooLarge, UnsupportedMediaType
from server.settings import Settings

DEFAULT_TOP_K = 3
# curl labels every --data-binary as a URL-encoded form; we take no such forms, so it is an image.
_ANY_BYTES = ("", "application/octet-stream", "application/x-www-form-urlencoded")
_VALUES_PER_IMAGE = 8  # an instance may have members that we do not read
_OTHER_VALUES = 64
_JSON_FORMS = {
    "images": '{"images": ["<base64>", ...]}',
    "instances": '{"instances": [{"b64": "<base64>"}, ...]}',
}


@dataclass(frozen=True, slots=True)
class PredictRequest:
    """Encoded images (or why one cannot be read), whether the answer is a list, and how many classes it names."""

    images: list[bytes | ImageError]
    many: bool
    top_k: int


Reader = Callable[[Request, Settings], Coroutine[Any, Any, PredictRequest]]


async def read_predict_request(request: Request, settings: Settings) -> PredictRequest:
    """The images of POST /predict. Raises BadRequest, PayloadTooLarge or UnsupportedMediaType."""
    top_k = _read_top_k(request)
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type == "application/json":
        return PredictRequest(_read_json(await read_body(request), "images", settings.max_images), True, top_k)
    if content_type == "multipart/form-data":
        return PredictRequest(await _read_multipart(request, settings.max_images), True, top_k)
    if content_type.startswith("image/") or content_type in _ANY_BYTES:
        return PredictRequest([await read_body(request)], False, top_k)
    raise UnsupportedMediaType(
        f"{content_type} is not supported: send an image as the body (image/*), files as multipart/form-data, "
        "or base64 in application/json"
    )


async def read_instances(request: Request, settings: Settings) -> PredictRequest:
    """The same for TensorFlow Serving's JSON, of any content type. Raises BadRequest or PayloadTooLarge."""
    top_k = _read_top_k(request)
    return PredictRequest(_read_json(await read_body(request), "instances", settings.max_images), True, top_k)


def _read_top_k(request: Request) -> int:
    if not request.scope["query_string"]:
        return DEFAULT_TOP_K
    text = request.query_params.get("top_k", str(DEFAULT_TOP_K))
    if not re.fullmatch("[0-9]{1,9}", text) or int(text) < 1:
        raise BadRequest(f"top_k must be a whole number from 1, not {text[:20]!r}")
    return int(text)


async def read_body(request: Request) -> bytes:
    """The whole body. Starlette's method uses an asynchronous generator, which costs more than a small image's body."""
    parts, more = [], True
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _read_json(body: bytes, name: str, max_images: int) -> list[bytes | ImageError]:
    check_values(body, max_images, _VALUES_PER_IMAGE)
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON ({error}): send {_JSON_FORMS[name]}") from None
    encoded = document.get(name) if isinstance(document, dict) else None
    if name == "instances" and isinstance(encoded, list):
        encoded = [_base64_of(instance) for instance in encoded]
    if not isinstance(encoded, list) or not all(isinstance(image, str) for image in encoded):
        raise BadRequest(f'the JSON has no list of images under "{name}": send {_JSON_FORMS[name]}')
    _check_count(len(encoded), max_images)
    return [_read_base64(image) for image in encoded]


def check_values(document: bytes, max_images: int, values_per_image: int) -> None:
    """Raises PayloadTooLarge if JSON, not parsed yet, has more values than `max_images` need.

    Parsed, two bytes of it can take a hundred bytes of memory.
    """
    if document.count(b",") > max_images * values_per_image + _OTHER_VALUES:
        raise PayloadTooLarge(
            f"the JSON has more values than {max_images} images need: split the request, and send each image as base64",
            "too_many_images",
        )


def _base64_of(instance: Any) -> Any:
    """The member `b64` of an instance, or of its `image_bytes`; None if there is none."""
    if isinstance(instance, dict):
        instance = instance.get("image_bytes", instance)
    return instance.get("b64") if isinstance(instance, dict) else None


def _read_base64(text: str) -> bytes | ImageError:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        return ImageError("not_base64", "this string is not base64")


async def _read_multipart(request: Request, max_images: int) -> list[bytes | ImageError]:
    try:
        async with request.form(max_files=max_images, max_fields=max_images) as form:
            images: list[bytes | ImageError] = [
                await part.read() for _, part in form.multi_items() if isinstance(part, UploadFile)
            ]
    except (HTTPException, MultiPartException) as error:
        detail = error.detail if isinstance(error, HTTPException) else error.message
        if detail.startswith("Too many"):
            raise too_many(max_images) from None
        raise BadRequest(f"the multipart body cannot be read: {detail}") from None
    except UnicodeError:  # of Python's codecs punycode and undefined, which fail in their own ways
        raise BadRequest("the multipart body cannot be read: a name in it is not in its charset") from None
    _check_count(len(images), max_images)
    return images


def _check_count(images: int, max_images: int) -> None:
    if images == 0:
        raise BadRequest("there is no image in the request: send at least one", "no_images")
    if images > max_images:
        raise too_many(max_images)


def too_many(max_images: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"more than {max_images} images in one request: split the request", "too_many_images")
