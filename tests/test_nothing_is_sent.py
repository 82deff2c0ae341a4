"""Nobody tells heft to stay offline here, and still no command asks anything of a network."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

CODE = """
import os, sys

tried = []


def heard(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        tried.append((event, str(arguments[-1] if event == "socket.connect" else arguments[0])))
        raise OSError("the network was asked for something")


sys.addaudithook(heard)
if sys.argv[1] == "--try":
    import urllib.request

    try:
        urllib.request.urlopen("http://127.0.0.1:9/")
    except OSError:
        sys.exit(0 if tried else 1)
from heft.cli import main

run = sys.argv[2]
commands = [
    ["train", sys.argv[1], "--output", run],
    ["eval", f"{run}/adapter", "--limit", "4"],
    ["generate", f"{run}/adapter", "Where is Anna?", "--max-new-tokens", "2"],
    ["plan", sys.argv[1], "--no-probe"],
    ["compare", run],
    ["report", run, "--output", f"{run}/report.html"],
]
for command in commands:
    sys.argv = ["heft", *command]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (command, end.code)
    assert not tried, (command, tried)
from huggingface_hub import constants

assert constants.HF_HUB_DISABLE_TELEMETRY
print("all quiet")
"""


def run(*arguments):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "TRANSFORMERS_"))}
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment | {"OMP_NUM_THREADS": "1"})


def test_the_watch_sees_an_attempt():
    assert run("--try").returncode == 0


def test_train_eval_generate_plan_compare_and_report_ask_nothing_of_a_network(tmp_path):
    done = run(ROOT / "src" / "heft" / "recipes" / "debug.yaml", tmp_path / "run")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "all quiet" in done.stdout
