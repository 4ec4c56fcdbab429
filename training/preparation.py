"""What comes before a training: what would make it fail is found now, and the network gets its first weights."""

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn
from torch.nn.parameter import is_lazy

from models.architectures import ArchitectureError, build
from models.card import ModelCard, find_checkpoint
from models.checkpoint import CheckpointError, card_path, load
from models.classifier import Classifier, supports
from training import distributed
from training.data import Data
from training.distributed import say
from training.errors import TrainingError, first_line, is_out_of_memory
from training.execution import backward
from training.folder import first_few
from training.options import Options, held_out_path, resume_path
from training.recipe import Recipe
from training.updates import make_optimizers

_INITIALISE_BY = 5000  # training images of 32×32 at most
_ADAMS_HIGHEST_RATE = 0.1  # a hundred times torch's own


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one, else MPS, else the CPU. Raises TrainingError for a device that is not here."""
    name = distributed.own_device(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise TrainingError(f"there is no {name} here ({torch.cuda.device_count()} CUDA devices): try --device auto")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise TrainingError("there is no mps here (it is Apple's GPU): try --device auto")
    return device


def check_writable(options: Options) -> None:
    """Raises TrainingError now rather than after the training. Makes the folders of what will be written."""
    if options.promote and card_path(options.promote).resolve() == card_path(options.output).resolve():
        raise TrainingError(
            f"--promote {options.promote} and --output {options.output} would have the same model card, "
            f"{card_path(options.output)}: give --output another name"
        )
    if distributed.rank() > 0:  # the first process alone writes
        return
    output = options.output
    _check_writable("--output", output, card_path(output), held_out_path(output), resume_path(output))
    if options.promote:
        _check_writable("--promote", options.promote, card_path(options.promote))


def _check_writable(flag: str, path: Path, *others: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise TrainingError(f"{path} cannot be written: {error.strerror} ({path.parent})") from None
    for other in others:
        if other.is_dir():
            raise TrainingError(f"{other} is a folder, and the run would write a file there: choose another {flag}")


def in_precision_of(device: torch.device, recipe: Recipe) -> Recipe:
    """The recipe, in float32 where the device would only imitate its precision, which takes longer; says so."""
    if supports(device.type, recipe.precision):
        return recipe
    say(f"This {device.type} has no {recipe.precision}: training in float32")
    return replace(recipe, precision="float32")


def check_network(recipe: Recipe, start: Classifier | None) -> None:
    """Raises TrainingError now rather than after the reading: by an update and an answer for blank images."""
    name, size, count = recipe.architecture, recipe.image_size, min(2, recipe.batch_size)
    inputs = torch.zeros(count, 3, size, size)
    try:
        net = build(name, num_classes=2, **(start.card.arguments if start else {})).train()
        outputs = net(inputs)
        _check_outputs(name, outputs, count)
        _try_update(net, outputs, recipe)
        with torch.no_grad():
            outputs = net.eval()(inputs)
        _check_outputs(name, outputs, count)
        if (outputs >= 0).all() and torch.allclose(outputs.float().sum(dim=1), torch.ones(count)):
            say(f"The answers of {name} add up to 1: leave softmax out of it, since the loss and the service apply it")
        if odd := [key for key, value in net.state_dict().items() if not isinstance(value, torch.Tensor)]:
            raise TrainingError(f"{name} has {odd[0]} in its state_dict, which is no tensor: no checkpoint can hold it")
    except ArchitectureError as error:
        raise TrainingError(str(error)) from None
    except Exception as error:  # of a network that a user wrote
        if isinstance(error, TrainingError) or is_out_of_memory(error):
            raise
        if "Expected more than 1" in str(error):  # BatchNorm's, of one image whose map has shrunk to one pixel
            raise TrainingError(f"{error}: choose another --batch-size, or a larger --image-size") from None
        if isinstance(error, RuntimeError):
            raise TrainingError(
                f"{name} cannot take images of {size} pixels a side ({first_line(error)}): "
                "choose another --image-size, or another --architecture"
            ) from None
        raise TrainingError(f"{name} fails: {type(error).__name__}: {error}") from None


def _check_outputs(name: str, outputs: object, count: int) -> None:
    if not isinstance(outputs, torch.Tensor):
        raise TrainingError(f"{name} answers with a {type(outputs).__name__}: it must return the logits alone")
    if not outputs.is_floating_point():
        raise TrainingError(f"{name} answers with {outputs.dtype}: its logits must be of floating point")
    if outputs.shape != (count, 2):
        raise TrainingError(
            f"{name} answers {count} images with an array of {tuple(outputs.shape)}, where num_classes=2 "
            f"asks for ({count}, 2): give its last layer num_classes outputs"
        )


def _try_update(net: nn.Module, outputs: torch.Tensor, recipe: Recipe) -> None:
    try:
        backward(outputs)
        for optimizer in make_optimizers(net, recipe):
            optimizer.step()
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise TrainingError(
            f"{recipe.architecture} cannot be trained by {recipe.optimizer} ({first_line(error)}): "
            "its weights must be of floating point, not all frozen, and its answers must depend on them"
        ) from None
    unused = [name for name, weight in net.named_parameters() if weight.requires_grad and weight.grad is None]
    if unused and distributed.world_size() > 1:
        raise TrainingError(
            f"{first_few(3, unused)} of {recipe.architecture} has no part in its answers, which several processes "
            "cannot train: remove it, or freeze it by requires_grad_(False)"
        )


def check_recipe(recipe: Recipe) -> None:
    """Raises TrainingError where fields do not go together."""
    size, rate = recipe.image_size, recipe.learning_rate * max(1, recipe.norm_bias_factor)
    if recipe.translate >= size:
        raise TrainingError(f"--translate {recipe.translate} shifts images of {size} pixels out of sight: choose less")
    if recipe.cutout >= size:
        raise TrainingError(f"--cutout {recipe.cutout} may grey out all of an image of {size} pixels: choose less")
    if recipe.optimizer == "adam" and rate >= _ADAMS_HIGHEST_RATE:
        raise TrainingError(
            f"adam's learning rate would be {rate:g} (--learning-rate times --norm-bias-factor), far too high: "
            "add --learning-rate 0.001 --norm-bias-factor 1, or something near it"
        )


def weights_to_start_from(recipe: Recipe) -> Classifier | None:
    """The classifier in `--weights`, if given. Raises TrainingError where it cannot be loaded or is another network."""
    if not recipe.weights:
        return None
    try:
        start = load(find_checkpoint(Path(recipe.weights)))
    except CheckpointError as error:
        raise TrainingError(f"--weights: {error}") from None
    if (theirs := start.card.architecture) != recipe.architecture:
        raise TrainingError(
            f"--weights: {recipe.weights} is of the architecture {theirs}, and this recipe trains "
            f"{recipe.architecture}: add --architecture {theirs}, or choose other weights"
        )
    return start


def tell_of_known_images(start: Classifier | None, data: Data, validation: torch.Tensor) -> None:
    """Where the weights to start from were trained on images to validate or to test with, or may have been."""
    if not start:
        return
    before, too_well = start.card.training, "they score too well, and confidence comes out too high"
    if not before:
        say(
            f"Nothing says what the weights to start from were trained on: if on images that are scored too, {too_well}"
        )
    elif before.data_fingerprint != data.fingerprint:
        say(f"The weights to start from were trained on {before.data}: where its images are scored too, {too_well}")
    elif before.validation_images < len(validation):
        seen = len(validation) - before.validation_images
        say(f"The weights to start from were trained on {seen} of the {len(validation)} validation images: {too_well}")


def make_classifier(
    recipe: Recipe, data: Data, images: torch.Tensor, seed: int, start: Classifier | None = None
) -> Classifier:
    """On the CPU, with its first weights: those of `start`, or new ones, for which some networks look at `images`,
    those to train on. Raises TrainingError."""
    arguments = start.card.arguments if start else {}
    torch.manual_seed(seed)
    net = build(recipe.architecture, num_classes=len(data.classes), **arguments)
    try:
        card = ModelCard(
            architecture=recipe.architecture,
            arguments=arguments,
            classes=data.classes,
            input_size=recipe.image_size,
            tta_below=recipe.tta_below,
            precision=recipe.precision,
            **_normalisation(net, start),
        )
    except ValidationError as error:
        raise TrainingError(f"{recipe.architecture} has a mean or std that no card can hold: {error}") from None
    classifier = Classifier(net, card)
    # Such as of nn.LazyLinear, whose inputs are counted when it sees some.
    if any(map(is_lazy, (*net.parameters(), *net.buffers()))):
        with torch.no_grad():
            classifier.eval().one_view(data.pixels[:1])
    if start:
        own, state = net.state_dict(), start.net.state_dict()
        # Of another number of classes, the last layer does not fit and begins anew.
        fitting = {name: value for name, value in state.items() if value.shape == own[name].shape}
        net.load_state_dict(fitting, strict=False)
    elif hasattr(net, "initialise"):
        _initialise(classifier, data, images)
    return classifier


def _normalisation(net: nn.Module, start: Classifier | None) -> dict[str, Any]:
    """What the weights to start from have learnt with, if it is not the tutorial's: for the card."""
    source = start.card if start else type(net)  # of the class: a buffer of this name is the network's own affair
    return {name: getattr(source, name) for name in ("mean", "std") if hasattr(source, name)}


def _initialise(classifier: Classifier, data: Data, images: torch.Tensor) -> None:
    """Some architectures start from other weights than drawn ones."""
    count = min(len(images), max(1, _INITIALISE_BY * 32**2 // classifier.card.input_size**2))
    some = images[torch.linspace(0, len(images) - 1, count).long()]  # evenly: a folder's images are sorted by class
    try:
        with torch.no_grad():
            classifier.net.initialise(classifier.normalise(data.pixels[some]))  # type: ignore[operator]
    except OSError as error:
        raise TrainingError(
            f"the weights to start from could not be downloaded ({error}): try again, or choose another architecture"
        ) from None
    except Exception as error:  # of a network that a user wrote
        if is_out_of_memory(error):
            raise
        name = classifier.card.architecture
        raise TrainingError(f"{name}.initialise fails: {type(error).__name__}: {error}") from None
