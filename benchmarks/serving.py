"""How many requests a second: our service beside what its users might build instead, on the same cores.

    make bench ARGS=serving
    python -m benchmarks.serving --photos FOLDER    (a column for large pictures too)

Each server runs the same checkpoint, takes the same images and is loaded by wrk (Debian: apt-get install wrk) on the
same machine. They take turns, round after round, the others stopped with SIGSTOP; medians count.
"""

import argparse
import base64
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import Server, all_servers, print_processes, running
from tests.pictures import draw_shape

CONNECTIONS = (1, 16, 64, 256, 1000)
_WRK_SCRIPT = Path(__file__).with_name("wrk.lua")
_PHOTO_CONNECTIONS = 64


@dataclass(frozen=True)
class Column:
    """One load: so many connections that post these files in turn, JPEGs (False) or the same in JSON (True)."""

    title: str
    connections: int
    bodies: dict[bool, list[Path]]


@dataclass(frozen=True)
class Load:
    """What wrk saw in one run."""

    requests: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    failed: int


Loads = dict[tuple[str, str], list[Load]]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description="Requests a second, side by side."
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often each is loaded (%(default)s)")
    parser.add_argument("--seconds", type=int, default=4, help="of each load (%(default)s)")
    parser.add_argument("--connections", type=int, nargs="+", default=CONNECTIONS, help="loads (1 16 64 256 1000)")
    parser.add_argument("--only", default="", help="servers whose name has this in it")
    parser.add_argument("--photos", type=Path, help="folder of JPEG photographs for a column of their own")
    options = parser.parse_args(argv)
    if no_wrk():
        return 1
    chosen = [server for server in all_servers() if options.only in server.name]
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as services:
        columns = make_columns(Path(folder), options.connections, options.photos)
        for server in chosen:
            services.enter_context(running(server, columns[0].bodies[server.as_json][0]))
        megabytes = [sum(server.process_megabytes()) for server in chosen]
        loads = take_turns(chosen, columns, options.rounds, options.seconds)
        print_table(chosen, columns, loads, megabytes)
        print_processes(chosen)
    return 0


def no_wrk() -> bool:
    """Whether the load generator is missing, and saying so."""
    if not shutil.which("wrk"):
        print("the load comes from wrk, which is not installed: apt-get install wrk", file=sys.stderr)
        return True
    return False


def make_columns(folder: Path, connections: Sequence[int], photos: Path | None) -> list[Column]:
    drawn = folder / "drawn.jpg"
    draw_shape("circle", 1, (32, 32)).save(drawn, quality=75)
    bodies = write_json(folder, [drawn])
    columns = [Column(str(count), count, bodies) for count in connections]
    if photos:
        columns.append(
            Column(
                f"photos, {_PHOTO_CONNECTIONS}", _PHOTO_CONNECTIONS, write_json(folder, sorted(photos.glob("*.jpg")))
            )
        )
    return columns


def write_json(folder: Path, images: list[Path]) -> dict[bool, list[Path]]:
    """The images as they are (False) and as base64 in JSON (True)."""
    as_json = []
    for image in images:
        as_json.append(folder / f"{image.stem}.json")
        as_json[-1].write_text(json.dumps({"image": base64.b64encode(image.read_bytes()).decode()}))
    return {False: images, True: as_json}


def take_turns(chosen: Sequence[Server], columns: Sequence[Column], rounds: int, seconds: int) -> Loads:
    loads: Loads = {}
    for number in range(rounds):
        for column in columns:
            for server in chosen:
                print(f"round {number + 1}/{rounds}, connections: {column.title}: {server.name}", file=sys.stderr)
                server.signal(signal.SIGCONT)
                load = run_wrk(server, column, seconds)
                server.signal(signal.SIGSTOP)
                loads.setdefault((server.name, column.title), []).append(load)
    return loads


def run_wrk(server: Server, column: Column, seconds: int) -> Load:
    command = ["wrk", "-t1", f"-c{column.connections}", f"-d{seconds}s", "--timeout", "30s", "--latency"]
    bodies = "\n".join(str(path.absolute()) for path in column.bodies[server.as_json])
    output = subprocess.run(
        [*command, "-s", str(_WRK_SCRIPT), f"http://127.0.0.1:{server.port}/predict"],
        env={**os.environ, "BODIES": bodies, "CONTENT_TYPE": server.content_type},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (line,) = (line for line in output.splitlines() if line.startswith("RESULT"))
    requests, microseconds, p50, p99, failed = map(int, line.split()[1:])
    return Load(requests, requests / microseconds * 1e6, p50 / 1e3, p99 / 1e3, failed)


def print_table(
    chosen: Sequence[Server], columns: Sequence[Column], loads: Loads, megabytes_before: Sequence[float]
) -> None:
    print(f"requests/s · p50 ms · p99 ms, by connections ({os.cpu_count()} cores); failed requests in brackets")
    width = max(len(server.name) for server in chosen)
    titles = "".join(f"{column.title:>22}" for column in columns)
    print(f"{'':{width}}{titles}  start s  idle %  MB then, and after so many requests")
    for server, before in zip(chosen, megabytes_before, strict=True):
        cells, total = "", 0
        for column in columns:
            runs = loads[server.name, column.title]
            rate, p50, p99 = (
                statistics.median(getattr(run, name) for run in runs) for name in ("requests_per_s", "p50_ms", "p99_ms")
            )
            failed = sum(run.failed for run in runs)
            total += sum(run.requests for run in runs)
            cells += f"{f'{rate:,.0f} · {p50:.1f} · {p99:.0f}' + (f' ({failed})' if failed else ''):>22}"
        now = sum(server.process_megabytes())
        costs = f"{server.start_s:9.1f}{server.idle_percent:8.1f}{before:9.0f} {now:5.0f} {total:9,}"
        print(f"{server.name:{width}}{cells}{costs}")


if __name__ == "__main__":
    sys.exit(main())
