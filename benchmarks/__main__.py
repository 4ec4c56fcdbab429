"""`make bench`: every benchmark in turn, or those named: make bench ARGS='training evaluation'."""

import importlib
import sys

NAMES = (
    "training",
    "recipes",
    "reading",
    "views",
    "evaluation",
    "scoring",
    "serving",
    "memory",
    "batches",
    "out_of_depth",
    "simulation",
)


def main() -> int:
    names = sys.argv[1:] or NAMES
    if unknown := set(names) - set(NAMES):
        print(f"there is no benchmark {', '.join(sorted(unknown))}; choose from {', '.join(NAMES)}", file=sys.stderr)
        return 2
    status = 0
    for name in names:
        print(f"== {name}", flush=True)
        status = importlib.import_module(f"benchmarks.{name}").main([]) or status
    return status


if __name__ == "__main__":
    sys.exit(main())
