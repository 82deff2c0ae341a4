"""The bench's rows and model folder, rendered by heft's Python once and kept."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
BOOLQ = HERE.parent / "../shared/data/boolq"
MADE_UP = "whereabouts"
"""Rows that heft makes up, all of about one length: they have no padding to save."""
ROWS = 512
SEED = 0


@dataclass(frozen=True)
class Data:
    """Where the rows and the model are, and what they are (see render.py)."""

    folder: Path
    about: dict


def default_rows() -> str:
    """BoolQ's folder where it is, else made-up rows."""
    return str(BOOLQ) if BOOLQ.is_dir() else MADE_UP


def render(python: str, model: str, rows: str, folder: Path) -> Data:
    """Render the rows for a model, or find what was rendered before.

    Args:
        python: heft's own.
        model: as in a recipe.
        rows: "whereabouts", or a source of BoolQ: a folder, "wheel" or "hub".
        folder: for what is rendered.
    """
    names = [model.rpartition(":")[2], MADE_UP if rows == MADE_UP else "boolq"]
    target = folder / "-".join(name.strip("/").replace("/", "-") for name in names)
    if not (target / "about.json").is_file():
        command = [python, str(HERE / "render.py"), model, rows, str(target), str(ROWS), str(SEED)]
        subprocess.run(command, check=True)
    return Data(target, json.loads((target / "about.json").read_text()))
