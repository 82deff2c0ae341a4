"""Device, threads and memory: each fault seen, and what a container leaves of a machine."""

import os

import pytest

from heft.doctor import limits, machine
from heft.doctor.line import FAULT, NOTE, OK
from heft.doctor.machine import check_device, check_memory, check_threads
from heft.doctor.probing import Facts

CPU = {
    "threads": 4,
    "vector": "AVX2",
    "bfloat16": [],
    "cuda_build": None,
    "cuda": False,
    "mps": False,
    "devices": [],
}
CARD = {"name": "Card", "free": 10e9, "total": 16e9, "bfloat16": True, "error": None}


def facts(**torch):
    return Facts(torch={**CPU, **torch})


@pytest.fixture
def cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))

    def have(count):
        monkeypatch.setattr(machine, "usable_cores", lambda: (count, "by a test"))

    return have


@pytest.fixture
def driver(monkeypatch):
    """Whether the machine seems to have an NVIDIA driver."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def have(is_there):
        monkeypatch.setattr(machine.shutil, "which", lambda name: "nvidia-smi" if is_there else None)

    return have


@pytest.mark.parametrize(
    ("units", "text"),
    [
        ([], "cpu: AVX2, bfloat16 emulated, slower than float32; model.dtype auto is float32"),
        (["AVX512-BF16"], "cpu: AVX2, bfloat16 in hardware (AVX512-BF16); model.dtype auto is bfloat16"),
        (["AMX", "AVX512-BF16"], "cpu: AVX2, bfloat16 in hardware (AMX, AVX512-BF16); model.dtype auto is bfloat16"),
    ],
)
def test_a_cpu_says_what_it_can_and_which_dtype_follows(driver, units, text):
    driver(False)
    (line,) = check_device(facts(bfloat16=units))
    assert (line.state, line.text) == (OK, text)


def test_a_card_says_its_name_its_memory_and_its_formats(driver):
    driver(True)
    first, second, _ = check_device(facts(cuda=True, devices=[CARD, {**CARD, "bfloat16": False}]))
    assert (first.state, first.text) == (
        OK,
        "cuda:0 Card, 10.0 GB of 16.0 GB free, bfloat16 in hardware; model.dtype auto is bfloat16",
    )
    assert "no bfloat16; model.dtype auto is float32" in second.text


def test_a_card_on_which_nothing_computes_is_a_fault(driver):
    driver(True)
    line, _ = check_device(facts(cuda=True, devices=[{**CARD, "error": "RuntimeError: no kernel image"}]))
    assert line.state == FAULT
    assert "cannot compute: RuntimeError: no kernel image" in line.text


@pytest.mark.parametrize(
    ("build", "hidden", "words"),
    [(None, None, "a build for the CPU only"), ("12.8", "", "hides all cards"), ("12.8", None, "finds no card")],
)
def test_a_card_that_is_not_used_says_why(driver, monkeypatch, build, hidden, words):
    driver(True)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    line, _ = check_device(facts(cuda_build=build))
    assert line.state == NOTE
    assert words in line.text
    assert line.advice


def test_without_torch_the_device_and_the_threads_are_unknown_and_nothing_breaks(cores):
    cores(4)
    assert [line.state for line in (*check_device(Facts()), *check_threads(Facts()))] == [NOTE, NOTE]


@pytest.mark.parametrize(("threads", "have", "state"), [(4, 4, OK), (4, 8, OK), (4, 2, FAULT), (1, 8, NOTE)])
def test_threads_are_held_against_the_cores_that_can_be_used(cores, threads, have, state):
    cores(have)
    (line,) = check_threads(facts(threads=threads))
    assert line.state == state
    assert f"{threads} threads on {have} cores (by a test)" in line.text
    assert (line.advice == f"export OMP_NUM_THREADS={have}") == (state != OK)


def test_a_number_of_threads_that_is_none_is_a_fault(cores, monkeypatch):
    cores(2)
    monkeypatch.setenv("OMP_NUM_THREADS", "two")
    (line,) = check_threads(facts(threads=2))
    assert (line.state, line.text) == (FAULT, "OMP_NUM_THREADS is 'two', which is no number")


def test_a_list_of_numbers_of_threads_is_what_openmp_allows(cores, monkeypatch):
    cores(2)
    monkeypatch.setenv("OMP_NUM_THREADS", "2, 1")
    assert [line.state for line in check_threads(facts(threads=2))] == [OK]


def test_a_busy_machine_is_noted(cores, monkeypatch):
    cores(4)
    monkeypatch.setattr(os, "getloadavg", lambda: (1000.0, 0.0, 0.0))
    assert [line.state for line in check_threads(facts(threads=4))] == [OK, NOTE]


@pytest.mark.parametrize(("free", "state"), [(8e9, OK), (3e9, NOTE), (1e9, FAULT), (None, NOTE)])
def test_memory_is_held_against_what_training_takes(monkeypatch, free, state):
    monkeypatch.setattr(machine, "available_memory", lambda: free)
    (line,) = check_memory()
    assert line.state == state


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """Control groups of the process, as files: `own` is /proc/self/cgroup."""

    def make(own, files):
        for name, text in files.items():
            path = tmp_path / "groups" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "own").write_text(own)
        monkeypatch.setattr(limits, "CGROUPS", tmp_path / "groups")
        monkeypatch.setattr(limits, "_OWN", tmp_path / "own")
        (tmp_path / "meminfo").write_text("MemTotal: 64000000 kB\nMemAvailable:   32000000 kB\n")
        monkeypatch.setattr(limits, "_MEMINFO", tmp_path / "meminfo")
        monkeypatch.setattr(os, "cpu_count", lambda: 64)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))

    return make


def test_no_group_leaves_what_affinity_and_the_machine_leave(groups):
    groups("0::/\n", {"cpu.max": "max 100000", "memory.max": "max", "memory.current": "5"})
    assert limits.usable_cores() == (16, "of 64, by affinity")
    assert limits.available_memory() == 32_000_000 * 1024


def test_the_tightest_group_above_the_process_counts(groups):
    files = {
        "outer/cpu.max": "250000 100000",
        "outer/inner/cpu.max": "800000 100000",
        "outer/memory.max": "4000000000",
        "outer/memory.current": "3000000000",
        "outer/memory.stat": "anon 2500000000\ninactive_file 400000000\n",
        "outer/inner/memory.max": "max",
    }
    groups("0::/outer/inner\n", files)
    assert limits.usable_cores() == (3, "of 64, by a control group's quota of 2.5")
    assert limits.available_memory() == 1_400_000_000


def test_groups_of_version_1_count_too(groups):
    files = {
        "cpu/box/cpu.cfs_quota_us": "400000",
        "cpu/box/cpu.cfs_period_us": "100000",
        "cpu/cpu.cfs_quota_us": "-1",
        "memory/box/memory.limit_in_bytes": "2000000000",
        "memory/box/memory.usage_in_bytes": "500000000",
    }
    groups("4:cpu,cpuacct:/box\n3:memory:/box\n2:pids:/box\n", files)
    assert limits.usable_cores() == (4, "of 64, by a control group's quota of 4")
    assert limits.available_memory() == 1_500_000_000
