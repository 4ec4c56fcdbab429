"""The network of PyTorch's CIFAR-10 tutorial, attribute for attribute: 62,006 parameters, 32×32 RGB.

https://pytorch.org/tutorials/beginner/blitz/cifar10_tutorial.html
"""

import torch
import torch.nn.functional as F
from torch import nn

from models.architectures import register


@register("net")
class Net(nn.Module):
    """float32 [N, 3, 32, 32], normalised → logits float32 [N, num_classes]."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 5)
        self.pool = nn.MaxPool2d(2, 2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.fc2 = nn.Linear(120, 84)
        self.fc3 = nn.Linear(84, num_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # The tutorial pools after relu. Pooling first gives the same numbers, with a quarter of the work for relu.
        x = F.relu(self.pool(self.conv1(x)))  # [N, 6, 14, 14]
        x = F.relu(self.pool(self.conv2(x)))  # [N, 16, 5, 5]
        x = torch.flatten(x, 1)  # [N, 400]
        x = F.relu(self.fc1(x))
        x = F.relu(self.fc2(x))
        logits: torch.Tensor = self.fc3(x)
        return logits
