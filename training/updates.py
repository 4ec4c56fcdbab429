"""How the weights change: the loss, the optimizers, their schedule, and the precision of the arithmetic."""

import copy
import inspect
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from models.classifier import Classifier, autocast
from training import batch_norm, distributed
from training.errors import first_line
from training.execution import forward_and_backward
from training.muon import Muon
from training.recipe import Recipe

_RISE = 0.2  # the part of the updates in which a triangle's learning rate rises
_INITIAL_LOSS_SCALE = 1024.0  # of float16 gradients: torch's own 65536 overflows at first, which skips updates

Optimizer = TypeVar("Optimizer", bound=torch.optim.Optimizer)


class Updates:
    """The `count` updates of a run by `recipe` on images of these `labels`; each is one step of the optimizers."""

    def __init__(self, classifier: Classifier, recipe: Recipe, count: int, labels: torch.Tensor) -> None:
        self._recipe, self._device = recipe, classifier.mean.device
        batch_norm.synchronise(classifier.net, self._device)
        net = compiled(classifier, recipe) if recipe.compile else classifier.net
        self._net = distributed.data_parallel(net, self._device)  # the last, so that each can do without compiling
        self._criterion = make_criterion(recipe, labels.to(self._device))
        self._optimizers = make_optimizers(classifier.net, recipe)
        factor = partial(learning_rate_factor, recipe, count)
        self._schedules = [LambdaLR(optimizer, factor) for optimizer in self._optimizers]
        scaled = recipe.precision == "float16"  # its smallest numbers would be 0 unscaled
        for optimizer in self._optimizers:
            optimizer._opt_called = True  # type: ignore[attr-defined]  # LambdaLR warns where the first step is skipped
        self._scaler = torch.amp.GradScaler(self._device.type, _INITIAL_LOSS_SCALE, enabled=scaled)

    @property
    def learning_rate(self) -> float:
        return float(self._schedules[-1].get_last_lr()[-1])

    def __call__(self, batches: Iterable[tuple[torch.Tensor, torch.Tensor, float]]) -> list[float]:
        """One update for each batch of inputs, float32 [B, 3, H, W], and of targets; returns their losses.

        Of several processes each gives its share of a batch, with its weight among the others (else 1).
        """
        losses = []
        for inputs, targets, weight in batches:
            for optimizer in self._optimizers:
                optimizer.zero_grad()
            with autocast(self._device, self._recipe.precision):
                outputs = self._net(inputs)
            loss = self._criterion(outputs.float(), targets)
            if weight != 1:
                loss = loss * weight
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            for optimizer, schedule in zip(self._optimizers, self._schedules, strict=True):
                self._scaler.step(optimizer)
                schedule.step()
            self._scaler.update()
            losses.append(loss.detach())  # read below: reading it here would wait for the device at every step
        read: list[float] = (distributed.all_reduce_sum(torch.stack(losses)) / distributed.world_size()).tolist()
        return read

    @property
    def _parts(self) -> tuple[Any, ...]:
        return *self._optimizers, *self._schedules, self._scaler

    def state(self) -> list[dict[str, Any]]:
        """Plain values and tensors, for `restore`."""
        return [part.state_dict() for part in self._parts]

    def restore(self, state: list[dict[str, Any]]) -> None:
        for part, saved in zip(self._parts, state, strict=True):
            if saved:  # nothing of a scaler that was not needed where the run began
                part.load_state_dict(saved)
        for optimizer in self._optimizers:  # whose kernels ask for the layout of the weights, another on other machines
            for parameter, values in optimizer.state.items():
                for name, value in values.items():
                    if value.shape == parameter.shape:
                        values[name] = torch.empty_like(parameter).copy_(value)


