"""Where a base model's files are: the folder or Hub id behind a recipe's `model.name`. Needs no torch."""

import os
import re
from pathlib import Path

from heft.builtin import BUILT_IN_MODELS, embedded_path
from heft.storage.reading import is_dir

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def source_of(name: str) -> str:
    """What transformers is to load for a `model.name`; an embedded model is converted now if it has not been yet.

    Raises:
        HeftError: an embedded model is not there or cannot be converted.
    """
    if name.startswith("embedded:"):
        return str(embedded_path(name))
    return os.path.expanduser(name)  # unlike Path.expanduser, of any text


def local_folder(name: str) -> Path | None:
    """The folder that a `model.name` stands for, absolute; None where it is built in, or no folder here."""
    if not name or name in BUILT_IN_MODELS or not is_dir(Path(source_of(name))):
        return None
    return Path(source_of(name)).absolute()


def is_hub_id(name: str) -> bool:
    """Whether a text has the form of a model's name on the Hub, `ORG/NAME` or `NAME`, without a revision."""
    return _HUB_ID.fullmatch(name) is not None


def missing_folder(name: str) -> str | None:
    """What to say of a name that stands for a folder that is not there; None where it may be a Hub id, or is there."""
    if name in BUILT_IN_MODELS:
        return None
    folder = Path(source_of(name))
    if is_dir(folder):
        return None
    seen_from = "" if folder.is_absolute() else f" (seen from {Path.cwd()})"
    if os.path.exists(folder):
        return f"{name} is a file; give the folder that holds config.json and safetensors"
    if is_hub_id(name):
        return None
    return f"folder {name} does not exist{seen_from}; give a folder with config.json and safetensors, or a Hub id"
