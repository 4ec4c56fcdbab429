"""The training loop, fed from tensors that lie on the device.

The tutorial's DataLoader decodes, converts and collates image by image, in other processes; here a window of batches is
picked, augmented and normalised at once, which leaves most of the time to the network. The updates are the same.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from statistics import fmean

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from models.classifier import Classifier
from training.augmentation import Augmentation
from training.errors import TrainingError
from training.execution import fastest_execution
from training.progress import progress_bar
from training.recipe import Recipe

_WINDOW_IMAGES = 400  # normalised at once: enough to make it cheap, few enough to stay in the processor's cache
_RISE = 0.2  # the part of the updates in which a triangle's learning rate rises

Report = Callable[[int, int, float], None]
Window = tuple[Sequence[torch.Tensor], Sequence[torch.Tensor]]  # batches of float32 [B, 3, H, W], and int64 [B]


def train(
    classifier: Classifier,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    images: torch.Tensor,
    recipe: Recipe,
    seed: int,
    report: Report,
) -> None:
    """Train `classifier` in place, on its own device, by `recipe`.

    Of pixels uint8 [N, H, W, 3] and labels int64 [N] it sees the `images` (int64 [n]); all of them are on the CPU.
    `seed` sets their order and what is drawn to augment them. `report` is called with the epoch and the mini-batch,
    both from 1, and the mean loss since the last report: every `recipe.report_every` mini-batches, and at the end of an
    epoch that is shorter than that.
    Raises TrainingError where the loss stops being a number.
    """
    pixels = _near(pixels, classifier.mean.device)
    draws = torch.Generator().manual_seed(seed)  # on the CPU, so that every device sees the same images in one order
    augment = Augmentation(recipe, len(labels), draws)
    updates = recipe.epochs * math.ceil(len(images) / recipe.batch_size)
    report_every = recipe.report_every or math.inf
    classifier.train()
    with fastest_execution(classifier, recipe), progress_bar("Training", recipe.epochs * len(images)) as advance:
        optimizer = make_optimizer(classifier.net, recipe)
        schedule = LambdaLR(optimizer, partial(learning_rate_factor, recipe, updates))
        for epoch in range(1, recipe.epochs + 1):
            order = images[torch.randperm(len(images), generator=draws)]
            windows = cut_windows(classifier, pixels, labels, order, recipe.batch_size, partial(augment, epoch=epoch))
            batches, running_loss = 0, 0.0
            for losses in train_one_epoch(classifier.net, optimizer, schedule, windows, recipe.label_smoothing):
                _refuse_divergence(losses, epoch, recipe)
                advance(len(losses) * recipe.batch_size, f"epoch {epoch}/{recipe.epochs}  loss {fmean(losses):.3f}")
                for loss in losses:
                    batches, running_loss = batches + 1, running_loss + loss
                    if batches % report_every == 0:
                        report(epoch, batches, running_loss / report_every)
                        running_loss = 0.0
            if batches < report_every:
                report(epoch, batches, running_loss / batches)
    classifier.eval()


def _near(pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
    """On the device where they leave it half of its free memory; else where they are, from where windows are sent."""
    if device.type == "cuda" and pixels.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
        return pixels
    return pixels.to(device)


def make_optimizer(net: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    # fused: one kernel for all parameters; the update is the optimizer's own.
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimizer == "adam":
        return torch.optim.Adam(net.parameters(), rate, weight_decay=decay, fused=True)
    return torch.optim.SGD(net.parameters(), rate, recipe.momentum, 0, decay, recipe.nesterov, fused=True)


def learning_rate_factor(recipe: Recipe, updates: int, done: int) -> float:
    """What the recipe's learning rate is multiplied by when so many of its `updates` are done."""
    if recipe.schedule == "constant":
        return 1.0
    rise = _RISE * updates
    return min((done + 1) / rise, (updates - done) / (updates - rise))


def cut_windows(
    classifier: Classifier,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    order: torch.Tensor,
    batch_size: int,
    augment: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> Iterator[Window]:
    """The images `order` (int64 [n], on the CPU) as the network takes them, a window of batches at a time."""
    device = classifier.mean.device
    for images in torch.split(order, max(1, _WINDOW_IMAGES // batch_size) * batch_size):
        window = pixels[images.to(pixels.device)].to(device)
        inputs = classifier.normalise(augment(window, images))
        yield torch.split(inputs, batch_size), torch.split(labels[images].to(device), batch_size)


def train_one_epoch(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: LambdaLR,
    windows: Iterable[Window],
    label_smoothing: float,
) -> Iterator[list[float]]:
    """One update for each batch. Yields, after every window, the losses of its batches."""
    criterion = nn.CrossEntropyLoss(label_smoothing=label_smoothing)
    for all_inputs, all_targets in windows:
        losses = []
        for inputs, targets in zip(all_inputs, all_targets, strict=True):
            optimizer.zero_grad()
            outputs = net(inputs)
            loss = criterion(outputs, targets)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())  # read below: reading it here would wait for the device at every step
        yield torch.stack(losses).tolist()


def _refuse_divergence(losses: list[float], epoch: int, recipe: Recipe) -> None:
    if not math.isfinite(sum(losses)):
        raise TrainingError(
            f"the loss became {sum(losses)} in epoch {epoch}, which no training mends: try another --seed, or a "
            f"--learning-rate below {recipe.learning_rate:g}"
        )
