"""The training loop of PyTorch's CIFAR-10 tutorial, fed from tensors that lie on the device.

The tutorial's DataLoader decodes, converts and collates image by image, in other processes; here a window of batches is
picked and normalised at once, which leaves most of the time to the network. The updates are the same.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import fmean

import torch
from torch import nn

from models.classifier import Classifier
from training.errors import TrainingError
from training.progress import progress_bar
from training.recipe import Recipe

WINDOW = 100  # batches normalised at once: enough to make it cheap, few enough to stay in the processor's cache

Report = Callable[[int, int, float], None]


def train(
    classifier: Classifier, pixels: torch.Tensor, labels: torch.Tensor, recipe: Recipe, seed: int, report: Report
) -> None:
    """Train `classifier` in place, on its own device, by `recipe`.

    pixels uint8 [N, H, W, 3], labels int64 [N]: on any device. `seed` sets the order of the images. `report` is called
    with the epoch and the mini-batch, both from 1, and the mean loss since the last report: every
    `recipe.report_every` mini-batches, and at the end of an epoch that is shorter than that.
    Raises TrainingError where the loss stops being a number.
    """
    device = classifier.mean.device
    pixels, labels = pixels.to(device), labels.to(device)
    # fused: one kernel for all parameters; the update is SGD's own.
    weights = classifier.net.parameters()
    optimizer = torch.optim.SGD(weights, lr=recipe.learning_rate, momentum=recipe.momentum, fused=True)
    shuffle = torch.Generator().manual_seed(seed)  # on the CPU, so that every device sees the images in one order
    classifier.train()
    with _fast_small_batches(), progress_bar("Training", recipe.epochs * len(labels)) as advance:
        for epoch in range(1, recipe.epochs + 1):
            order = torch.randperm(len(labels), generator=shuffle).to(device)
            batches, running_loss = 0, 0.0
            for losses in train_one_epoch(classifier, optimizer, pixels, labels, order, recipe.batch_size):
                _refuse_divergence(losses, epoch, recipe)
                advance(len(losses) * recipe.batch_size, f"epoch {epoch}/{recipe.epochs}  loss {fmean(losses):.3f}")
                for loss in losses:
                    batches, running_loss = batches + 1, running_loss + loss
                    if batches % recipe.report_every == 0:
                        report(epoch, batches, running_loss / recipe.report_every)
                        running_loss = 0.0
            if batches < recipe.report_every:
                report(epoch, batches, running_loss / batches)
    classifier.eval()


def train_one_epoch(
    classifier: Classifier,
    optimizer: torch.optim.Optimizer,
    pixels: torch.Tensor,
    labels: torch.Tensor,
    order: torch.Tensor,
    batch_size: int,
) -> Iterator[list[float]]:
    """One update for each batch of the images `order` (int64 [N]); all tensors on the classifier's device.

    Yields, after every WINDOW batches and at the end, the losses of those batches.
    """
    criterion = nn.CrossEntropyLoss()
    for window in torch.split(order, WINDOW * batch_size):
        all_inputs = torch.split(classifier.normalise(pixels[window]), batch_size)
        all_targets = torch.split(labels[window], batch_size)
        losses = []
        for inputs, targets in zip(all_inputs, all_targets, strict=True):
            optimizer.zero_grad()
            outputs = classifier.net(inputs)
            loss = criterion(outputs, targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())  # read below: reading it here would wait for the device at every step
        yield torch.stack(losses).tolist()


def _refuse_divergence(losses: list[float], epoch: int, recipe: Recipe) -> None:
    if not math.isfinite(sum(losses)):
        raise TrainingError(
            f"the loss became {sum(losses)} in epoch {epoch}, which no training mends: try another --seed, or a recipe "
            f"with a learning rate below {recipe.learning_rate:g} (in training/recipe.py)"
        )


@contextmanager
def _fast_small_batches() -> Iterator[None]:
    """PyTorch set up for batches of a few images, and reproducible; everything is set back at the end."""
    threads, deterministic = torch.get_num_threads(), torch.backends.cudnn.deterministic
    # Waking a second thread costs about what it saves on 4 images, and more where the other cores are busy; so
    # does oneDNN's set-up of every convolution. cuDNN's fastest kernels add up in an order of chance.
    torch.set_num_threads(1)
    mkldnn_enabled, *_ = torch.backends.mkldnn.set_flags(_enabled=False)  # type: ignore[no-untyped-call]
    torch.backends.cudnn.deterministic = True
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.mkldnn.set_flags(_enabled=mkldnn_enabled)  # type: ignore[no-untyped-call]
        torch.backends.cudnn.deterministic = deterministic
