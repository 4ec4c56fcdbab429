"""What the machine gives this process."""

import math
import os
from pathlib import Path


def cores() -> int:
    """The cores that this process may keep busy: the machine's, or fewer by a container's CPU set or quota."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = map(int, Path("/sys/fs/cgroup/cpu.max").read_text().split())
    except (OSError, ValueError):  # not in a container of Linux, or "max"
        return there
    return min(there, math.ceil(quota / period))
