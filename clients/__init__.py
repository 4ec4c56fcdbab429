"""Calls the service and evaluates it. It knows only HTTP, and imports neither torch nor numpy."""

from clients import errors
from clients.client import AsyncClient, Client
from clients.errors import CifarError, ImageError
from clients.images import ImageInput
from clients.results import ClassProbability, Prediction

__all__ = [
    "AsyncClient",
    "CifarError",
    "ClassProbability",
    "Client",
    "ImageError",
    "ImageInput",
    "Prediction",
    "errors",
]
