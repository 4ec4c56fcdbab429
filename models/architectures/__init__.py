"""The registry of networks. A new architecture is one file in this folder with a `@register("name")` class.

Each takes `num_classes` and maps float32 [N, 3, H, W] (normalised) to logits float32 [N, num_classes]. It may have a
method `initialise(inputs)`, which sets its first weights and gets some normalised training images, and the class
attributes `mean` and `std`, if its normalisation is not the tutorial's.
"""

import importlib
import pkgutil
from collections.abc import Callable
from typing import TypeVar

from torch import nn

_ARCHITECTURES: dict[str, type[nn.Module]] = {}
_BROKEN: list[str] = []  # a sentence on each file that cannot be imported
Architecture = TypeVar("Architecture", bound=type[nn.Module])


class ArchitectureError(ValueError):
    """A network cannot be built: none has its name, or a file in this folder is broken."""


def register(name: str) -> Callable[[Architecture], Architecture]:
    """Class decorator: the network can be built, and named in a model card, as `name`."""

    def add(architecture: Architecture) -> Architecture:
        other = _ARCHITECTURES.get(name, architecture).__module__
        if architecture.__module__ not in (other, "__main__"):  # a copy of a file whose name was not changed
            del _ARCHITECTURES[name]  # nobody can tell which of the two is meant
            raise ValueError(f"{other} registers {name!r} too: choose another name")
        _ARCHITECTURES[name] = architecture
        return architecture

    return add


def build(name: str, num_classes: int, **arguments: object) -> nn.Module:
    """The network `name`, with fresh weights. Raises ArchitectureError, or what the network itself raises."""
    if name not in _ARCHITECTURES:
        there_are = f"there are: {', '.join(sorted(_ARCHITECTURES))}"
        raise ArchitectureError("; ".join((f"no architecture is called {name!r}", there_are, *_BROKEN)))
    return _ARCHITECTURES[name](num_classes=num_classes, **arguments)


for _module in pkgutil.iter_modules(__path__):
    try:
        importlib.import_module(f"{__name__}.{_module.name}")
    except Exception as _error:  # of a file that a user wrote; raised here, a second import would find half of us
        _BROKEN.append(f"models/architectures/{_module.name}.py cannot be imported: {type(_error).__name__}: {_error}")
