"""What a container or a scheduler leaves of a machine: cores and memory, from affinity and control groups."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_MEMINFO = Path("/proc/meminfo")


def usable_cores() -> tuple[int, str]:
    """Cores that this process may use at once, and what limits them, in words."""
    machine = os.cpu_count() or 1
    cores, why = machine, "all of the machine's"
    if hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) < cores:
        cores, why = len(os.sched_getaffinity(0)), f"of {machine}, by affinity"
    quota = min(_cpu_quotas(), default=math.inf)
    if quota < cores:
        cores, why = max(1, math.ceil(quota)), f"of {machine}, by a control group's quota of {quota:g}"
    return cores, why


def available_memory() -> int | None:
    """Bytes that this process may still take; None where the system does not say."""
    found = [*_memory_left()]
    if _MEMINFO.is_file():
        fields = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines() if ":" in line)
        found.append(int(fields["MemAvailable"].split()[0]) * 1024)
    elif not found:
        try:
            import psutil

            found.append(psutil.virtual_memory().available)
        except Exception:  # psutil comes with accelerate, which may be what is missing
            return None
    return min(found)


def _groups(controller: str) -> Iterator[Path]:
    """Folders of this process's control groups, own and above: version 2, then version 1 of a controller."""
    own = _OWN.read_text().splitlines() if _OWN.is_file() else []
    for line in own:
        _, controllers, path = line.split(":", 2)
        root = CGROUPS if not controllers else CGROUPS / controller
        if controllers and controller not in controllers.split(","):
            continue
        folder = root / path.lstrip("/")
        yield from (f for f in (folder, *folder.parents) if f == root or root in f.parents)


def _cpu_quotas() -> Iterator[float]:
    """Cores' worth of time that each group allows."""
    for folder in _groups("cpu"):
        now = _words(folder / "cpu.max")
        if len(now) == 2 and now[0] != "max":
            yield int(now[0]) / int(now[1])
        quota, period = _words(folder / "cpu.cfs_quota_us"), _words(folder / "cpu.cfs_period_us")
        if quota and period and int(quota[0]) > 0:
            yield int(quota[0]) / int(period[0])


def _memory_left() -> Iterator[int]:
    """Bytes that each group still allows; file pages that can be dropped count as free."""
    for folder in _groups("memory"):
        for most, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            limit, taken = _words(folder / most), _words(folder / used)
            if limit and taken and limit[0] != "max":
                words = _words(folder / "memory.stat")
                droppable = dict(zip(words[::2], words[1::2], strict=False)).get("inactive_file", "0")
                yield int(limit[0]) - int(taken[0]) + int(droppable)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
