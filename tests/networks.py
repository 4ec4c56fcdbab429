"""Networks that users have and we do not."""

import torch
from torch import nn

from models.architectures.net import Net


class Viewing(Net):
    """Flattens as the tutorial once did, which pixels laid out channels last do not allow."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        planes = self.pool(torch.relu(self.conv2(self.pool(torch.relu(self.conv1(x))))))
        logits: torch.Tensor = self.fc3(torch.relu(self.fc2(torch.relu(self.fc1(planes.view(-1, 16 * 5 * 5))))))
        return logits


class Drawing(Net):
    """Drops out some of what it sees while it is trained."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.dropout(x, 0.5, self.training))


class Normed(Net):
    """Has the norm of a weight apart, in torch's older way, which makes that weight anew for every look."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        torch.nn.utils.weight_norm(self.fc1)


class Centred(Net):
    """Subtracts a mean of its own, which NumPy had a hand in."""

    mean: torch.Tensor

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__(num_classes)
        self.register_buffer("mean", torch.tensor(torch.full((3, 1, 1), 0.1).numpy()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x - self.mean)


class Skipping(nn.Module):
    """Leaves a layer out of the first look, as networks with stochastic depth do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last, self.looks = nn.Linear(3072, 3072), nn.Linear(3072, 10), 0

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        self.looks += 1
        flat = inputs.flatten(1)
        result: torch.Tensor = self.last(flat if self.looks == 1 else self.layer(flat))
        return result


class Deep(Net):
    """With a weight of five dimensions, which has no channels to be last."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1, 1, 1, 1, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.factor.flatten() * super().forward(images)
