"""The training loop, fed from tensors that lie on the device.

The tutorial's DataLoader decodes, converts and collates image by image, in other processes; here a window of batches is
picked, augmented and normalised at once, which leaves most of the time to the network. The updates are the same.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from functools import partial
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from models.classifier import Classifier
from training.augmentation import Augmentation
from training.errors import TrainingError
from training.execution import Execution, fastest_execution
from training.progress import progress_bar
from training.recipe import Recipe
from training.resume import SavedRun, signals_put_off

_WINDOW_IMAGES = 400  # normalised at once: enough to make it cheap, few enough to stay in the processor's cache
_RISE = 0.2  # the part of the updates in which a triangle's learning rate rises

Report = Callable[[int, int, float], None]


class Examples(NamedTuple):
    """On the CPU: pixels uint8 [N, H, W, 3], labels int64 [N], and which of them to train on, `images` int64 [n]."""

    pixels: torch.Tensor
    labels: torch.Tensor
    images: torch.Tensor


def train(
    classifier: Classifier,
    examples: Examples,
    recipe: Recipe,
    seed: int,
    report: Report,
    saved: SavedRun | None = None,
    resume: bool = False,
) -> float:
    """Train `classifier` in place, on its own device, by `recipe`. Returns the seconds, those before a `resume` too.

    `seed` sets the order of the images and what is drawn to augment them. `report` is called with the epoch and the
    mini-batch, both from 1, and the mean loss since the last report: every `recipe.report_every` mini-batches, and at
    the end of an epoch that is shorter than that. The run is written to `saved` after every epoch and where a signal
    ends it; with `resume` it goes on from there, to the very weights that it would have come to without a stop.
    Raises TrainingError where the loss stops being a number, or the run cannot be saved or gone on with.
    """
    state = saved.load() if saved and resume else None
    classifier.train()
    with (
        fastest_execution(classifier, recipe, Execution(*state["execution"]) if state else None) as execution,
        progress_bar("Training", recipe.epochs * len(examples.images)) as advance,
        signals_put_off() if saved else nullcontext(lambda: False) as told_to_stop,
    ):
        run = Run(classifier, examples, recipe, seed, execution)
        if state:
            run.restore(state)
            advance((run.epoch - 1) * len(examples.images) + run.windows * run.window_images, "")
        while run.epoch <= recipe.epochs and not told_to_stop():
            for losses in run.rest_of_epoch(report):
                advance(len(losses) * recipe.batch_size, f"epoch {run.epoch}/{recipe.epochs}  loss {fmean(losses):.3f}")
                if told_to_stop():
                    break
            if saved:
                saved.save(run.state())
    classifier.eval()
    return run.seconds


class Run:
    """A training run, with all that must be written down for it to go on elsewhere as if it had never stopped."""

    def __init__(
        self, classifier: Classifier, examples: Examples, recipe: Recipe, seed: int, execution: Execution
    ) -> None:
        self.epoch, self.windows, self.seconds = 1, 0, 0.0
        self.window_images = max(1, _WINDOW_IMAGES // recipe.batch_size) * recipe.batch_size
        self._batches, self._running_loss = 0, 0.0  # of this epoch; since the last report
        self._classifier, self._recipe, self._execution = classifier, recipe, execution
        self._pixels, self._labels, self._images = _near(examples.pixels, classifier.mean.device), *examples[1:]
        # On the CPU, so that every device sees the same images in one order.
        self._draws = torch.Generator().manual_seed(seed)
        self._augment = Augmentation(recipe, len(self._labels), self._draws)
        self._epochs_draws = self._draws.get_state()  # as they were when the epoch began
        self._optimizer = make_optimizer(classifier.net, recipe)
        updates = recipe.epochs * math.ceil(len(self._images) / recipe.batch_size)
        self._schedule = LambdaLR(self._optimizer, partial(learning_rate_factor, recipe, updates))

    def state(self) -> dict[str, Any]:
        """Plain values and tensors, for `restore`."""
        return {
            "net": self._classifier.net.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "draws": self._draws.get_state(),
            "epochs_draws": self._epochs_draws,
            "execution": tuple(self._execution),  # another number of threads adds up in another order
            "place": (self.epoch, self.windows, self.seconds, self._batches, self._running_loss),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self._classifier.net.load_state_dict(state["net"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._draws.set_state(state["draws"])
        self._epochs_draws = state["epochs_draws"]
        self.epoch, self.windows, self.seconds, self._batches, self._running_loss = state["place"]

    def rest_of_epoch(self, report: Report) -> Iterator[list[float]]:
        """Goes on to the end of the epoch. Yields, after every window, the losses of its batches."""
        draws = torch.Generator()
        draws.set_state(self._epochs_draws)
        order = self._images[torch.randperm(len(self._images), generator=draws)]
        if not self.windows:
            self._draws.set_state(draws.get_state())
        started, seconds = time.perf_counter(), self.seconds
        windows = torch.split(order, self.window_images)
        for window in windows[self.windows :]:
            losses = self._train_on(window)
            self.windows += 1
            self.seconds = seconds + time.perf_counter() - started
            _refuse_divergence(losses, self.epoch, self._recipe)
            self._report(losses, report, last=self.windows == len(windows))
            yield losses
        self.epoch, self.windows, self._batches, self._running_loss = self.epoch + 1, 0, 0, 0.0
        self._epochs_draws = self._draws.get_state()

    def _train_on(self, images: torch.Tensor) -> list[float]:
        """int64 [n] → the losses of their batches."""
        device = self._classifier.mean.device
        pixels = self._augment(self._pixels[images.to(self._pixels.device)].to(device), images, self.epoch)
        inputs, targets = self._classifier.normalise(pixels), self._labels[images].to(device)
        batches = zip(*(torch.split(part, self._recipe.batch_size) for part in (inputs, targets)), strict=True)
        criterion = nn.CrossEntropyLoss(label_smoothing=self._recipe.label_smoothing)
        return update(self._classifier.net, criterion, self._optimizer, self._schedule, batches)

    def _report(self, losses: list[float], report: Report, last: bool) -> None:
        every = self._recipe.report_every or math.inf
        for loss in losses:
            self._batches, self._running_loss = self._batches + 1, self._running_loss + loss
            if self._batches % every == 0:
                report(self.epoch, self._batches, self._running_loss / every)
                self._running_loss = 0.0
        if last and self._batches < every:
            report(self.epoch, self._batches, self._running_loss / self._batches)


def update(
    net: nn.Module,
    criterion: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: LambdaLR,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
) -> list[float]:
    """One update for each batch of inputs, float32 [B, 3, H, W], and targets, int64 [B]; returns their losses."""
    losses = []
    for inputs, targets in batches:
        optimizer.zero_grad()
        outputs = net(inputs)
        loss = criterion(outputs, targets)
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.detach())  # read below: reading it here would wait for the device at every step
    read: list[float] = torch.stack(losses).tolist()
    return read


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


def _refuse_divergence(losses: list[float], epoch: int, recipe: Recipe) -> None:
    if not math.isfinite(sum(losses)):
        raise TrainingError(
            f"the loss became {sum(losses)} in epoch {epoch}, which no training mends: try another --seed, or a "
            f"--learning-rate below {recipe.learning_rate:g}"
        )
