"""What the machine gives this process."""

import math
import os
from pathlib import Path


def cores() -> int:
    """The cores that this process may keep busy: the machine's, or fewer by a container's CPU set or quota."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = map(int, _quota_and_period().split())
    except (OSError, ValueError):  # not in a container of Linux, or "max"
        return there
    return min(there, math.ceil(quota / period)) if quota > 0 else there


def _quota_and_period() -> str:
    """The CPU time that is allowed in each period, and the period, in microseconds. Raises OSError."""
    cgroup = Path("/sys/fs/cgroup")
    if (version_2 := cgroup / "cpu.max").exists():
        return version_2.read_text()
    return " ".join((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
