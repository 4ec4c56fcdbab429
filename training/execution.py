"""How this machine runs a training step fastest: threads, kernels and memory format, found by trying."""

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, NamedTuple

import torch
from torch import nn

from models.classifier import Classifier, autocast
from training import distributed
from training.recipe import Recipe

_FEW_IMAGES = 16
_TRIAL_IMAGES = 128  # at most: what is faster for them is so for more
_SHORT_STEP_S, _LONG_STEP_S = 0.02, 0.1
_TRIALS, _TRIALS_S = 8, 0.5  # for each candidate; a slow one shows itself at once


class Execution(NamedTuple):
    """CPU threads of torch, whether it uses oneDNN (on the CPU), and whether the memory format is channels last."""

    threads: int
    onednn: bool
    channels_last: bool


# Waking a second thread costs about what it saves on a few images, and more where the other cores are busy; so does
# oneDNN's set-up of every convolution.
_SMALL_BATCHES = Execution(threads=1, onednn=False, channels_last=False)


@contextmanager
def fastest_execution(
    classifier: Classifier, recipe: Recipe, before_stop: Execution | None = None
) -> Iterator[Execution]:
    """Sets PyTorch up to run the recipe's steps fast and reproducibly; at the end everything is as before."""
    before = Execution(torch.get_num_threads(), bool(torch.backends.mkldnn.enabled), channels_last=False)
    deterministic = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True  # cuDNN's fastest kernels add in a random order
    try:
        chosen = distributed.broadcast_from_first(before_stop or choose(classifier, recipe))
        _apply(chosen, classifier.net)
        yield chosen
    finally:
        _apply(before, classifier.net)
        torch.backends.cudnn.deterministic = deterministic


def chosen_before(state: dict[str, Any] | None, device: torch.device) -> Execution | None:
    """That of a run's saved state, where this machine can go on with it; says so where it cannot."""
    if not state:
        return None
    execution = Execution(*state["execution"])
    if state.get("device") == device.type and execution.threads <= torch.get_num_threads():
        return execution
    distributed.say("This run began on another machine: its result may differ")
    return None


def choose(classifier: Classifier, recipe: Recipe) -> Execution:
    # On MPS the gradients of BatchNorm and MaxPool are wrong that way, or crash (pytorch issues 175189 and 175190).
    channels_last = classifier.mean.device.type != "mps" and takes_channels_last(classifier)
    all_cores = Execution(torch.get_num_threads(), onednn=True, channels_last=channels_last)
    one_core = all_cores._replace(threads=1)
    if classifier.mean.device.type != "cpu":
        return all_cores
    batch_size = math.ceil(recipe.batch_size / distributed.world_size())
    # Two at least: of one, BatchNorm has nothing to compare, if it is not over all processes, as here.
    count, size = min(max(batch_size, 2), _TRIAL_IMAGES), classifier.card.input_size
    pixels = torch.zeros((count, size, size, 3), dtype=torch.uint8)
    seconds = cache(partial(_seconds, classifier, pixels))
    few = batch_size <= _FEW_IMAGES and recipe.precision == "float32"
    if few and seconds(_SMALL_BATCHES) < _SHORT_STEP_S:
        return _SMALL_BATCHES  # without comparing, so that a seed gives the same bytes every time
    if seconds(all_cores) >= _LONG_STEP_S:
        return all_cores  # even if others use some of them now
    return min((all_cores, one_core, _SMALL_BATCHES), key=seconds)


@torch.no_grad()
def takes_channels_last(classifier: Classifier) -> bool:
    """Whether the network runs that way, which is the fastest; one that flattens by `view` does not.

    No copy runs: before one look without gradients, a network with torch's older `weight_norm` cannot be copied.
    """
    net, size = classifier.net.eval(), classifier.card.input_size
    blank = torch.zeros(1, size, size, 3, dtype=torch.uint8, device=classifier.mean.device)
    try:
        net.to(memory_format=torch.channels_last)  # fails where a weight has five dimensions
        net(classifier.normalise(blank))
    except RuntimeError:
        return False
    finally:
        net.train().to(memory_format=torch.contiguous_format)
    return True


def _apply(execution: Execution, net: nn.Module) -> None:
    torch.set_num_threads(execution.threads)
    torch.backends.mkldnn.enabled = execution.onednn  # type: ignore[assignment]  # a property of the module
    net.to(memory_format=torch.channels_last if execution.channels_last else torch.contiguous_format)


def _seconds(classifier: Classifier, pixels: torch.Tensor, execution: Execution) -> float:
    """For one step, at best; of a copy, and with its own draws, so that trying leaves no trace."""
    trial = copy.deepcopy(classifier)
    _apply(execution, trial.net)
    inputs = trial.normalise(pixels)
    trials: list[float] = []
    give_up_at = time.perf_counter() + _TRIALS_S
    with torch.random.fork_rng(devices=[]):
        while len(trials) < 2 or (len(trials) < _TRIALS and time.perf_counter() < give_up_at):
            started = time.perf_counter()
            forward_and_backward(trial.net, inputs, classifier.card.precision)
            trials.append(time.perf_counter() - started)
    return min(trials)


def forward_and_backward(net: nn.Module, inputs: torch.Tensor, precision: str) -> None:
    """The network's part of an update, on float32 [B, 3, H, W]: only its statistics and its gradients change."""
    with autocast(inputs.device, precision):
        outputs = net(inputs)
    backward(outputs)


def backward(outputs: torch.Tensor) -> None:
    """The gradients of a loss that needs no targets, for outputs [B, C] of any precision."""
    outputs.float().logsumexp(dim=1).mean().backward()  # type: ignore[no-untyped-call]
