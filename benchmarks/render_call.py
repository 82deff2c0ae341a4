"""The bench's rows and model folder, rendered by heft's Python once and kept."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROWS = 512
SEED = 0


@dataclass(frozen=True)
class Data:
    """Where the rows and the model are, and what they are (see render.py)."""

    folder: Path
    about: dict


def render(python: str, model: str, folder: Path) -> Data:
    """Render the rows for a model, or find what was rendered for it before."""
    target = folder / model.rpartition(":")[2].strip("/").replace("/", "-")
    if not (target / "about.json").is_file():
        command = [python, str(HERE / "render.py"), model, str(target), str(ROWS), str(SEED)]
        subprocess.run(command, check=True)
    return Data(target, json.loads((target / "about.json").read_text()))
