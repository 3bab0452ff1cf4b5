"""What this process may use, read once where a program begins: cores and the environment."""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def count_cores(cgroups: Path = CGROUPS, membership: Path = MEMBERSHIP) -> int:
    """Return the cores that this process may use: its affinity, cut by its cgroups' quotas.

    Thread libraries take the host's count, which in a container is often many times too high.
    ``membership`` says in which groups the process is; the quotas of those above them hold, too.
    """
    allowed = len(os.sched_getaffinity(0))
    quotas = [quota for folder in _folders(cgroups, membership) for quota in _quotas(folder)]
    return max(1, math.ceil(min([allowed, *quotas])))


def _folders(cgroups: Path, membership: Path) -> Iterator[Path]:
    """Yield the folders of the process's cgroups and of all above them, in both hierarchies.

    In a container the files may be mounted without the path that the process is said to have: what
    is not there limits nothing, and the root is always looked at.
    """
    try:
        lines = membership.read_text().splitlines()
    except (OSError, ValueError):
        lines = []
    yield from (cgroups, cgroups / "cpu")
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        # The older hierarchy lies in a folder of its own, named for all of its controllers or one.
        roots = (cgroups / "cpu", cgroups / controllers) if controllers else (cgroups,)
        inside = PurePosixPath(path.lstrip("/"))
        if ".." not in inside.parts:
            yield from (root / one for root in roots for one in (inside, *inside.parents))


def _quotas(folder: Path) -> Iterator[float]:
    """Yield the cores that a cgroup's files grant, in the newer way and in the older."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((folder / name).read_text() for name in names).split()
            if quota not in ("max", "-1") and int(period) > 0:
                yield max(0.0, int(quota) / int(period))
        except (OSError, ValueError):
            continue
