"""Loads a server on this machine with wrk (Debian: apt-get install wrk)."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_SCRIPT = Path(__file__).with_suffix(".lua")


@dataclass(frozen=True)
class Load:
    """What wrk measured in one run."""

    requests: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    failed: int


def no_wrk() -> bool:
    """Whether wrk is missing; if so, prints that."""
    if not shutil.which("wrk"):
        print("the load comes from wrk, which is not installed: apt-get install wrk", file=sys.stderr)
        return True
    return False


def run_wrk(port: int, requests: Sequence[Path], connections: int, seconds: int, rate: float | None = None) -> Load:
    """Sends the files, each a whole HTTP request, in turn over so many connections: one after the other on each.

    With `rate`, that many requests a second leave at random moments, whether or not others have been answered: an open
    loop, as long as there are far more connections than requests in flight.
    """
    environment = {**os.environ, "REQUESTS": "\n".join(str(path.absolute()) for path in requests)}
    if rate:
        environment["GAP_MS"] = str(connections / rate * 1e3)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "--latency", "-s", str(_SCRIPT)]
    output = subprocess.run(
        [*command, f"http://127.0.0.1:{port}"], env=environment, capture_output=True, text=True, check=True
    ).stdout
    (line,) = (line for line in output.splitlines() if line.startswith("RESULT"))
    count, microseconds, p50, p99, failed = map(int, line.split()[1:])
    return Load(count, count / microseconds * 1e6, p50 / 1e3, p99 / 1e3, failed)
