"""How well our service serves, beside what its users might take instead, on the same cores.

    make bench ARGS=serving
    python -m benchmarks.serving --photos FOLDER --only cifar-serve FastAPI    (large pictures too; these servers only)
    python -m benchmarks.report                                        (the tables and the plot of docs/benchmarks.md)

In each round one server after the other is started, alone, checked to answer what the network answers, and measured
column by column; then once more with ResNet-18. The load comes from wrk (Debian: apt-get install wrk) on the same
machine. Every number is kept as soon as it is measured, and not measured again, so that a stopped run can be continued.
"""

import argparse
import os
import platform
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import torch

from benchmarks.columns import COLUMNS, HIGH, MANY, OPEN_SHARE, Trial, check, single
from benchmarks.environments import resnet18
from benchmarks.lineup import OURS, all_servers
from benchmarks.results import RESULTS, Results
from benchmarks.servers import Server, running
from benchmarks.wrk import no_wrk, run_wrk
from models.card import TUTORIAL_NET
from tests.pictures import draw_shape, encode

_RESNET = "resnet18"
_SENT, _CHECKED, _CHECKED_BY_RESNET = 64, 100, 8  # images
_WARM_UP_S = 4


@dataclass(frozen=True)
class Plan:
    """What every server goes through."""

    columns: Sequence[str]
    seconds: int
    images: list[bytes]
    photos: list[bytes]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description="Our service beside others.")
    parser.add_argument("--rounds", type=int, default=2, help="how often each is measured (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=3, help="seconds of a load; some take longer (%(default)s)")
    parser.add_argument("--only", nargs="+", default=[""], help="only servers whose names begin with one of these")
    columns = [*COLUMNS, _RESNET]
    parser.add_argument("--columns", nargs="+", choices=columns, default=columns, help="what to measure (default: all)")
    parser.add_argument("--photos", type=Path, help="folder of photographs, *.jpg, for the column photos")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file for the numbers (default: %(default)s)")
    options = parser.parse_args(argv)
    if no_wrk():
        return 1
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # which stops the running server too
    photos = [path.read_bytes() for path in sorted(options.photos.glob("*.jpg"))] if options.photos else []
    wanted = [column for column in options.columns if photos or column != "photos"]
    plan = Plan(wanted, options.seconds, pictures(MANY), photos)
    chosen = [server for server in all_servers() if server.name.startswith(tuple(options.only))]
    results, complete = Results(options.results), True
    results.add("", 0, "machine", **machine())
    for number in range(1, options.rounds + 1):
        for server in chosen:
            try:
                measure(server, number, plan, results)
            except (RuntimeError, AssertionError, OSError, httpx.HTTPError, subprocess.CalledProcessError) as error:
                print(f"{server.name}: {error}; its output is in {results.log(server.name)}", file=sys.stderr)
                complete = False
    return 0 if complete else 1


def pictures(count: int) -> list[bytes]:
    """JPEGs of 32x32: test images of CIFAR-10 if they are in $CIFAR_DATA, else drawn ones."""
    found = sorted(Path(os.environ.get("CIFAR_DATA", "data"), "test").glob("*/*.jpg"))
    if found:
        return [found[number * len(found) // count].read_bytes() for number in range(count)]
    shapes = ("circle", "square")
    return [encode(draw_shape(shapes[number % 2], number, (32, 32)), "JPEG") for number in range(count)]


def machine() -> dict[str, object]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return {
        "cpu": next(names, platform.machine()),
        "cores": os.cpu_count(),
        "gigabytes": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "python": platform.python_version(),
        "torch": torch.__version__.partition("+")[0],
    }


def measure(server: Server, number: int, plan: Plan, results: Results) -> None:
    """Measures what round `number` of a server still lacks.

    Raises RuntimeError, AssertionError, OSError, httpx.HTTPError or subprocess.CalledProcessError where the server does
    not work.
    """
    missing = [column for column in plan.columns if not results.has(server.name, number, column)]
    loads = plan.columns if "memory" in missing else missing  # memory is measured after all loads before it
    log = results.log(server.name)
    with tempfile.TemporaryDirectory() as folder:
        trial = make_trial(server, plan, Path(folder))
        if set(missing) - {_RESNET}:
            with running(server, TUTORIAL_NET, log):
                check(server, TUTORIAL_NET, plan.images[:_CHECKED])
                if not results.has(server.name, number, "start"):
                    results.add(server.name, number, "start", seconds=server.start_s, version=server.version())
                run_wrk(server.port, trial.single, 64, _WARM_UP_S)
                go_through(trial, number, loads, results)
        if _RESNET in missing:
            with running(server, resnet18(), log):
                check(server, resnet18(), plan.images[:_CHECKED_BY_RESNET])
                results.add(server.name, number, _RESNET, **single(replace(trial, seconds=3 * trial.seconds), 64))


def make_trial(server: Server, plan: Plan, folder: Path) -> Trial:
    return Trial(
        server,
        plan.seconds,
        single=server.protocol.write(folder, "single", [[image] for image in plan.images[:_SENT]]),
        batch=server.protocol.write(folder, "batch", [plan.images]),
        photos=server.protocol.write(folder, "photo", [[photo] for photo in plan.photos]),
        images=plan.images[:_SENT],
    )


def go_through(trial: Trial, number: int, columns: Sequence[str], results: Results) -> None:
    for column, run in COLUMNS.items():
        ours = results.values(OURS, "64", "requests_per_s")
        if column not in columns or (column == HIGH and not ours):
            continue
        with httpx.Client(timeout=60) as client:
            trial.server.predict(client, trial.images[:1])  # waits until the server is done with the last column
        high_rate = round(OPEN_SHARE * ours[0]) if ours else 0
        found = run(replace(trial, high_rate=high_rate))
        if not results.has(trial.server.name, number, column):
            results.add(trial.server.name, number, column, **found)


if __name__ == "__main__":
    sys.exit(main())
