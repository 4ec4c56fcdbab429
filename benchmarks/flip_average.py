"""What a second look, at the mirror image, costs and gains: where no answer gets one, the unsure ones, or all of them.

    CIFAR_DATA=data python -m benchmarks.flip_average [CHECKPOINT.pth]

The settings take turns, batch by batch, on one core and as a worker runs the network; the images are drawn at random.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from models.card import STRONG
from models.checkpoint import load
from models.classifier import Classifier
from server.forward import make_forward
from training.data import load_folder
from training.evaluation import accuracy

_BELOW = (0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1)  # the confidence of an answer that gets one
_BATCH = 64


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flip_average", description="What a second look brings.")
    parser.add_argument("checkpoint", nargs="?", type=Path, default=STRONG, help="default: the one that ships")
    parser.add_argument("--batches", type=int, default=40, help="of 64 images, for each setting (%(default)s)")
    options = parser.parse_args(argv)
    data = load_folder(Path(os.environ.get("CIFAR_DATA", "data")), size=32)
    pixels, labels = data.pixels[data.test], data.labels[data.test]
    right = accuracies(load(options.checkpoint), pixels, labels)
    rates = images_per_s({below: with_flips(options.checkpoint, below) for below in _BELOW}, pixels, options.batches)
    print(
        f"{options.checkpoint.name}: {len(data.test)} test images; one of {os.cpu_count()} cores, batches of {_BATCH}"
    )
    print(f"{'below':>6} {'right':>8} {'images/s':>9}")
    for below in _BELOW:
        print(f"{below:>6} {right[below]:8.2%} {rates[below]:9,.0f}")
    return 0


@torch.inference_mode()
def accuracies(classifier: Classifier, pixels: torch.Tensor, labels: torch.Tensor) -> dict[float, float]:
    """Of uint8 [N, 32, 32, 3] and int64 [N], by each setting: from the same two looks at every image."""
    classifier.net.to(memory_format=torch.channels_last)
    alone, mirrored = (
        torch.cat([classifier.once(batch) for batch in torch.split(each, 500)]) for each in (pixels, pixels.flip(2))
    )
    confidence = (alone / classifier.card.temperature).softmax(dim=1).amax(dim=1, keepdim=True)
    means = (alone + mirrored) / 2
    return {below: accuracy(torch.where(confidence < below, means, alone), labels) for below in _BELOW}


def with_flips(checkpoint: Path, below: float) -> Classifier:
    classifier = load(checkpoint)
    classifier.card = classifier.card.model_copy(update={"flip_average": below})
    return classifier


def images_per_s(classifiers: dict[float, Classifier], pixels: torch.Tensor, batches: int) -> dict[float, float]:
    """Of uint8 [N, 32, 32, 3], by each setting: the median over so many batches."""
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
