"""Is the service as accurate as the notebook, and what does going through it cost? All test images, both ways.

    CIFAR_DATA=data python -m benchmarks.evaluation

In process: read, decode and classify in one loop. Through the service: cifar-evaluate against a cifar-serve of its own.
They take turns, so that a machine that slows down slows down both; the results are medians.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.images import cifar10_folder
from models.card import TUTORIAL_NET
from models.checkpoint import load
from models.pixels import decode
from tests.integration.running import running_service

_BATCH_SIZE = 64


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description="In process, and over HTTP.")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, for the median (default: %(default)s)")
    options = parser.parse_args(argv)
    data = cifar10_folder()
    files = sorted((data / "test").glob("*/*"))
    in_process_s, through_service_s = [], []
    with (
        tempfile.TemporaryDirectory() as folder,
        running_service(Path(folder), "--checkpoint", str(TUTORIAL_NET)) as service,
    ):
        for _ in range(options.rounds):
            seconds, labels = classify_in_process(files)
            in_process_s.append(seconds)
            seconds, served = evaluate_through_service(data, service.url)
            through_service_s.append(seconds)
    expected = {str(path.relative_to(data)): label for path, label in zip(files, labels, strict=True)}
    different = sum(served[name] != label for name, label in expected.items())
    right = sum(path.parent.name == label for path, label in zip(files, labels, strict=True))
    local, remote = statistics.median(in_process_s), statistics.median(through_service_s)
    print(f"{len(files):,} images, median of {options.rounds} rounds ({os.cpu_count()} cores):")
    print(f"in process           {local:5.2f} s  {len(files) / local:6,.0f} images/s  {right / len(files):.2%} right")
    print(f"through the service  {remote:5.2f} s  {len(files) / remote:6,.0f} images/s  {different} predictions differ")
    print(f"through the service takes {remote / local:.2f} times as long")
    return 0


def classify_in_process(files: Sequence[Path]) -> tuple[float, list[str]]:
    """Seconds, and the label of every file, as a plain loop over the checkpoint gives them."""
    classifier = load(TUTORIAL_NET)
    classes, size = classifier.card.classes, classifier.card.input_size
    labels: list[str] = []
    started = time.perf_counter()
    with torch.inference_mode():
        for start in range(0, len(files), _BATCH_SIZE):
            pixels = np.stack([decode(path.read_bytes(), size) for path in files[start : start + _BATCH_SIZE]])
            labels += [classes[index] for index in classifier(torch.tensor(pixels)).argmax(dim=1).tolist()]
    return time.perf_counter() - started, labels


def evaluate_through_service(data: Path, url: str) -> tuple[float, dict[str, str]]:
    """Seconds, and the label of every file, as cifar-evaluate reports them."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [Path(sys.executable).parent / "cifar-evaluate", "--data", data, "--url", url, "--json", report]
        subprocess.run([str(word) for word in command], check=True, capture_output=True)
        content = json.loads(report.read_text())
    return content["seconds"], {entry["file"]: entry["label"] for entry in content["predictions"]}


if __name__ == "__main__":
    sys.exit(main())
