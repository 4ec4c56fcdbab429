"""Does the time of cifar-score grow in proportion to its images, and halve with two processes? Beside a plain loop.

    CIFAR_DATA=data python -m benchmarks.scoring

Each run scores a folder of links to some of CIFAR-10's images. They take turns in each round; the results are medians.
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
from benchmarks.images import cifar10_folder
from benchmarks.reading import link
from models.card import TUTORIAL_NET
from tests.integration.running import proportional_bytes

_LOOK_S = 0.2  # from one look at the memory to the next


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scoring", description="Processes, images and memory.")
    parser.add_argument("--images", type=int, default=10_000, help="1x; then 6x as many (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each, for the median (default: %(default)s)")
    options = parser.parse_args(argv)
    data = cifar10_folder()
    files = sorted(data.glob("*/*/*.jpg"))
    few, many = options.images, 6 * options.images
    if many > len(files):
        wanted = f"{many:,} images are needed, and {data} has {len(files):,}"
        print(f"benchmarks.scoring: {wanted}: lower --images", file=sys.stderr)
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
    """Seconds of a run, its start included, and the peak memory of its processes together, in MB (PSS)."""
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
    """Bytes of a process and its children; what they share counts once (PSS)."""
    with contextlib.suppress(psutil.NoSuchProcess):
        main_process = psutil.Process(pid)
        return sum(map(proportional_bytes, [main_process, *main_process.children(recursive=True)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
