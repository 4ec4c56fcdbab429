"""Does the service's memory grow? The memory of its processes, before and after each of several loads.

make bench ARGS=memory
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.lineup import all_servers
from benchmarks.servers import running
from benchmarks.wrk import no_wrk, run_wrk
from tests.pictures import draw_shape, encode

_CONNECTIONS = 64


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description="Does the service's memory grow?")
    parser.add_argument("--looks", type=int, default=8, help="loads, after each of which it is read (%(default)s)")
    parser.add_argument("--seconds", type=int, default=5, help="seconds of each load (default: %(default)s)")
    options = parser.parse_args(argv)
    if no_wrk():
        return 1
    ours, *_ = all_servers()
    with tempfile.TemporaryDirectory() as folder, running(ours):
        files = ours.protocol.write(Path(folder), "single", [[encode(draw_shape("circle", 1, (32, 32)), "JPEG")]])
        print("requests so far, and PSS in MB of all processes, then of each")
        requests = 0
        for _ in range(options.looks + 1):
            sizes = ours.process_megabytes()
            print(f"{requests:11,} {sum(sizes):7.1f}  {'  '.join(f'{size:6.1f}' for size in sizes)}", flush=True)
            requests += run_wrk(ours.port, files, _CONNECTIONS, options.seconds).requests
    return 0


if __name__ == "__main__":
    sys.exit(main())
