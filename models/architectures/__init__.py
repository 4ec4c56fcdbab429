"""The registry of networks. A new architecture is one file in this folder with a `@register("name")` class.

Each takes `num_classes` and maps float32 [N, 3, H, W] (normalised) to logits float32 [N, num_classes]. It may have
`initialise`, called with some training images, inputs to it, for its first weights, and `mean` and `std` of its own.
"""

import importlib
import pkgutil
from collections.abc import Callable
from typing import TypeVar

from torch import nn

_ARCHITECTURES: dict[str, type[nn.Module]] = {}
Architecture = TypeVar("Architecture", bound=type[nn.Module])


def register(name: str) -> Callable[[Architecture], Architecture]:
    """Class decorator: the network can be built, and named in a model card, as `name`."""

    def add(architecture: Architecture) -> Architecture:
        _ARCHITECTURES[name] = architecture
        return architecture

    return add


def build(name: str, num_classes: int, **arguments: object) -> nn.Module:
    """The network `name`, with fresh weights. Raises ValueError where no such architecture is registered."""
    if name not in _ARCHITECTURES:
        raise ValueError(f"no architecture is called {name!r}; there are: {', '.join(sorted(_ARCHITECTURES))}")
    return _ARCHITECTURES[name](num_classes=num_classes, **arguments)


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
