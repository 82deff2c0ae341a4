"""Packages that are missing, out of range or broken; imports that end the process; heft without its own packages."""

import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from heft import doctor
from heft.doctor import FAULT, NOTE, OK, Facts, Line, check_versions, examine, probe, requirements


def required_modules():
    return [package.replace("-", "_") for package in requirements()[1]]


def line_of(lines, text):
    (line,) = [line for line in lines if text in line.text]
    return line


@pytest.fixture
def installed(monkeypatch):
    """Sets the version that a package seems to have; None: not installed."""
    plain = importlib.metadata.version

    def seem(package, version):
        def look(name):
            if name != package:
                return plain(name)
            if version is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return version

        monkeypatch.setattr(importlib.metadata, "version", look)

    return seem


def test_a_sound_environment_is_ok_in_every_line():
    lines = list(check_versions(Facts()))
    assert {line.state for line in lines} == {OK}
    assert len(lines) == 2 + len(requirements()[1])
    assert {"torch", "peft", "transformers", "ruamel.yaml"} <= set(required_modules())


@pytest.mark.parametrize(
    ("version", "words"), [(None, "peft is missing"), ("0.20.0", "peft 0.20.0"), ("0.22.0", "peft 0.22.0")]
)
def test_a_missing_or_unsupported_package_is_a_fault_with_the_command_that_fixes_it(installed, version, words):
    installed("peft", version)
    line = line_of(check_versions(Facts()), words)
    assert line.state == FAULT
    assert line.advice == f"pip install 'peft{requirements()[1]['peft']}'"


def test_a_package_that_cannot_be_imported_is_a_fault_with_the_error():
    facts = Facts(errors={"torch": "OSError: libgomp.so.1: cannot open shared object file"})
    line = line_of(check_versions(facts), "torch ")
    assert line.state == FAULT
    assert "installed and cannot be imported: OSError: libgomp.so.1" in line.text
    assert "pip install --force-reinstall" in line.advice


def test_a_python_that_is_too_old_is_a_fault(monkeypatch):
    monkeypatch.setattr(doctor.platform, "python_version", lambda: "3.10.4")
    line = line_of(check_versions(Facts()), "Python 3.10.4")
    assert (line.state, line.advice) == (FAULT, "make an environment of Python >=3.11")


def test_without_packaging_versions_are_shown_unchecked(monkeypatch):
    monkeypatch.setitem(sys.modules, "packaging.specifiers", None)
    lines = list(check_versions(Facts()))
    assert line_of(lines, "packaging is missing").state == NOTE
    assert line_of(lines, "torch ").state == OK


def test_the_installation_says_what_is_required_extras_left_out(monkeypatch):
    asked = ["torch>=2.7", "peft<0.22,>=0.21", 'pytest>=8.4; extra == "test"']
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: asked)
    monkeypatch.setattr(importlib.metadata, "metadata", lambda name: {"Requires-Python": ">=3.11"})
    assert requirements() == (">=3.11", {"torch": ">=2.7", "peft": "<0.22,>=0.21"})


def test_heft_that_is_not_installed_is_a_fault(monkeypatch):
    def unknown(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "metadata", unknown)
    (line,) = check_versions(Facts())
    assert (line.state, required_modules()) == (FAULT, [])
    assert "is not installed" in line.text


def modules(folder, monkeypatch, **sources):
    for name, source in sources.items():
        (folder / f"{name}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(Path(doctor.__file__).parents[1])]))


def test_an_import_that_raises_or_ends_the_process_is_named_and_the_rest_still_tried(tmp_path, monkeypatch):
    modules(
        tmp_path,
        monkeypatch,
        good="print('noise that is not ours')",
        broken="raise ValueError('two\\nlines')",
        killer="import os, signal; os.kill(os.getpid(), signal.SIGILL)",
        leaver="import os; os._exit(3)",
        chatty="print('a banner', end='')",
        last="",
    )
    assert probe(["good", "broken", "killer", "leaver", "absent", "chatty", "last"]).errors == {
        "good": None,
        "broken": "ValueError: two",
        "killer": "the import ended the process: signal SIGILL",
        "leaver": "the import ended the process: exit status 3",
        "absent": "ModuleNotFoundError: No module named 'absent'",
        "chatty": None,
        "last": None,
    }


def test_an_import_that_never_ends_is_given_up(tmp_path, monkeypatch):
    modules(tmp_path, monkeypatch, endless="import time; time.sleep(60)")
    monkeypatch.setattr("heft.doctor_child.IMPORT_SECONDS", 1)
    assert probe(["endless"]).errors["endless"] == "the import ended the process: not done after 1 seconds"


def test_a_python_that_cannot_even_start_is_told_and_ends(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert probe(["torch"]).errors["torch"] == "no import could be tried: exit status 1"


def test_what_torch_sees_comes_from_the_other_process(tmp_path, monkeypatch):
    modules(tmp_path, monkeypatch, torch="def get_num_threads(): return 7")
    facts = probe(["torch"])
    assert facts.torch["threads"] == 7
    assert facts.torch["cuda"] is None
    assert facts.torch["devices"] == []


def test_a_check_that_raises_is_a_fault_and_the_others_still_run(monkeypatch):
    def broken(online):
        yield Line(OK, "seen before that")
        raise RuntimeError("no idea")

    monkeypatch.setattr("heft.doctor.probe", lambda packages: Facts())
    monkeypatch.setattr("heft.doctor.check_hub", broken)
    lines = examine()
    assert line_of(lines, "could not be examined: RuntimeError: no idea").state == FAULT
    assert line_of(lines, "seen before that").topic == "hub"
    assert {"versions", "device", "threads", "memory", "disk", "extras"} <= {line.topic for line in lines}


def test_it_runs_where_torch_and_the_command_lines_own_packages_are_broken(tmp_path, monkeypatch):
    broken = "raise ImportError('built for another Python')"
    names = [name for name in required_modules() if "." not in name]
    modules(tmp_path, monkeypatch, **dict.fromkeys(names, broken))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "heft.doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (1, "")
    lines = json.loads(done.stdout)["lines"]
    faults = [line["text"] for line in lines if line["state"] == FAULT and line["topic"] == "versions"]
    told = sorted(text.split()[0].replace("-", "_") for text in faults)
    assert told == sorted(names)
    assert all("cannot be imported: ImportError: built for another Python" in text for text in faults)
    assert {"device", "threads", "memory", "disk", "hub", "extras"} <= {line["topic"] for line in lines}
