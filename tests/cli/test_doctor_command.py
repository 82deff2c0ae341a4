"""`heft doctor` as a person uses it."""

import json

import pytest
import typer

from commands import heft
from heft import doctor
from heft.cli.doctor import doctor as command
from heft.doctor import Line


def test_it_looks_at_everything_and_its_status_follows_from_the_faults(tmp_path):
    done = heft("doctor", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    faults = [line for line in found["lines"] if line["state"] == "fault"]
    assert done.stderr == ""
    assert done.returncode == (1 if faults else 0)
    assert found["ok"] == (not faults)
    assert all(line["advice"] for line in faults)
    topics = {"versions", "device", "threads", "memory", "disk", "hub", "extras"}
    assert {line["topic"] for line in found["lines"]} == topics
    assert any("offline, by HF_HUB_OFFLINE" in line["text"] for line in found["lines"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("json_wanted", [True, False])
def test_a_fault_is_exit_status_1_with_what_to_do_and_notes_are_not(monkeypatch, capsys, json_wanted):
    lines = [Line("ok", "fine", topic="disk"), Line("note", "offline", "unset it", "hub")]
    for more, status in (([], 0), ([Line("fault", "torch is missing", "pip install torch", "versions")], 1)):
        monkeypatch.setattr(doctor, "examine", lambda online, more=more: lines + more)
        with pytest.raises(typer.Exit) as left:
            command(False, json_wanted)
        assert left.value.exit_code == status
    shown = capsys.readouterr().out
    if json_wanted:
        assert json.loads(shown[shown.rindex('{\n  "ok"') :])["lines"][2]["advice"] == "pip install torch"
    else:
        assert "fault versions: torch is missing\n      do: pip install torch" in shown
        assert shown.rstrip().endswith("1 ok, 1 notes, 1 faults")
