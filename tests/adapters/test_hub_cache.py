"""Adapters of the Hub in heft's cache."""

import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from heft.adapters import hub
from heft.adapters.hub import downloaded
from heft.adapters.places import own_name
from heft.errors import HeftError

NAMES = ("heft.json", "coarse/adapter_config.json", "coarse/adapter_model.safetensors")


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    """What the Hub's own cache has of a repository at a commit."""
    folder = tmp_path / "hf" / "models--org--name" / "snapshots" / ("c" * 40)
    (folder / "coarse").mkdir(parents=True)
    for name in NAMES:
        (folder / name).write_text(name)
    monkeypatch.setenv("HEFT_CACHE", str(tmp_path / "heft"))
    monkeypatch.setattr(hub, "_snapshot", lambda *args: folder)
    return folder


def test_processes_that_ask_for_the_same_adapter_at_once_all_get_it(snapshot, monkeypatch):
    """As those of torchrun do, and trials of a search."""
    together, copy = threading.Barrier(3), shutil.copyfile

    def slowly(source, target):
        time.sleep(0.05)
        return copy(source, target)

    def ask(_):
        together.wait()
        return downloaded("org/name", "main")

    monkeypatch.setattr(shutil, "copyfile", slowly)
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(ask, range(3)))
    assert len(set(found)) == 1
    assert [(found[0] / name).read_text() for name in NAMES] == list(NAMES)
    (snapshot / "fine").mkdir()
    (snapshot / "fine" / "adapter_config.json").write_text("{}")  # of a revision that was half in the Hub's cache
    assert (downloaded("org/name", "main") / "fine" / "adapter_config.json").is_file()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_may_only_be_read_gives_what_it_has(snapshot, tmp_path):
    first = downloaded("org/name", "main")
    first.parent.chmod(0o500)
    try:
        assert downloaded("org/name", "main") == first
        (snapshot / "more").mkdir()
        (snapshot / "more" / "adapter_config.json").write_text("{}")
        with pytest.raises(HeftError, match="you may not write there"):
            downloaded("org/name", "main")
    finally:
        first.parent.chmod(0o700)


def test_an_adapter_of_the_hub_is_called_as_its_repository_and_any_other_as_its_run(snapshot, tmp_path):
    assert own_name(downloaded("org/name", "main")) == "name"
    assert own_name(tmp_path / "runs" / "first" / "adapter") == "first"
    assert own_name(tmp_path / "copied") == "copied"
