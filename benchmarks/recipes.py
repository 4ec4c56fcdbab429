"""What our recipes score and cost, over several seeds, beside airbench94 on the same images in the same hours.

    CIFAR_DATA=data python -m benchmarks.recipes --seeds 5 net-best fast

They take turns, seed by seed. Images are read before the clock starts; no test image was used to choose a recipe.
airbench94 runs beside a recipe with its network, and on the CPU alone: its published figures are a GPU's.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from benchmarks import airbench94
from benchmarks.images import cifar10_folder
from models.card import ModelCard
from models.classifier import Classifier
from training.data import Data, load_folder, split_validation
from training.evaluation import evaluate
from training.loop import Examples, train
from training.preparation import choose_device, in_precision_of, make_classifier
from training.recipe import RECIPES, Recipe
from training.run import describe_hardware


class Result(NamedTuple):
    accuracy: float
    averaged: float  # accuracy of the mean of six views of every image; airbench94 counts the unshifted ones twice
    seconds: float


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes", description="What recipes score and cost.")
    names = "recipes, with fields to change (default: net-best fast)"
    parser.add_argument("names", nargs="*", default=["net-best", "fast"], metavar="RECIPE[:FIELD=VALUE...]", help=names)
    parser.add_argument("--seeds", type=int, default=1, help="runs of each, with different seeds (%(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (%(default)s)")
    parser.add_argument("--device", default="cpu", help="where our recipes are trained (%(default)s)")
    options = parser.parse_args(argv)
    if unknown := {name.split(":")[0] for name in options.names} - set(RECIPES):
        parser.error(f"there is no recipe {', '.join(sorted(unknown))}: choose from {', '.join(RECIPES)}")
    device = choose_device(options.device)
    data = load_folder(cifar10_folder(), size=32)
    runs: dict[str, Callable[[int], Result]] = {name: recipe_run(name, data, device) for name in options.names}
    if device.type == "cpu" and any("airbench" in recipe_of(name).architecture for name in options.names):
        runs["airbench94"] = lambda seed: run_airbench94(data, seed)
    results: dict[str, list[Result]] = {name: [] for name in runs}
    for seed in range(options.first, options.first + options.seeds):
        for name, run in runs.items():
            results[name].append(run(seed))
            print(f"{name}, seed {seed}: {describe([results[name][-1]])}", flush=True)
    print(f"{describe_hardware(device)}, torch {torch.__version__}; {len(data.test)} test images")
    for name, found in results.items():
        print(f"{name:24} {describe(found)} (n = {len(found)})")
    return 0


def percent(values: Sequence[float]) -> str:
    """The mean of fractions, and their standard deviation where there are several."""
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{spread} %"


def describe(results: list[Result]) -> str:
    accuracy, averaged, seconds = (list(column) for column in zip(*results, strict=True))
    return f"{percent(accuracy)}, averaged {percent(averaged)}, {statistics.median(seconds):.0f} s"


def recipe_of(name: str) -> Recipe:
    """`net-best:epochs=170` is the recipe net-best with this field changed."""
    name, *changes = name.split(":")
    values: dict[str, Any] = dict(pair.split("=") for pair in changes)  # text, which the recipe converts
    return replace(RECIPES[name], **values)


def recipe_run(name: str, data: Data, device: torch.device) -> Callable[[int], Result]:
    recipe = in_precision_of(device, recipe_of(name))
    images, validation = split_validation(data, recipe.validation)

    def run(seed: int) -> Result:
        classifier = make_classifier(recipe, data, images, seed).to(device)
        card = classifier.card.model_copy(update={"tta_below": 0})
        examples = Examples(data.pixels, data.labels, images, validation)
        epochs = train(classifier, examples, recipe, seed, on_loss=lambda epoch, batch, loss: None)
        classifier.card = card
        plain = evaluate(classifier, data.pixels, data.labels, data.test, data.name).accuracy
        classifier.card = card.model_copy(update={"tta_below": 1})
        averaged = evaluate(classifier, data.pixels, data.labels, data.test, data.name).accuracy
        return Result(plain, averaged, epochs[-1].seconds)

    return run


def run_airbench94(data: Data, seed: int) -> Result:
    classifier = Classifier(airbench94.Net(), ModelCard())
    inputs = classifier.normalise(data.pixels)
    net, seconds = airbench94.train(inputs[data.train], data.labels[data.train], seed)
    return Result(*airbench94.accuracy(net, inputs[data.test], data.labels[data.test]), seconds)


if __name__ == "__main__":
    sys.exit(main())
