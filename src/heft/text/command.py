"""Commands that a person is told to type."""

import shlex


def command(*words: object) -> str:
    """`heft train recipe.yaml`, with what a shell would take apart or obey in quotes, so that it can be pasted."""
    return shlex.join(["heft", *map(str, words)])
