"""What further views of an image cost and gain, where no answers are averaged over them, the unsure ones, or all.

    CIFAR_DATA=data python -m benchmarks.views [CHECKPOINT.pth]

It scores the images that the checkpoint was validated with, since the setting is chosen by them. The settings take
turns, batch by batch, on one core and as a worker runs the network; the images of a batch are drawn at random.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.images import cifar10_folder
from models.card import STRONG
from models.checkpoint import load
from models.classifier import Classifier
from server.forward import make_forward
from training.data import load_folder, split_validation
from training.evaluation import evaluate

_BELOW = (0, 0.6, 0.7, 0.8, 0.9, 0.95, 1)  # settings: answers with less confidence are averaged
_BATCH = 64


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.views", description="What further views bring.")
    parser.add_argument("checkpoint", nargs="?", type=Path, default=STRONG, help="default: strong, which ships")
    parser.add_argument("--batches", type=int, default=40, help="batches of 64 images for each setting (%(default)s)")
    options = parser.parse_args(argv)
    data = load_folder(cifar10_folder(), size=32)
    classifiers = {below: averaging(options.checkpoint, below) for below in _BELOW}
    training = classifiers[0].card.training
    _, images = split_validation(data, float(training.recipe.get("validation", 0)) if training else 0)
    if not len(images):
        fault = f"{options.checkpoint} was trained without validation images: name another checkpoint"
        print(f"benchmarks.views: {fault}", file=sys.stderr)
        return 1
    rates = images_per_s(classifiers, data.pixels[images], options.batches)
    print(f"{options.checkpoint.name}: {len(images)} images; one of {os.cpu_count()} cores, batches of {_BATCH}")
    print(f"{'below':>6} {'right':>8} {'ECE':>6} {'images/s':>9}")
    for below, classifier in classifiers.items():
        scores = evaluate(classifier, data.pixels, data.labels, images, data.name)
        print(f"{below:>6} {scores.accuracy:8.2%} {scores.calibration_error:6.3f} {rates[below]:9,.0f}", flush=True)
    return 0


def averaging(checkpoint: Path, below: float) -> Classifier:
    """The classifier, which averages answers with less confidence than `below` over further views."""
    classifier = load(checkpoint)
    classifier.card = classifier.card.model_copy(update={"tta_below": below})
    return classifier


def images_per_s(classifiers: dict[float, Classifier], pixels: torch.Tensor, batches: int) -> dict[float, float]:
    """uint8 [N, 32, 32, 3] → images a second by each setting, the median over at most so many batches."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    forwards = {below: make_forward(each, torch.device("cpu"), "eager", 1) for below, each in classifiers.items()}
    rates: dict[float, list[float]] = {below: [] for below in classifiers}
    for images in torch.split(torch.randperm(len(pixels))[: batches * _BATCH], _BATCH):
        batch = pixels[images].numpy()
        for below, forward in forwards.items():
            started = time.perf_counter()
            forward(batch)
            rates[below].append(len(batch) / (time.perf_counter() - started))
    torch.set_num_threads(threads)
    return {below: statistics.median(each) for below, each in rates.items()}


if __name__ == "__main__":
    sys.exit(main())
