"""The recipes and studies that come with heft, by name: `quickstart`, `paper/embedded`. Without torch.

They lie in src/heft/recipes, one file each, whose first comment says what it is for. measured.json beside them has what
was measured with some of them, and where.
"""

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, RootModel

from heft.errors import HeftError
from heft.settings.words import checked
from heft.storage.reading import is_file, read_json

FOLDER = Path(__file__).parents[1] / "recipes"
_SUFFIXES = (".yaml", ".yml")


class Measured(BaseModel):
    """What one run of a ready recipe, or all runs of a study, gave."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    minutes: float | None
    """From the command to its end; None: not measured."""
    score: str | None
    """Accuracy on the evaluation split with its 95 % interval, and after which stage; None: not measured."""
    where: str
    """The machine, the dtype and how many runs."""


class _Table(RootModel[dict[str, Measured]]):
    pass


@dataclass(frozen=True)
class ReadyRecipe:
    """A recipe or a study that comes with heft.

    Attributes:
        name: of the file, with its folder, without its ending: `paper/embedded`.
        path: of the file.
        command: that takes it: "train", "sweep" or "compare" (a study).
    """

    name: str
    path: Path
    command: str

    @property
    def text(self) -> str:
        """The file's text."""
        return self.path.read_text(encoding="utf-8")

    @property
    def purpose(self) -> str:
        """What it is for: the first sentences of its comment, as far as the comment goes."""
        lines = []
        for line in self.text.splitlines():
            if not line.startswith("#"):
                break
            lines.append(line.removeprefix("#").strip())
        return " ".join(lines)


def ready_recipes() -> list[ReadyRecipe]:
    """All of them: recipes first, then studies and their arms, by folder and name."""
    files = sorted(FOLDER.rglob("*.yaml"), key=lambda path: (len(path.parts), path))
    return [ReadyRecipe(_name(path), path, _command(path)) for path in files]


def ready_recipe(name: str) -> ReadyRecipe:
    """The one of that name.

    Raises:
        HeftError: there is none; the nearest names are given.
    """
    names = [_name(path) for path in FOLDER.rglob("*.yaml")]
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3) or sorted(each for each in names if "/" not in each)
        raise HeftError(f"no recipe {name!r} comes with heft; did you mean {', '.join(close)}? `heft recipes` has all")
    path = FOLDER / f"{name}.yaml"
    return ReadyRecipe(name, path, _command(path))


def located(given: str | Path, folder: Path = Path()) -> Path:
    """The file that a person means: a file at that path, from `folder`, else the ready recipe or study of that name.

    A path that is neither is given back, for the reader to say so.
    """
    name, file = Path(given).as_posix(), folder / given
    if is_file(file) or name.endswith(_SUFFIXES) or os.path.isabs(name) or ".." in Path(given).parts:
        return file
    path = FOLDER / f"{name}.yaml"
    return path if is_file(path) else file


def measurements() -> dict[str, Measured]:
    """What was measured, by the name of the recipe or study."""
    path = FOLDER / "measured.json"
    return checked(path, read_json(path), _Table).root


def _name(path: Path) -> str:
    return path.relative_to(FOLDER).with_suffix("").as_posix()


def _command(path: Path) -> str:
    """Which command takes the file, from its keys at the left margin."""
    keys = {line.partition(":")[0] for line in path.read_text(encoding="utf-8").splitlines() if line[:1].isalpha()}
    return "compare" if "arms" in keys else "sweep" if "sweep" in keys else "train"
