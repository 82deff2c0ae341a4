"""What of this machine the process may use: less than there is in a container, and in a job of SLURM.

Both are control groups of Linux, in their second version or their first. Needs nothing but Python; psutil asks other
systems.
"""

import math
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
MEMINFO = Path("/proc/meminfo")
_UNLIMITED = 2**60
"""Bytes from which the first version means no limit."""


def usable_cores() -> int:
    """Cores that this process may use, by affinity and by the quotas of its control groups."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for folder in _groups("cpu"):
        quota = _words(folder / "cpu.max") or [
            word for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us") for word in _words(folder / name)
        ]
        if len(quota) == 2 and quota[0] not in ("max", "-1"):
            cores = min(cores, max(1, math.ceil(int(quota[0]) / int(quota[1]))))
    return cores


def available_memory() -> int | None:
    """Bytes that this process may still take, in its control groups too; None where the system does not say."""
    left = [free for folder in _groups("memory") if (free := _left(folder)) is not None]
    if found := re.search(r"MemAvailable:\s*(\d+)", "\n".join(_lines(MEMINFO))):
        left.append(int(found[1]) * 1024)
    else:  # not Linux, or as old as what the first WSL says it is
        with suppress(ImportError, OSError, RuntimeError):  # psutil may be what is missing, or not for this system
            import psutil

            left.append(psutil.virtual_memory().available)
    return min(left, default=None)


def _left(folder: Path) -> int | None:
    """What a group's limit leaves; pages of files count as free, as the kernel gives them up first."""
    for limit, used, cached in (
        ("memory.max", "memory.current", ("active_file", "inactive_file")),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file")),
    ):
        most, now = _words(folder / limit), _words(folder / used)
        if most and now and most[0] != "max" and int(most[0]) < _UNLIMITED:
            words = _words(folder / "memory.stat")
            pages = dict(zip(words[::2], words[1::2], strict=False))
            return max(0, int(most[0]) - int(now[0]) + sum(int(pages.get(name, 0)) for name in cached))
    return None


def _groups(controller: str) -> Iterator[Path]:
    """The folders of the groups that this process is in, and of those above them, each of which has a limit."""
    yield CGROUP
    yield CGROUP / controller
    for line in _lines(OWN_GROUPS):
        _, controllers, path = line.split(":", 2)
        if controllers == "" or controller in controllers.split(","):
            root = CGROUP / controller if controllers else CGROUP
            folder = root / path.lstrip("/")
            while folder != root:
                yield folder
                folder = folder.parent


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
