"""The example of a task of one's own runs as it is written."""

import re
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "examples/custom_task.py"


def test_the_example_prints_three_made_and_two_listed_examples():
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 5
    for line in lines[:3]:
        first, second = map(int, re.search(r"larger, (\d+) or (\d+)\?", line).groups())
        assert line.endswith("' second'" if second > first else "' first'")
    assert [line.rsplit(" ", 1)[1] for line in lines[3:]] == ["no'", "yes'"]
