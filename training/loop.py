"""The training loop, fed from tensors that lie on the device.

The tutorial's DataLoader decodes, converts and collates image by image, in other processes; here a window of batches is
picked, augmented and normalised at once, which leaves most of the time to the network. The updates are the same,
except that the last batch of an epoch is filled up with images of that epoch.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from statistics import fmean
from typing import Any, NamedTuple

import torch

from models.classifier import Classifier
from training import distributed
from training.augmentation import Augmentation
from training.errors import TrainingError
from training.evaluation import accuracy, logits_of
from training.execution import Execution, chosen_before, fastest_execution
from training.history import Epoch
from training.progress import progress_bar
from training.recipe import Recipe
from training.resume import SavedRun, signals_put_off
from training.updates import Updates

# Images of 32×32 in a window. On the CPU: enough to make normalising cheap, few enough for its cache. On other devices
# more, since after each window we wait for the device to read its losses, and look whether a signal has come.
_WINDOW_IMAGES, _DEVICE_WINDOW_IMAGES = 400, 2000

OnLoss = Callable[[int, int, float], None]
OnEpoch = Callable[[Epoch], object]


class Examples(NamedTuple):
    """On the CPU: pixels uint8 [N, H, W, 3], labels int64 [N], and which of them to train on and to validate with."""

    pixels: torch.Tensor
    labels: torch.Tensor
    train: torch.Tensor  # int64 [n]
    validation: torch.Tensor = torch.empty(0, dtype=torch.int64)


def train(
    classifier: Classifier,
    examples: Examples,
    recipe: Recipe,
    seed: int,
    on_loss: OnLoss,
    on_epoch: OnEpoch = lambda epoch: None,
    saved: SavedRun | None = None,
    state: dict[str, Any] | None = None,
) -> list[Epoch]:
    """Train `classifier` in place, on its own device, by `recipe`. Returns its epochs, those before a stop too.

    `seed` sets the order of the images and how they are augmented. `on_loss` is called with epoch and mini-batch, both
    from 1, and the mean loss since the last report: every `recipe.report_every` mini-batches, and at the end of a
    shorter epoch; `on_epoch` after each epoch. Then the run is written to `saved`, and when a signal stops it; with
    that `state` it continues, on such a machine to the same weights. Raises TrainingError: loss not finite, disk full.
    """
    classifier.train()
    epoch_images = math.ceil(len(examples.train) / recipe.batch_size) * recipe.batch_size
    with (
        fastest_execution(classifier, recipe, chosen_before(state, classifier.mean.device)) as execution,
        progress_bar("Training", recipe.epochs * epoch_images) as advance,
        signals_put_off() if saved else nullcontext(lambda: False) as told_to_stop,
    ):
        run = Trainer(classifier, examples, recipe, seed, execution)
        if state:
            run.restore(state)
            advance((run.epoch - 1) * epoch_images + run.images_done, "")
        while run.epoch <= recipe.epochs and not told_to_stop():
            epochs = len(run.history)
            for losses in run.rest_of_epoch(on_loss):
                advance(len(losses) * recipe.batch_size, run.note(fmean(losses)))
                if told_to_stop():
                    break
            if saved:
                saved.save(run.state())
            for epoch in run.history[epochs:]:
                on_epoch(epoch)
    classifier.eval()
    return run.history


class Trainer:
    """A training run with all of its state, so that it can be saved, and continued as if it had never stopped."""

    def __init__(
        self, classifier: Classifier, examples: Examples, recipe: Recipe, seed: int, execution: Execution
    ) -> None:
        self.history: list[Epoch] = []
        self.epoch, self.images_done, self.seconds = 1, 0, 0.0  # of this epoch the images, of all of them the seconds
        window_images = _WINDOW_IMAGES if classifier.mean.device.type == "cpu" else _DEVICE_WINDOW_IMAGES
        window_images = window_images * 32**2 // classifier.card.input_size**2
        self._window_images = max(1, window_images // recipe.batch_size) * recipe.batch_size
        self._losses: list[float] = []  # of this epoch's batches
        self._classifier, self._recipe, self._seed, self._execution = classifier, recipe, seed, execution
        self._examples = examples._replace(pixels=_on_device_if_it_fits(examples.pixels, classifier.mean.device))
        # On the CPU, so that the order of the images is the same on every device (but not their augmentation, which is
        # drawn window by window, and windows differ in size).
        self._generator = torch.Generator().manual_seed(seed)
        self._augment = Augmentation(recipe, len(examples.labels), self._generator)
        self._order = torch.empty(0, dtype=torch.int64)  # of this epoch's images
        updates = recipe.epochs * math.ceil(len(examples.train) / recipe.batch_size)
        self._update = Updates(classifier, recipe, updates, examples.labels[examples.train])

    def state(self) -> dict[str, Any]:
        """Plain values and tensors, for `restore`."""
        return {
            "net": self._classifier.net.state_dict(),
            "updates": self._update.state(),
            "draws": self._generator.get_state(),
            "order": self._order,
            "execution": tuple(self._execution),  # another number of threads adds up in another order
            "device": self._classifier.mean.device.type,
            "place": (self.epoch, self.images_done, self.seconds, self._losses),
            "history": [tuple(epoch) for epoch in self.history],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Raises TrainingError of one that another version of the network, or of this program, has left."""
        try:
            self._classifier.net.load_state_dict(state["net"])
            self._update.restore(state["updates"])
            self._generator.set_state(state["draws"])
            self._order = torch.as_tensor(state["order"])
            self.epoch, self.images_done, self.seconds, self._losses = state["place"]
            self.history = [Epoch(*epoch) for epoch in state["history"]]
        except (LookupError, RuntimeError, TypeError, ValueError):
            raise TrainingError(
                "the saved run is of another version of the network or of this program: train anew without --resume"
            ) from None

    def note(self, loss: float) -> str:
        """Where it is, for a progress bar; the accuracy is that on the validation images after the last epoch."""
        accuracy = self.history[-1].accuracy if self.history else None
        known = "" if accuracy is None else f"  {100 * accuracy:.1f} %"
        return f"epoch {self.epoch}/{self._recipe.epochs}  loss {loss:.3f}{known}"

    def rest_of_epoch(self, on_loss: OnLoss) -> Iterator[list[float]]:
        """Goes on to the end of the epoch. Yields, after every window, the losses of its batches."""
        if not self.images_done:
            self._order = self._shuffled(self._examples.train)
        started, seconds = time.perf_counter(), self.seconds
        for start in range(self.images_done, len(self._order), self._window_images):
            window = self._order[start : start + self._window_images]
            # What the network draws itself, such as for dropout: the same after a stop, and another in each process.
            torch.manual_seed(hash((self._seed, self.epoch, start, distributed.rank())))
            losses = self._train_on(window)
            self.images_done += len(window)
            self.seconds = seconds + time.perf_counter() - started
            _refuse_divergence(losses, self.epoch, self._recipe)
            self._report(losses, on_loss)
            yield losses
        loss = fmean(self._losses)
        if not 0 < self._recipe.report_every <= len(self._losses):
            on_loss(self.epoch, len(self._losses), loss)
        self.history.append(Epoch(self.epoch, loss, self._update.learning_rate, self._validate(), self.seconds))
        self.epoch, self.images_done, self._losses = self.epoch + 1, 0, []

    def _shuffled(self, images: torch.Tensor) -> torch.Tensor:
        order = images[torch.randperm(len(images), generator=self._generator)]
        if len(order) <= self._recipe.batch_size:
            return order
        # A last batch of few images would spoil the statistics of BatchNorm: the first ones fill it up.
        return torch.cat([order, order[: -len(order) % self._recipe.batch_size]])

    def _train_on(self, images: torch.Tensor) -> list[float]:
        """int64 [n] → the losses of their batches."""
        device = self._classifier.mean.device
        share = distributed.share(len(images), self._recipe.batch_size, distributed.rank(), distributed.world_size())
        ours = images[share.positions]
        targets = self._examples.labels[ours].to(device)
        pixels = self._augment(self._pixels(ours), images, self.epoch, share.positions)
        inputs = self._classifier.normalise(pixels)
        batches = zip(torch.split(inputs, share.sizes), torch.split(targets, share.sizes), share.weights, strict=True)
        return self._update(batches)

    def _pixels(self, images: torch.Tensor) -> torch.Tensor:
        """int64 [n] → uint8 [n, H, W, 3], on the device."""
        pixels = self._examples.pixels
        return pixels[images.to(pixels.device)].to(self._classifier.mean.device)

    def _validate(self) -> float | None:
        """The accuracy on the validation images, where there are any."""
        labels, validation = self._examples.labels, self._examples.validation
        if not len(validation):
            return None
        self._classifier.eval()
        # One look at each: more would take as long as the epoch, for a curve.
        logits = logits_of(self._classifier, self._examples.pixels, validation, one_view=True)
        self._classifier.train()
        return accuracy(logits, labels[validation])

    def _report(self, losses: list[float], on_loss: OnLoss) -> None:
        every = self._recipe.report_every
        for loss in losses:
            self._losses.append(loss)
            if every and len(self._losses) % every == 0:
                on_loss(self.epoch, len(self._losses), fmean(self._losses[-every:]))


def _on_device_if_it_fits(pixels: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copied to the device if that fills at most half of its free memory; else unchanged, and sent window by window."""
    if device.type == "cpu" or pixels.nbytes > _free_bytes(device) / 2:
        return pixels
    near = torch.empty(pixels.shape, dtype=pixels.dtype, device=device)
    for start in range(0, len(pixels), _WINDOW_IMAGES):  # at once they would first be gathered in the CPU's memory
        near[start : start + _WINDOW_IMAGES] = pixels[start : start + _WINDOW_IMAGES]
    return near


def _free_bytes(gpu: torch.device) -> int:
    if gpu.type == "cuda":
        return torch.cuda.mem_get_info(gpu)[0]
    return torch.mps.recommended_max_memory()


def _refuse_divergence(losses: list[float], epoch: int, recipe: Recipe) -> None:
    if not math.isfinite(sum(losses)):
        field = "muon_learning_rate" if recipe.optimizer == "muon" else "learning_rate"
        raise TrainingError(
            f"the training failed: the loss became {sum(losses)} in epoch {epoch}. Try another --seed, or a "
            f"--{field.replace('_', '-')} below {getattr(recipe, field):g}"
        )
