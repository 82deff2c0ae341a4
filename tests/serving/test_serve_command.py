"""`heft serve` in a process of its own: it starts, answers, drains on SIGTERM; what is wrong is said at once."""

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
from serve_making import LORA, TAIL, make_run

from commands import COMMAND, ENVIRONMENT
from heft.cli import main


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs"), "two", f"{LORA}, {TAIL}")


def _started(*arguments):
    command = [*COMMAND, "serve", *map(str, arguments), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    line = process.stdout.readline()
    return process, line, re.search(r"http://\S+:\d+", line)[0]


def _asked(url, tokens):
    body = {"model": "mine", "prompt": "a", "max_tokens": tokens, "ignore_eos": True, "stream": True, "logprobs": 0}
    content = {"Content-Type": "application/json"}
    return urllib.request.urlopen(urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), content))


def test_sigterm_finishes_what_runs_and_the_exit_status_is_0(run):
    process, line, url = _started(f"mine={run}", "--max-tokens", "3000", "--drain", "120")
    assert "mine, mine:coarse" in line
    with _asked(url, 500) as response:
        response.readline()
        process.send_signal(signal.SIGTERM)
        rest = response.read().decode()
    assert rest.endswith("data: [DONE]\n\n")
    assert '"finish_reason": "length"' in rest
    assert process.wait(30) == 0, process.stderr.read()
    with pytest.raises(OSError, match=r"refused"):
        urllib.request.urlopen(f"{url}/health", timeout=5)


@pytest.mark.long
def test_what_takes_longer_than_the_draining_is_told_so_and_the_exit_status_is_0(run):
    process, _, url = _started(f"mine={run}", "--max-tokens", "100000", "--drain", "0.5")
    with _asked(url, 90_000) as response:
        response.readline()
        process.send_signal(signal.SIGTERM)
        rest = response.read().decode()
    last = [json.loads(line[6:]) for line in rest.split("\n") if line.startswith("data: {")][-1]
    assert last["error"]["message"] == "the server ended"
    assert last["error"]["code"] == "stopped"
    assert process.wait(30) == 0
    told = "--max-tokens is 100,000, and the model was made for 1,024 positions; what comes beyond may make no sense"
    assert process.stderr.read() == f"note: {told}\n"


def test_a_second_ctrl_c_waits_for_nothing(run):
    process, _, url = _started(f"mine={run}", "--max-tokens", "100000", "--drain", "600")
    with _asked(url, 90_000) as response:
        response.readline()
        process.send_signal(signal.SIGINT)
        assert response.readline()  # it goes on
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0


def test_what_cannot_be_served_is_said_at_once(tmp_path, run, monkeypatch, capsys):
    other = make_run(tmp_path, "two", TAIL)
    for arguments, words in (
        ([], "there is nothing to serve"),
        ([tmp_path / "nowhere"], "does not exist"),
        ([run, other], "two directories would be named 'two'"),
        ([run, "--load-from", tmp_path / "nowhere"], "is no folder"),
    ):
        monkeypatch.setattr(sys, "argv", ["heft", "serve", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 2
        assert words in capsys.readouterr().err
