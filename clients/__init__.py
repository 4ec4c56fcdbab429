"""Calls the service and evaluates it. Knows only HTTP: imports no torch, no numpy."""

from clients.client import AsyncClient, Client
from clients.errors import (
    BadRequest,
    CifarError,
    DeadlineExceeded,
    ImageError,
    InvalidImage,
    MalformedAnswer,
    MethodNotAllowed,
    NotFound,
    NotReady,
    PayloadTooLarge,
    ServerError,
    ServiceTimeout,
    ServiceUnreachable,
    StatusError,
    TooManyRequests,
    Unauthorized,
    UnsupportedMediaType,
)
from clients.images import ImageInput
from clients.results import ClassProbability, Prediction

__all__ = [
    "AsyncClient",
    "BadRequest",
    "CifarError",
    "ClassProbability",
    "Client",
    "DeadlineExceeded",
    "ImageError",
    "ImageInput",
    "InvalidImage",
    "MalformedAnswer",
    "MethodNotAllowed",
    "NotFound",
    "NotReady",
    "PayloadTooLarge",
    "Prediction",
    "ServerError",
    "ServiceTimeout",
    "ServiceUnreachable",
    "StatusError",
    "TooManyRequests",
    "Unauthorized",
    "UnsupportedMediaType",
]
