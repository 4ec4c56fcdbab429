"""Pixels in, probabilities out: a network with its normalisation inside, so that training and serving use the same."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import nn

from models.card import ModelCard

_MKLDNN = {"bfloat16": "bf16", "float16": "fp16"}  # oneDNN's names


class Classifier(nn.Module):
    """uint8 [N, H, W, 3] RGB 0..255 → float32 [N, C], each row summing to 1; both on the module's own device."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, net: nn.Module, card: ModelCard) -> None:
        super().__init__()
        self.net = net
        self.card = card
        self.register_buffer("mean", torch.tensor(card.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(card.std).view(3, 1, 1))

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [N, H, W, 3] → float32 [N, 3, H, W] as torchvision's ToTensor and Normalize give it."""
        planes = pixels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        return planes.div_(255).sub_(self.mean).div_(self.std)

    def one_view(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [N, H, W, 3] → float32 [N, C], what the network answers to these very images."""
        planes = self.normalise(pixels)
        with autocast(planes.device, self.card.precision):
            logits: torch.Tensor = self.net(planes).float()
        return logits

    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [N, H, W, 3] → float32 [N, C], before the temperature.

        With test-time augmentation: while the confidence of the mean so far is below the card's `tta_below`, one more
        view is added. More views of confident answers would take several times as long and hardly change a class.
        """
        logits = self.one_view(pixels)
        if not self.card.tta_below:
            return logits
        for looks, (rows, columns) in enumerate(further_views(pixels.shape[1]), start=1):
            unsure = self._probabilities(logits).amax(dim=1) < self.card.tta_below
            if not unsure.any():
                break
            again = self.one_view(pixels[unsure][:, rows][:, :, columns])
            logits[unsure] += (again - logits[unsure]) / (looks + 1)
        return logits

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._probabilities(self.logits(pixels))

    def _probabilities(self, logits: torch.Tensor) -> torch.Tensor:
        return (logits / self.card.temperature).softmax(dim=1)


def further_views(size: int) -> Iterator[tuple[list[int], list[int]]]:
    """The rows and columns that make five more of a square image: mirrored, then moved by a pixel down and up, each
    with its mirror image; edges are mirrored. With the image itself, they are the six views of airbench's evaluation.
    """
    padded = [min(1, size - 1), *range(size), max(size - 2, 0)]
    still, down, up = padded[1:-1], padded[:-2], padded[2:]
    yield still, still[::-1]
    for moved in (down, up):  # to the right, and to the left, as far
        yield moved, moved
        yield moved, moved[::-1]


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Inside it, convolutions and products of matrices are computed in `precision`; the weights stay float32.

    In float32 where the device has no other.
    """
    if precision == "float32" or not supports(device.type, precision):
        return nullcontext()
    return torch.autocast(device.type, getattr(torch, precision))


@cache
def supports(device_type: str, precision: str) -> bool:
    """Whether the device computes in `precision`, rather than imitating it, which can take twenty times as long."""
    if device_type == "cpu" and precision != "float32":
        there = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        return bool(there and getattr(torch.ops.mkldnn, f"_is_mkldnn_{_MKLDNN[precision]}_supported")())
    if device_type == "cuda" and precision == "bfloat16":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return True
