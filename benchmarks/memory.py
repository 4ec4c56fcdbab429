"""Does the service grow? The memory of its processes after every so many requests.

make bench ARGS=memory
"""

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.servers import all_servers, running
from benchmarks.serving import make_columns, no_wrk, run_wrk

_CONNECTIONS = 64


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description="Does the service grow?")
    parser.add_argument("--looks", type=int, default=8, help="how often memory is looked at (%(default)s)")
    parser.add_argument("--seconds", type=int, default=5, help="of load between two looks (%(default)s)")
    options = parser.parse_args(argv)
    if no_wrk():
        return 1
    ours, *_ = all_servers()
    with tempfile.TemporaryDirectory() as folder:
        (column,) = make_columns(Path(folder), [_CONNECTIONS], None)
        with running(ours, column.bodies[False][0]):
            ours.signal(signal.SIGCONT)
            print("requests so far, and PSS in MB of all processes, then of each")
            requests = 0
            for _ in range(options.looks + 1):
                sizes = ours.process_megabytes()
                print(f"{requests:11,} {sum(sizes):7.1f}  {'  '.join(f'{size:6.1f}' for size in sizes)}", flush=True)
                requests += run_wrk(ours, column, options.seconds).requests
    return 0


if __name__ == "__main__":
    sys.exit(main())
