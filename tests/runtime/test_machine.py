"""The cores and the memory that a process may use, in containers and jobs made of files as Linux has them."""

import os
from types import SimpleNamespace

import pytest

from heft.runtime import machine
from heft.runtime.machine import available_memory, usable_cores
from heft.training.reuse.stores import choose_store

FREE = 32_000_000 * 1024


@pytest.fixture
def limits(tmp_path, monkeypatch):
    """A machine of 16 cores by affinity and 32 GB; `own` is its /proc/self/cgroup, `files` those of its groups."""
    monkeypatch.setattr(machine, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(machine, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(machine, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    (tmp_path / "meminfo").write_text("MemTotal: 64000000 kB\nMemAvailable:   32000000 kB\n")

    def make(own, files):
        (tmp_path / "own").write_text(own)
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return make


def test_no_limit_leaves_what_affinity_and_the_machine_leave(limits):
    assert (usable_cores(), available_memory()) == (16, FREE)
    limits("0::/\n", {"cpu.max": "max 100000\n", "memory.max": "max\n", "memory.current": "5\n"})
    assert (usable_cores(), available_memory()) == (16, FREE)
    v1 = {"memory/memory.limit_in_bytes": "9223372036854771712", "memory/memory.usage_in_bytes": "5"}
    limits("4:memory:/\n1:cpu,cpuacct:/\n", v1 | {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"})
    assert (usable_cores(), available_memory()) == (16, FREE)


def test_where_linux_does_not_say_what_is_available_psutil_does(limits, tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 64000000 kB\nMemFree: 16000000 kB\n")
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=16))
    assert available_memory() == 16


V2 = {"cpu.max": "250000 100000\n", "memory.max": "4000000000\n", "memory.current": "3000000000\n"}
V1 = {
    "cpu/cpu.cfs_quota_us": "250000\n",
    "cpu/cpu.cfs_period_us": "100000\n",
    "memory/memory.limit_in_bytes": "4000000000\n",
    "memory/memory.usage_in_bytes": "3000000000\n",
}


@pytest.mark.parametrize(
    ("own", "files"),
    [
        ("0::/\n", V2),
        ("0::/../../else/where\n", V2),
        ("0::/slurm/job_7/step_0\n", {f"slurm/job_7/{name}": text for name, text in V2.items()}),
        ("4:memory:/gone\n1:cpu,cpuacct:/gone\n", V1),
        (
            "4:memory:/slurm/job_7\n1:cpu,cpuacct:/slurm/job_7\n",
            {name.replace("/", "/slurm/job_7/"): text for name, text in V1.items()},
        ),
    ],
)
def test_the_limits_of_a_container_and_of_a_job_count(limits, own, files):
    limits(own, files)
    assert (usable_cores(), available_memory()) == (3, 1_000_000_000)


@pytest.mark.parametrize(
    ("files", "stat"),
    [(V2, ("memory.stat", "anon 9\ninactive_file 1700000000\nactive_file 300000000\nshmem 5\n")),
     (V1, ("memory/memory.stat", "cache 9\ntotal_inactive_file 1700000000\ntotal_active_file 300000000\n"))],
)  # fmt: skip
def test_pages_of_files_that_were_read_are_free(limits, files, stat):
    limits("0::/\n", files | dict([stat]))
    assert available_memory() == 3_000_000_000


def test_activations_are_cached_in_no_more_memory_than_a_container_has(limits, tmp_path):
    limits("0::/\n", V2)
    assert choose_store("auto", 200_000_000, 2, tmp_path) == "memory"
    assert choose_store("auto", 300_000_000, 2, tmp_path) != "memory"
