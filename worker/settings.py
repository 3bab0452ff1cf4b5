"""What this process may use, read once where a program begins: cores and the environment."""

import math
import os
from pathlib import Path

CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
CGROUP_V1 = Path("/sys/fs/cgroup/cpu")


def count_cores(v2: Path = CGROUP_V2, v1: Path = CGROUP_V1) -> int:
    """Return the cores that this process may use: its affinity, cut by its cgroup's quota.

    Thread libraries take the host's count, which in a container is often many times too high.
    """
    allowed = len(os.sched_getaffinity(0))
    quota = _quota(v2, v1)
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def _quota(v2: Path, v1: Path) -> float | None:
    try:
        if v2.is_file():
            quota, period = v2.read_text().split()
        else:
            quota = (v1 / "cpu.cfs_quota_us").read_text().strip()
            period = (v1 / "cpu.cfs_period_us").read_text().strip()
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError):
        return None
