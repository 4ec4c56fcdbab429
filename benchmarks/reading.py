"""Does the time of reading and of training grow in proportion to the images? Beside a DataLoader in the same run.

    CIFAR_DATA=data python -m benchmarks.reading

Each row is a folder of links to some of CIFAR-10's images. Both decode the same files, in as many processes.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from benchmarks.images import cifar10_folder
from training.data import Data, load_folder
from training.loop import Examples, train
from training.preparation import make_classifier
from training.recipe import TUTORIAL

Result = TypeVar("Result")
_WARM_UP = 1000  # images
_COLUMNS = ("DataLoader", "first time", "cached", "one epoch")


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reading", description="Seconds for 1x, 2x, 4x images.")
    parser.add_argument("--images", type=int, default=15_000, help="1x; then 2x and 4x as many (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, for the median (default: %(default)s)")
    options = parser.parse_args(argv)
    data = cifar10_folder()
    files = sorted(data.glob("*/*/*.jpg"))
    counts = [options.images, 2 * options.images, 4 * options.images]
    if counts[-1] > len(files):
        wanted = f"{counts[-1]:,} images are needed, and {data} has {len(files):,}"
        print(f"benchmarks.reading: {wanted}: lower --images", file=sys.stderr)
        return 1
    measure(files, _WARM_UP)  # imports what each of them needs
    rounds = [[measure(files, count) for count in counts] for _ in range(options.rounds)]
    rows = [[statistics.median(times) for times in zip(*rows, strict=True)] for rows in zip(*rounds, strict=True)]
    print(f"seconds, median of {options.rounds} rounds ({os.cpu_count()} cores)")
    print(f"{'images':>8}  " + "  ".join(f"{column:>10}" for column in _COLUMNS))
    for count, row in zip(counts, rows, strict=True):
        print(f"{count:8,}  " + "  ".join(f"{each:10.2f}" for each in row))
    ratios = (last / (4 * first) for first, last in zip(rows[0], rows[-1], strict=True))
    print("/ linear  " + "  ".join(f"{ratio:10.2f}" for ratio in ratios))  # last row / (4 x first row)
    return 0


def measure(files: Sequence[Path], count: int) -> tuple[float, ...]:
    """Seconds of a DataLoader's pass, our first reading, our second (cached), and an epoch of the tutorial's recipe."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        root = link(files, count, Path(folder, "images"))
        loader, _ = seconds(lambda: read_by_data_loader(root))
        first, data = seconds(lambda: load_folder(root, size=32))
        cached, _ = seconds(lambda: load_folder(root, size=32))
        epoch, _ = seconds(lambda: train_an_epoch(data))
    return loader, first, cached, epoch


def link(files: Sequence[Path], count: int, root: Path) -> Path:
    """Fills `root` with links to `count` of the files, evenly spread over all of them. Returns it."""
    for number in range(count):
        path = files[number * len(files) // count]
        (root / path.parent.name).mkdir(parents=True, exist_ok=True)
        (root / path.parent.name / f"{path.parents[1].name}-{path.name}").symlink_to(path)
    return root


def seconds(work: Callable[[], Result]) -> tuple[float, Result]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def read_by_data_loader(root: Path) -> None:
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import PILToTensor

    for _ in DataLoader(ImageFolder(root, PILToTensor()), batch_size=256, num_workers=os.cpu_count() or 1):
        pass


def train_an_epoch(data: Data) -> None:
    every = torch.arange(len(data.labels))
    recipe = replace(TUTORIAL, epochs=1)
    classifier = make_classifier(recipe, data, every, seed=0)
    train(classifier, Examples(data.pixels, data.labels, every), recipe, seed=0, on_loss=lambda *_: None)


if __name__ == "__main__":
    sys.exit(main())
