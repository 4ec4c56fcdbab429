"""Small convolutional networks that learn CIFAR-10 in minutes: a whitened stem, then three blocks that halve the sides.

Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024; the shortcut and the third convolution of a block are
from its network for 96 %.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn

from models.architectures import register

_PATCH = 2  # pixels a side of what the stem sees
_WIDTHS = (48, 128, 256)  # channels of the blocks
_LEAST_VARIANCE = 1e-4  # directions of less are noise, which whitening would blow up


class Block(nn.Module):
    """float32 [N, inputs, H, W] → [N, outputs, H / 2, W / 2]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = _conv(inputs, outputs), _norm(outputs)
        self.conv2, self.norm2 = _conv(outputs, outputs), _norm(outputs)
        self.conv3, self.norm3 = _conv(outputs, outputs), _norm(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = shortcut = F.gelu(self.norm1(F.max_pool2d(self.conv1(x), 2)))
        x = F.gelu(self.norm2(self.conv2(x)))
        return F.gelu(self.norm3(self.conv3(x)) + shortcut)


@register("airbench")
class Airbench(nn.Module):
    """float32 [N, 3, H, W], normalised, H and W at least 9 → logits float32 [N, num_classes]."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        whitened = 2 * 3 * _PATCH**2
        self.stem = nn.Conv2d(3, whitened, _PATCH, bias=False)
        self.stem.weight.requires_grad_(False)
        self.blocks = nn.Sequential(*(Block(*channels) for channels in pairwise((whitened, *_WIDTHS))))
        self.head = nn.Linear(_WIDTHS[-1], num_classes, bias=False)

    def initialise(self, inputs: torch.Tensor) -> None:
        """Of training images, float32 [n, 3, H, W], the stem learns to whiten patches: its answers do not correlate."""
        patches = F.unfold(inputs, _PATCH).transpose(1, 2).flatten(0, 1)  # [patches, 12]
        variances, directions = torch.linalg.eigh(patches.T @ patches / len(patches))
        whitening = (directions / (variances + _LEAST_VARIANCE).sqrt()).T.view(-1, 3, _PATCH, _PATCH)
        self.stem.weight.copy_(torch.cat([whitening, -whitening]))  # both signs, of which an activation drops one

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.blocks(F.gelu(self.stem(x)))
        logits: torch.Tensor = self.head(x.amax(dim=(2, 3))) / 9  # small at first, or the first steps are too long
        return logits


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    with torch.no_grad():
        nn.init.dirac_(conv.weight[:inputs])  # at first, what comes in goes out
    return conv


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, momentum=0.4)
    norm.weight.requires_grad_(False)
    return norm
