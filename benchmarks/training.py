"""How much faster our loop makes the tutorial's updates than the tutorial's script does, on the same data.

    CIFAR_DATA=data python -m benchmarks.training

The two take turns, so that a machine that slows down slows down both. The script decodes each image whenever an epoch
comes to it; we decode all of them once, before the loop, and the table says how long that took. At its end our run also
draws a report; that time is printed too.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import torch
from scipy.stats import ttest_ind

from benchmarks import literal_tutorial
from benchmarks.images import cifar10_folder
from benchmarks.recipes import percent
from models.card import TUTORIAL_NET
from models.checkpoint import load
from models.classifier import Classifier
from training.data import Data, load_folder
from training.evaluation import evaluate, logits_of, score
from training.history import Epoch
from training.loop import Examples, train
from training.preparation import make_classifier
from training.recipe import TUTORIAL, Recipe


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description="Our loop against the script's.")
    parser.add_argument(
        "--updates", type=int, default=3000, help="updates of each loop in each round, up to 12500 (%(default)s)"
    )
    parser.add_argument(
        "--rounds", type=int, default=3, help="runs of each loop, for the median (default: %(default)s)"
    )
    parser.add_argument("--seeds", type=int, default=0, help="also train both in full, with so many seeds, and compare")
    options = parser.parse_args(argv)

    started = time.perf_counter()
    data = load_folder(cifar10_folder(), size=32)
    reading_s = time.perf_counter() - started

    literal, ours = [], []
    for number in range(options.rounds):
        with redirect_stdout(sys.stderr):
            literal.append(options.updates / literal_tutorial.main(options.updates))
        ours.append(options.updates / train_ours(data, options.updates, seed=number))
    print(f"{options.updates} updates of 4 images, median of {options.rounds} rounds ({os.cpu_count()} cores):")
    print(f"{'loop':<18} {'updates/s':>9}  range")
    for name, rates in (("tutorial's script", literal), ("cifar-train", ours)):
        print(f"{name:<18} {statistics.median(rates):9.0f}  {min(rates):.0f} to {max(rates):.0f}")
    print(f"cifar-train is {statistics.median(ours) / statistics.median(literal):.1f} times as fast,")
    print(f"after {reading_s:.1f} s, once, for decoding {len(data.labels)} images")
    first, *others = (report_s(data) for _ in range(options.rounds + 1))
    print(f"a report takes {statistics.median(others):.1f} s, and {first:.1f} s with its imports")
    if options.seeds:
        compare_in_full(data, options.seeds)
    return 0


def train_ours(data: Data, updates: int, seed: int) -> float:
    """The seconds of so many updates, on images drawn from all of the training images."""
    drawn = data.train[torch.randperm(len(data.train))][: updates * TUTORIAL.batch_size]
    seconds, _ = _train(data, drawn, replace(TUTORIAL, epochs=1), seed)
    return seconds


def report_s(data: Data) -> float:
    """The seconds that a run's report takes, for the shipped network; the first time with its imports."""
    classifier = load(TUTORIAL_NET)
    logits = logits_of(classifier, data.pixels, data.test)
    card = classifier.card.model_copy(
        update={"scores": score(logits, data.labels[data.test], classifier.card, data.name)}
    )
    epochs = [Epoch(number, 1 / number, 0.1, None, number) for number in range(1, 31)]
    started = time.perf_counter()
    from training.report import Report

    with tempfile.TemporaryDirectory() as folder:
        report = Report(Path(folder))
        report.begin(classifier.net, Examples(data.pixels, data.labels, data.train), TUTORIAL, seed=0, resume=False)
        for epoch in epochs:
            report.add(epoch)
        assert report.finish(card, epochs, data, logits)
    return time.perf_counter() - started


def compare_in_full(data: Data, seeds: int) -> None:
    """Trains with both in full, and prints their accuracies, times and, with several seeds, a t-test's p-value."""
    runs: dict[str, list[tuple[float, float]]] = {"tutorial's script": [], "cifar-train": []}  # seconds, accuracy
    for seed in range(seeds):
        torch.manual_seed(seed)
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
            path = Path(folder) / "cifar_net.pth"
            seconds = literal_tutorial.main(path=str(path))
            runs["tutorial's script"].append((seconds, _accuracy(load(path), data)))
        seconds, classifier = _train(data, data.train, TUTORIAL, seed)
        runs["cifar-train"].append((seconds, _accuracy(classifier, data)))
    print(f"In full, {seeds} seeds, accuracy on {len(data.test)} test images:")
    accuracies = []
    for name, pairs in runs.items():
        all_seconds, accuracy = zip(*pairs, strict=True)
        accuracies.append(accuracy)
        print(f"{name:<18} {percent(accuracy)}, {statistics.median(all_seconds):.1f} s")
    if seeds > 1:
        print(f"Welch's t-test of equal means: p = {ttest_ind(*accuracies, equal_var=False).pvalue:.2f}")


def _accuracy(classifier: Classifier, data: Data) -> float:
    return evaluate(classifier, data.pixels, data.labels, data.test, data.name).accuracy


def _train(data: Data, images: torch.Tensor, recipe: Recipe, seed: int) -> tuple[float, Classifier]:
    classifier = make_classifier(recipe, data, images, seed)
    started = time.perf_counter()
    train(classifier, Examples(data.pixels, data.labels, images), recipe, seed, on_loss=lambda epoch, batch, loss: None)
    return time.perf_counter() - started, classifier


if __name__ == "__main__":
    sys.exit(main())
