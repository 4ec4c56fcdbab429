"""Pixels in, probabilities out: a network with its normalisation inside, so that nobody can normalise otherwise."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from models.card import ModelCard


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

    def logits(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [N, H, W, 3] → float32 [N, C], before the temperature."""
        planes = self.normalise(pixels)
        with autocast(planes.device, self.card.precision):
            logits: torch.Tensor = self.net(planes).float()
            return (logits + self.net(planes.flip(3)).float()) / 2 if self.card.flip_average else logits

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return (self.logits(pixels) / self.card.temperature).softmax(dim=1)


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Inside it, convolutions and products of matrices are computed in `precision`; the weights stay float32."""
    return nullcontext() if precision == "float32" else torch.autocast(device.type, getattr(torch, precision))
