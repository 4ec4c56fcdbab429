"""The types of the HTTP API, for its OpenAPI document. The routes build the same shapes by hand."""

from collections.abc import Set
from typing import Any

from pydantic import BaseModel, Field

from models.card import ModelCard


class ClassProbability(BaseModel):
    label: str = Field(examples=["cat"])
    class_id: int = Field(examples=[3])
    probability: float = Field(ge=0, le=1, examples=[0.91])


class Model(BaseModel):
    name: str = Field(examples=["cifar_net"])
    version: str = Field(description="the first 12 hex digits of the weights' SHA-256", examples=["1a2b3c4d5e6f"])


class ImagePrediction(BaseModel):
    label: str = Field(description="the most probable class", examples=["cat"])
    class_id: int = Field(examples=[3])
    confidence: float = Field(description="the probability of that class", ge=0, le=1, examples=[0.91])
    uncertain: bool | None = Field(
        None, description="whether confidence is below the model card's threshold; left out if the card has none"
    )
    top: list[ClassProbability] = Field(description="the `top_k` most probable classes, best first")


class Prediction(ImagePrediction):
    model: Model


class ImageProblem(BaseModel):
    code: str = Field(examples=["not_an_image"])
    detail: str


class RefusedImage(BaseModel):
    error: ImageProblem


class Predictions(BaseModel):
    predictions: list[ImagePrediction | RefusedImage] = Field(description="one for each image, in the order sent")
    model: Model


class Problem(BaseModel):
    """RFC 9457 problem details; the media type is application/problem+json."""

    type: str = Field(examples=["about:blank"])
    title: str = Field(examples=["Unprocessable Content"])
    status: int = Field(examples=[422])
    code: str = Field(description="stable, for programs", examples=["not_an_image"])
    detail: str = Field(description="a sentence, for people")
    request_id: str


class ProtocolProblem(Problem):
    """The same under /v1 and /v2, where the media type is application/json."""

    error: str = Field(description="the detail, where the protocols' clients look")


class Card(BaseModel):
    model: Model
    card: ModelCard


class Explained(BaseModel):
    label: str = Field(description="the class explained", examples=["cat"])
    class_id: int = Field(examples=[3])
    probability: float = Field(description="the probability of that class", ge=0, le=1, examples=[0.91])
    covered: list[list[float]] = Field(
        description="its probability while a square, 3/8 of the picture wide, covers each place of a grid, row by row"
    )
    model: Model


class Health(BaseModel):
    status: str = Field(examples=["ready"])


_BASE64 = {"type": "string", "contentEncoding": "base64"}
_FILE = {"type": "string", "format": "binary"}
_PNG_PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg=="


def model_openapi(path: str) -> dict[str, Any]:
    """The path parameters `name` and `version`, those of them that `path` has."""
    examples = {"name": "cifar_net", "version": "1a2b3c4d5e6f"}
    return {
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}, "example": example}
            for name, example in examples.items()
            if f"{{{name}}}" in path
        ]
    }


def _content(name: str, items: dict[str, Any], example: object = None) -> dict[str, Any]:
    """An object with a list of one or more `items` under `name`."""
    items = {"type": "array", "minItems": 1, "items": items}
    content = {"schema": {"type": "object", "required": [name], "properties": {name: items}}}
    return content | ({"example": {name: [example]}} if example else {})


def infer_openapi(path: str) -> dict[str, Any]:
    """What clients of the Open Inference Protocol send to a path."""
    tensor = {
        "type": "object",
        "required": ["name", "datatype", "shape"],
        "properties": {
            "name": {"enum": ["image", "pixels"]},
            "datatype": {"enum": ["BYTES", "UINT8", "FP32"]},
            "shape": {"type": "array", "items": {"type": "integer", "minimum": 1}},
            "data": {"type": "array", "description": "base64, or numbers from 0 to 255"},
            "parameters": {"type": "object"},
        },
    }
    example = {"name": "image", "datatype": "BYTES", "shape": [1], "data": [_PNG_PIXEL]}
    content = _content("inputs", tensor, example)
    content["schema"]["properties"]["inputs"]["maxItems"] = 1
    return model_openapi(path) | {"requestBody": {"required": True, "content": {"application/json": content}}}


def with_keys(document: dict[str, Any], open_paths: Set[str]) -> dict[str, Any]:
    """The same OpenAPI document, changed to require an API key on all paths but `open_paths`."""
    document["components"]["securitySchemes"] = {
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "bearer": {"type": "http", "scheme": "bearer"},
    }
    for path in document["paths"].keys() - open_paths:
        for operation in document["paths"][path].values():
            operation["security"] = [{"key": []}, {"bearer": []}]
            operation["responses"]["401"] = {"description": "The API key is missing or not valid."}
    return document


def _query(name: str, description: str, **schema: int) -> dict[str, Any]:
    """A query parameter that is a whole number."""
    return {"name": name, "in": "query", "description": description, "schema": {"type": "integer", **schema}}


_TOP_K = _query("top_k", "how many classes to return; a larger number returns all", minimum=1, default=3)
_PICTURE = {"schema": _FILE}

PREDICT_OPENAPI: dict[str, Any] = {
    "parameters": [_TOP_K],
    "requestBody": {
        "required": True,
        "description": "One image (answered with one prediction), or many (answered with a list).",
        "content": {
            "image/*": _PICTURE,
            "application/octet-stream": _PICTURE,
            "multipart/form-data": _content("files", _FILE),
            "application/json": _content("images", _BASE64, _PNG_PIXEL),
        },
    },
}

_ONE_PICTURE: dict[str, Any] = {
    "requestBody": {"required": True, "content": {"image/*": _PICTURE, "application/octet-stream": _PICTURE}}
}
PREVIEW_OPENAPI: dict[str, Any] = _ONE_PICTURE | {"responses": {"200": {"content": {"image/png": _PICTURE}}}}
_CLASS_ID = _query("class_id", "which class to explain; the most probable one without it", minimum=0)
EXPLAIN_OPENAPI: dict[str, Any] = _ONE_PICTURE | {"parameters": [_CLASS_ID]}


def instances_openapi(path: str) -> dict[str, Any]:
    """What TensorFlow Serving's clients send to a path."""
    encoded = {"type": "object", "required": ["b64"], "properties": {"b64": _BASE64}}
    named = {"type": "object", "required": ["image_bytes"], "properties": {"image_bytes": encoded}}
    content = _content("instances", {"anyOf": [encoded, named]}, {"b64": _PNG_PIXEL})
    return {
        "parameters": [*model_openapi(path)["parameters"], _TOP_K],
        "requestBody": {"required": True, "content": {"application/json": content}},
    }