def make_criterion(recipe: Recipe, labels: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Logits float32 [B, C] and classes int64 [B] → the mean loss; `labels` are those of all training images."""
    smoothing = recipe.label_smoothing
    if not recipe.weighted_loss:
        return nn.CrossEntropyLoss(label_smoothing=smoothing)
    images_of = torch.bincount(labels)
    weights = len(labels) / (len(images_of) * images_of)  # 1 in the mean over all images: the loss keeps its scale

    def criterion(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        # Not with CrossEntropyLoss's own weights: it divides by their sum over the batch, which takes them back where
        # a batch is of one class, and with label smoothing it also weighs the classes that an image is not of.
        losses = F.cross_entropy(outputs, targets, reduction="none", label_smoothing=smoothing)
        return (losses * weights[targets]).mean()

    return criterion


def make_optimizers(net: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """The recipe's optimizer; with muon two: sgd, then muon for the parameters of two dimensions or more."""
    rate, decay, factor = recipe.learning_rate, recipe.weight_decay, recipe.norm_bias_factor
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._NormBase)]
    biases = [norm.bias for norm in norms if norm.bias is not None]
    by_muon = []
    if recipe.optimizer == "muon":
        by_muon = [weight for weight in net.parameters() if weight.requires_grad and weight.dim() > 1]
    apart = {*biases, *by_muon}
    # SGD decays a weight by learning rate × weight decay: divided by the factor, these biases decay like all else.
    groups: list[dict[str, Any]] = [
        {"params": biases, "lr": rate * factor, "weight_decay": decay / factor},
        {"params": [parameter for parameter in net.parameters() if parameter not in apart]},
    ]
    nesterov = recipe.nesterov and recipe.momentum > 0  # torch refuses it without momentum
    if recipe.optimizer == "adam":
        return [uncompiled(torch.optim.Adam)(groups, rate, weight_decay=decay, fused=True)]
    sgd = uncompiled(torch.optim.SGD)(groups, rate, recipe.momentum, weight_decay=decay, nesterov=nesterov, fused=True)
    if recipe.momentum:  # of all weights from the start: the fused kernel fails where some have no gradient at first
        for weight in (weight for group in sgd.param_groups for weight in group["params"]):
            sgd.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
    if not by_muon:
        return [sgd]
    muon = uncompiled(Muon)(by_muon, recipe.muon_learning_rate, recipe.muon_weight_decay)
    for_sgd = any(parameter.requires_grad for group in groups for parameter in group["params"])
    return [sgd, muon] if for_sgd else [muon]  # a scaler refuses an optimizer that has nothing to do


def uncompiled(optimizer: type[Optimizer]) -> type[Optimizer]:
    """The same class, without what keeps torch.compile out of its methods.

    That imports all of torch.compile when the first of them is called, which takes longer than to import torch.
    """
    guarded = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    methods = {name: inspect.unwrap(getattr(optimizer, name)) for name in guarded}
    step = torch.no_grad()(inspect.unwrap(optimizer.step))
    return type(optimizer.__name__, (optimizer,), {**methods, "step": step})


def learning_rate_factor(recipe: Recipe, updates: int, done: int) -> float:
    """What the recipe's learning rate is multiplied by when so many of its `updates` are done."""
    if recipe.schedule == "constant":
        return 1.0
    rise = _RISE * updates
    return min((done + 1) / rise, 1.0, (updates - done) / (updates - rise))


def compiled(classifier: Classifier, recipe: Recipe) -> nn.Module:
    """By torch.compile; where that fails here (it needs a C++ compiler, or Triton), the network as it is, saying so."""
    net: Any = torch.compile(classifier.net)
    size = classifier.card.input_size
    batch_size = math.ceil(recipe.batch_size / distributed.world_size())
    before = copy.deepcopy(classifier.net.state_dict())
    inputs = classifier.normalise(torch.zeros(batch_size, size, size, 3, dtype=torch.uint8).to(classifier.mean.device))
    try:
        forward_and_backward(net, inputs, recipe.precision)
    except Exception as error:  # whatever its many parts raise
        distributed.say(f"Training without --compile, since torch.compile fails here: {first_line(error)}")
        return classifier.net
    finally:
        classifier.net.load_state_dict(before)  # what the trial did to normalisations
        classifier.net.zero_grad()
    return net  # type: ignore[no-any-return]
