"""What may leave this machine: names on the Hub stay, paths and whatever holds a person's home folder go."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from heft.adapters.hub import hub_id
from heft.builtin import BUILT_IN_MODELS, EMBEDDED
from heft.errors import HeftError
from heft.models.source import is_hub_id, local_folder
from heft.storage.reading import is_dir, is_file
from heft.tasks import TASKS

ON_THE_HUB = {"embedded:smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}
"""Models on the Hub of which the embedded ones are a quantised copy."""
ROWS = "rows.jsonl"
"""What stands for a file of rows that is not shared."""
_PATH_LIKE = re.compile(r"^(~|/|\.{1,2}/|[A-Za-z]:[\\/]|\\\\)")

assert ON_THE_HUB.keys() == EMBEDDED.keys(), "every embedded model has its origin"


def public_base(name: str, given: str | None) -> str:
    """The base model's name for others; `given` is what `--base` says.

    Raises:
        HeftError: it is a folder here, and no other name is given; or what is given is a folder here or no name.
    """
    named = name if given is None else given
    is_folder = local_folder(named) is not None
    if named in BUILT_IN_MODELS or is_hub_id(named) and not is_folder:
        return named
    if given is None:
        raise HeftError(
            "the base model is a folder of this machine, which nobody else has: give its name on the Hub with"
            " --base ORG/NAME"
        )
    what = "is a folder of this machine, which nobody else has" if is_folder else "is no name of a model on the Hub"
    raise HeftError(f"--base {given!r} {what}; expected --base ORG/NAME, without an address or a revision")


def public_task(task: Mapping[str, Any]) -> dict[str, Any]:
    """A task's settings without paths: files of rows are called `ROWS`, other folders what they would be by default.

    Texts of heft's own tasks stay as they are: an adapter that is given another prompt is another adapter.
    """
    found = {}
    for key, value in task.items():
        if key in ("train", "eval") and task.get("name") == "rows":
            found[key] = value if value is None or _is_on_the_hub(value) else ROWS
        elif key == "source" and isinstance(value, str) and is_private(value):
            found[key] = "hub"
        elif task.get("name") in TASKS:  # none of their other settings is a path: prompts, labels, stop strings
            found[key] = value
        else:
            found[key] = public_value(value)
    return found


def public_value(value: Any) -> Any:
    """A setting without paths, of which the last part stays."""
    if isinstance(value, Mapping):
        return {key: public_value(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [public_value(each) for each in value]
    return Path(value).name or "path" if isinstance(value, str) and is_private(value) else value


def is_private(text: str) -> bool:
    """Whether a text is a path, or has this person's home folder in it."""
    home = os.path.expanduser("~")
    if "\n" in text or " " in text.strip() and not _PATH_LIKE.match(text):  # a prompt or another sentence
        return len(home) > 1 and home in text
    return bool(_PATH_LIKE.match(text)) or os.sep in text and (is_dir(Path(text)) or is_file(Path(text)))


def _is_on_the_hub(source: Any) -> bool:
    """Whether a source of rows is a data set on the Hub, `owner/name` or `owner/name:config`, and no file here."""
    if not isinstance(source, str) or is_private(source) or os.path.exists(source):
        return False
    name = source.partition(":")[0]
    return hub_id(name) is not None and Path(name).suffix not in (".jsonl", ".json", ".csv", ".tsv", ".parquet")
