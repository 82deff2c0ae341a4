"""A run's directory or its adapter directory: people give either, and the two are found from each other here. An
adapter directory on the Hub is `ORG/NAME@REVISION`.

Needs no torch. `runs/<name>/` holds `manifest.json`, and `adapter/` with `heft.json` once the run is finished.
"""

import os
from pathlib import Path

from heft.adapters.hub import downloaded, hub_id, is_pinned, name_of
from heft.adapters.replacing import finish_replacing
from heft.errors import HeftError
from heft.recipe.files import load_recipe
from heft.settings.words import show
from heft.storage.reading import is_file, read_json
from heft.text.command import command

_EXPECTED = (
    "the directory of a run, such as runs/quickstart, or its adapter directory, runs/quickstart/adapter, or"
    " ORG/NAME@REVISION on the Hub"
)


def is_run_or_adapter(given: str | Path) -> bool:
    """Whether a path is a run's directory, finished or not, or an adapter directory, here or on the Hub."""
    return is_pinned(_text(given)) or any(is_file(Path(given) / name) for name in ("heft.json", "manifest.json"))


def adapter_directory(given: str | Path) -> Path:
    """The adapter directory of a run, or the adapter directory itself; one on the Hub is downloaded.

    Raises:
        HeftError: it is neither, or a run without an adapter; the message says what was found there.
    """
    if not isinstance(given, str | os.PathLike):
        raise HeftError(f"expected {_EXPECTED}; got {show(given)}")
    path = Path(given)
    if is_pinned(_text(given)):
        path = downloaded(*hub_id(_text(given)))
        if not is_file(path / "heft.json"):
            raise HeftError(
                f"{given} on the Hub is no adapter directory of heft: it has no heft.json. A LoRA of PEFT's is what a"
                f" stage starts from (from: {given}), or `{command('import', given, 'OUT')}`"
            )
    finish_replacing(path)
    if is_file(path / "heft.json"):
        return path
    if is_file(path / "adapter" / "heft.json"):
        return path / "adapter"
    raise HeftError(_why_no_adapter(path))


def run_directory(given: str | Path) -> Path:
    """The directory of the run that an adapter directory is in, or the run's directory itself.

    Raises:
        HeftError: it is neither, or an adapter directory without its run; the message says what was found there.
    """
    path = Path(given)
    if is_file(path / "manifest.json"):
        return path
    if not os.path.exists(path):  # unlike Path.exists, of any text
        raise HeftError(f"{path} does not exist; give the directory of a run or of a study")
    if is_file(path / "heft.json"):
        above = Path(os.path.abspath(path)).parent
        if is_file(above / "manifest.json"):
            return above if path.name in ("", "..") else path.parent
        raise HeftError(
            f"{path} is an adapter directory without its run, so it has no records and no figures; give the run's"
            " directory"
        )
    raise HeftError(
        f"{path} is not a run directory: it has no manifest.json; give one that heft train or a study wrote"
    )


def search_in(path: Path) -> str | None:
    """What a directory with a manifest.json holds, and what to give in its place, where that is a search of heft tune;
    else None."""
    search = read_json(path / "manifest.json").get("tune")
    if search and is_file(path / "run" / "manifest.json"):
        return f"{path} holds a search of heft tune, and its adapters are those of its run: give {path / 'run'}"
    if not search:
        return None
    best, budget = path / "best.yaml", search.get("budget") if isinstance(search, dict) else "BUDGET"
    again = command("train", best) if is_file(best) else command("tune", "RECIPE", "--budget", budget, "--resume")
    return f"{path} holds a search of heft tune without the run of its best recipe, so no adapter: `{again}`"


def own_name(directory: Path) -> str:
    """What an adapter directory is called where no name is given: as its run, or as its repository on the Hub."""
    if name := name_of(directory):
        return name
    path = directory.resolve()
    return path.parent.name if path.name == "adapter" else path.name


def _text(given: str | Path) -> str:
    return given if isinstance(given, str) else Path(given).as_posix()


def _why_no_adapter(path: Path) -> str:
    if not os.path.exists(path):
        return f"{path} does not exist; expected {_EXPECTED}"
    if is_file(path):
        return f"{path} is a file; expected {_EXPECTED}"
    if is_file(path / "adapter_config.json"):
        above = f" (it has {path.parent}/heft.json)" if is_file(path.parent / "heft.json") else ""
        return (
            f"{path} is not an adapter directory of heft: it has no heft.json, and is one adapter in PEFT's format;"
            f" expected the folder above it{above}"
        )
    if is_file(path / "study.json"):
        return f"{path} is not an adapter directory: it holds a study; expected one of its runs"
    if is_file(path / "manifest.json"):
        return _unfinished(path)
    return f"{path} is not an adapter directory: it has no heft.json; expected {_EXPECTED}"


def _unfinished(path: Path) -> str:
    """What a directory with a manifest.json and no adapter holds, and where an adapter comes from."""
    if (search := search_in(path)) is not None:
        return search
    if is_file(path / "recipe.yaml") and load_recipe(path / "recipe.yaml").sweep is not None:
        return (
            f"{path} holds a sweep without an adapter, which is written at the end, and a sweep begins again:"
            " `heft sweep RECIPE --overwrite`"
        )
    return (
        f"{path} holds a run without an adapter, which is written at the end: finish it with `heft train RECIPE"
        " --resume`"
    )
