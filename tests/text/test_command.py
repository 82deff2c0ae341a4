"""Commands that a person is told to type."""

import shlex
from pathlib import Path

from heft.text.command import command


def test_a_command_can_be_pasted_whatever_its_paths_hold():
    words = ["train", Path("ann's files/re cipe.yaml"), "--output", "runs/$HOME;rm"]
    assert shlex.split(command(*words)) == ["heft", *map(str, words)]
    assert command("train", "runs/a/winner.yaml") == "heft train runs/a/winner.yaml"
