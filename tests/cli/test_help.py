"""The help of the commands, as it is printed."""

import re
from inspect import getdoc

import pytest

from commands import heft
from heft.cli.app import NAMES, app

COMMANDS = {NAMES.get(each.callback, each.name): each.callback for each in app.registered_commands}


def words(text):
    return " ".join(re.findall(r"\w+", text))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_all_that_a_command_says_of_itself(name):
    """Words in brackets, which rich takes for markup, too."""
    assert words(getdoc(COMMANDS[name])) in words(heft(name, "--help").stdout)
