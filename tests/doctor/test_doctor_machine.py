"""Device, threads and memory: each fault seen, and what a container leaves of a machine."""

import pytest

from heft import doctor, doctor_child
from heft.doctor import FAULT, NOTE, OK, Facts, check_device, check_memory, check_threads

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

    def have(count):
        monkeypatch.setattr(doctor, "usable_cores", lambda: count)

    return have


@pytest.fixture
def driver(monkeypatch):
    """Whether the machine seems to have an NVIDIA driver."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def have(is_there):
        monkeypatch.setattr(doctor_child.shutil, "which", lambda name: "nvidia-smi" if is_there else None)

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


def test_a_gpu_says_its_name_its_memory_and_its_formats(driver):
    driver(True)
    first, second, _ = check_device(facts(cuda=True, devices=[CARD, {**CARD, "bfloat16": False}]))
    assert (first.state, first.text) == (
        OK,
        "cuda:0 Card, 10 GB of 16 GB free, bfloat16 in hardware; model.dtype auto is bfloat16",
    )
    assert "no bfloat16; model.dtype auto is float32" in second.text


def test_a_gpu_on_which_nothing_computes_is_a_fault(driver):
    driver(True)
    line, _ = check_device(facts(cuda=True, devices=[{**CARD, "error": "RuntimeError: no kernel image"}]))
    assert line.state == FAULT
    assert "cannot compute: RuntimeError: no kernel image" in line.text


@pytest.mark.parametrize(
    ("build", "hidden", "words"),
    [(None, None, "a build for the CPU only"), ("12.8", "", "hides all GPUs"), ("12.8", None, "finds no GPU")],
)
def test_a_gpu_that_is_not_used_says_why(driver, monkeypatch, build, hidden, words):
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
    assert f"{threads} threads on {have} usable cores" in line.text
    assert (line.advice == f"export OMP_NUM_THREADS={have}") == (state != OK)


def test_a_number_of_threads_that_is_none_is_a_fault(cores, monkeypatch):
    cores(2)
    monkeypatch.setenv("OMP_NUM_THREADS", "two")
    (line,) = check_threads(facts(threads=2))
    assert (line.state, line.text) == (FAULT, "OMP_NUM_THREADS is 'two', expected a number")


def test_a_list_of_numbers_of_threads_is_what_openmp_allows(cores, monkeypatch):
    cores(2)
    monkeypatch.setenv("OMP_NUM_THREADS", "2, 1")
    assert [line.state for line in check_threads(facts(threads=2))] == [OK]


@pytest.mark.parametrize(("free", "state"), [(8e9, OK), (3e9, NOTE), (1e9, FAULT), (None, NOTE)])
def test_memory_is_held_against_what_training_takes(monkeypatch, free, state):
    monkeypatch.setattr(doctor, "available_memory", lambda: free)
    (line,) = check_memory()
    assert line.state == state
