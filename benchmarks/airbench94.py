"""airbench94 as published, in plain PyTorch: what the recipe `fast` is measured against.

Jordan, 94% on CIFAR-10 in 3.29 Seconds on a Single GPU, 2024: network, initialisation, optimizer, schedule, Lookahead,
augmentation and the six views that an answer is the mean of. In place of half precision it uses bfloat16, where the
device has it.
"""

import math
import time

import torch
import torch.nn.functional as F
from torch import nn

from models.classifier import autocast

EPOCHS, BATCH, WIDTHS = 9.9, 1024, (64, 256, 256)
RATE, MOMENTUM, DECAY, BIAS_FACTOR, SMOOTHING = 11.5, 0.85, 0.0153, 64, 0.2
WHITEN_BIAS_EPOCHS = 3


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.whiten = nn.Conv2d(3, 24, 2)
        self.whiten.weight.requires_grad_(False)
        self.groups = nn.Sequential(*(Group(*channels) for channels in zip((24, *WIDTHS), WIDTHS, strict=False)))
        self.head = nn.Linear(WIDTHS[-1], 10, bias=False)

    def initialise(self, images: torch.Tensor) -> None:
        """Sets the whitening filters from training images, float32 [n, 3, 32, 32]."""
        patches = F.unfold(images, 2).transpose(1, 2).flatten(0, 1)
        values, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
        scaled = (vectors / (values + 5e-4).sqrt()).T.flip(0).view(-1, 3, 2, 2)
        self.whiten.weight.data.copy_(torch.cat([scaled, -scaled]))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.groups(F.gelu(self.whiten(images))).amax(dim=(2, 3))
        logits: torch.Tensor = self.head(features) / 9
        return logits


class Group(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = (nn.Conv2d(c, outputs, 3, padding=1, bias=False) for c in (inputs, outputs))
        self.norm1, self.norm2 = (nn.BatchNorm2d(outputs, eps=1e-12, momentum=0.4) for _ in range(2))
        for conv in (self.conv1, self.conv2):
            nn.init.dirac_(conv.weight.data[: conv.in_channels])
        for norm in (self.norm1, self.norm2):
            norm.weight.requires_grad_(False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        images = F.gelu(self.norm1(F.max_pool2d(self.conv1(images), 2)))
        return F.gelu(self.norm2(self.conv2(images)))


def train(images: torch.Tensor, labels: torch.Tensor, seed: int) -> tuple[Net, float]:
    """All training images, normalised float32 [N, 3, 32, 32], and labels, int64 [N] → the network, and the seconds."""
    started = time.perf_counter()
    torch.manual_seed(seed)
    net = Net().to(memory_format=torch.channels_last)
    net.initialise(images[:5000])
    total = math.ceil(EPOCHS * (len(images) // BATCH))
    optimizer, schedule = make_optimizer(net, total)
    lookahead = Lookahead(net)
    flipped, step = torch.rand(len(images)) < 0.5, 0
    for epoch in range(math.ceil(EPOCHS)):
        net.whiten.bias.requires_grad_(epoch < WHITEN_BIAS_EPOCHS)  # type: ignore[union-attr]
        augmented = augment(images, flipped ^ (epoch % 2 == 1))
        for batch in torch.split(torch.randperm(len(images)), BATCH)[: len(images) // BATCH]:
            inputs = augmented[batch].contiguous(memory_format=torch.channels_last)
            with autocast(images.device, "bfloat16"):
                outputs = net(inputs)
            loss = F.cross_entropy(outputs.float(), labels[batch], label_smoothing=SMOOTHING, reduction="sum")
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            step += 1
            if step % 5 == 0:
                lookahead.update(0.95**5 * (step / total) ** 3)
            if step == total:
                break
    lookahead.update(1.0)
    return net.eval(), time.perf_counter() - started


def make_optimizer(net: Net, total: int) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
    per_step = 1024 * (1 + 1 / (1 - MOMENTUM))
    rate, decay = RATE / per_step, DECAY * BATCH / per_step
    biases = [module.bias for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    known = {id(bias) for bias in biases}
    others = [parameter for parameter in net.parameters() if parameter.requires_grad and id(parameter) not in known]
    groups = [
        {"params": biases, "lr": rate * BIAS_FACTOR, "weight_decay": decay / (rate * BIAS_FACTOR)},
        {"params": others, "lr": rate, "weight_decay": decay / rate},
    ]
    optimizer = torch.optim.SGD(groups, momentum=MOMENTUM, nesterov=True, fused=True)
    peak = 0.23 * total

    def triangle(step: int) -> float:
        return 0.2 + 0.8 * step / peak if step < peak else 1 - 0.93 * (step - peak) / (total - peak)

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, triangle)


class Lookahead:
    """Zhang et al., 2019: every few steps the weights go back some way towards their slow average."""

    def __init__(self, net: nn.Module) -> None:
        self._fast = [value for value in net.state_dict().values() if value.is_floating_point()]
        self._slow = [value.clone() for value in self._fast]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        for slow, fast in zip(self._slow, self._fast, strict=True):
            slow.lerp_(fast, 1 - decay)
            fast.copy_(slow)


def augment(images: torch.Tensor, flips: torch.Tensor) -> torch.Tensor:
    """float32 [N, 3, 32, 32] → the same, mirrored where `flips` (bool [N]) says so, and shifted by up to two pixels
    either way, with reflected edges."""
    images = torch.where(flips[:, None, None, None], images.flip(3), images)
    padded, shifted = F.pad(images, (2,) * 4, "reflect"), torch.empty_like(images)
    offsets = torch.randint(0, 5, (2, len(images)))
    for down in range(5):
        for right in range(5):
            these = (offsets[0] == down) & (offsets[1] == right)
            shifted[these] = padded[these, :, down : down + 32, right : right + 32]
    return shifted


@torch.no_grad()
def accuracy(net: Net, images: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """Accuracy on normalised float32 [N, 3, 32, 32] with labels int64 [N]: of one view, and of the mean of six."""
    plain, all_views = [], []
    for batch in torch.split(images, 500):
        padded = F.pad(batch, (1,) * 4, "reflect")
        views = [(batch, 0.5), (padded[:, :, 0:32, 0:32], 0.25), (padded[:, :, 2:34, 2:34], 0.25)]
        with autocast(images.device, "bfloat16"):
            plain.append(net(batch).float())
            all_views.append(sum(weight * (net(v).float() + net(v.flip(3)).float()) for v, weight in views))
    return tuple(float((torch.cat(parts).argmax(1) == labels).double().mean()) for parts in (plain, all_views))  # type: ignore[return-value]
