"""Does cifar-score take the time that its images take, and its processes their share? Beside a plain loop.

    CIFAR_DATA=data python -m benchmarks.scoring

Each run scores a folder of links to some of CIFAR-10's images. In each round all of them take turns; medians count.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks.evaluation import classify_in_process
from benchmarks.reading import link
from models.card import TUTORIAL_NET
from tests.integration.running import proportional_bytes

_LOOK_S = 0.2  # how often memory is looked at


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scoring", description="Processes, images and memory.")
    parser.add_argument("--images", type=int, default=10_000, help="1x; then 6x (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="how often; the median counts (%(default)s)")
    options = parser.parse_args(argv)
    files = sorted(Path(os.environ.get("CIFAR_DATA", "data")).resolve().glob("*/*/*.jpg"))
    few, many = options.images, 6 * options.images
    if many > len(files):
        print(f"benchmarks.scoring: {len(files)} images are too few: name their folder in CIFAR_DATA", file=sys.stderr)
        return 1
    runs = [(count, workers) for count in (few, many) for workers in (1, 2)]
    measured: dict[tuple[int, int], list[tuple[float, float]]] = {run: [] for run in runs}
    loop_s = []
    with tempfile.TemporaryDirectory() as folder:
        roots = {count: link(files, count, Path(folder, str(count))) for count in (few, many)}
        for _ in range(options.rounds):
            loop_s.append(classify_in_process(sorted(roots[few].glob("*/*")))[0])
            for count, workers in runs:
                measured[count, workers].append(measure(roots[count], workers))
    print(f"median of {options.rounds} rounds ({os.cpu_count()} cores)")
    print("    images  processes  seconds  images/s  peak memory")
    print(f"{few:10,}  plain loop  {statistics.median(loop_s):6.1f}  {few / statistics.median(loop_s):8,.0f}")
    seconds = {}
    for (count, workers), results in measured.items():
        seconds[count, workers], megabytes = (statistics.median(each) for each in zip(*results, strict=True))
        rate = count / seconds[count, workers]
        print(f"{count:10,}  {workers:9}  {seconds[count, workers]:7.1f}  {rate:8,.0f}  {megabytes:8,.0f} MB")
    for workers in (1, 2):
        ratio = seconds[many, workers] / seconds[few, workers]
        print(f"6 times the images take {ratio:.2f} times the time, with {workers} processes")
    for count in (few, many):
        print(f"2 processes take {seconds[count, 2] / seconds[count, 1]:.2f} of the time of 1, for {count:,} images")
    return 0


def measure(root: Path, workers: int) -> tuple[float, float]:
    """Seconds of a run, start and all, and the most MB (PSS) that its processes had together."""
    output = root.with_suffix(".parquet")
    words = [sys.executable, "-m", "server.score", root, "--output", output, "--checkpoint", TUTORIAL_NET]
    started, most = time.perf_counter(), 0
    with subprocess.Popen([*map(str, words), "--workers", str(workers)], stdout=subprocess.DEVNULL) as process:
        while process.returncode is None:
            most = max(most, memory(process.pid))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_LOOK_S)
    seconds = time.perf_counter() - started
    if process.returncode:
        raise RuntimeError(f"cifar-score ended with {process.returncode}")
    output.unlink()
    return seconds, most / 1e6


def memory(pid: int) -> int:
    """Bytes of a process and its children; what they share counts once."""
    with contextlib.suppress(psutil.NoSuchProcess):
        main_process = psutil.Process(pid)
        return sum(map(proportional_bytes, [main_process, *main_process.children(recursive=True)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
