"""What a directory holds before a run starts there: nothing, a run that can be resumed, or something in its way."""

import shutil
from pathlib import Path

from pydantic import ValidationError

from heft.errors import HeftError
from heft.recipe.defaults import with_defaults_of
from heft.recipe.files import difference, load_recipe, with_date_of
from heft.recipe.model import ModelSettings
from heft.recipe.recipe import Recipe
from heft.storage.locks import LOCK_FILE, locked
from heft.storage.reading import is_dir, is_file, read_json
from heft.storage.targets import require_possible
from heft.text.command import command

_FIRST_FILES = {LOCK_FILE, "records", "rows", "recipe.yaml", "recipe.yaml.partial", "manifest.json.partial"}
"""What there is before manifest.json: a run that was ended so early has done nothing yet."""


def is_begun(path: Path) -> bool:
    """Whether there is a run that can be resumed, or that is finished."""
    return is_file(path / "manifest.json") and is_file(path / "recipe.yaml")


def model_begun_with(path: Path, model: ModelSettings) -> ModelSettings:
    """A recipe's model with the dtype that `auto` was when the run in a directory was begun, perhaps elsewhere.

    Raises:
        HeftError: its manifest cannot be read, or does not say.
    """
    base = read_json(path / "manifest.json").get("base")
    begun = {"dtype": base.get("dtype") if isinstance(base, dict) else None} if model.dtype == "auto" else {}
    try:
        return ModelSettings.model_validate(model.model_dump() | begun)
    except ValidationError:
        raise HeftError(
            f"{path / 'manifest.json'} gives the base the dtype {begun['dtype']!r}, which this version of heft does"
            " not know, so it cannot be resumed: give another directory with --output DIR"
        ) from None


def is_finished(path: Path) -> bool:
    """Whether a run is there with its adapter, which is written last."""
    return is_begun(path) and is_file(path / "adapter" / "heft.json")


def require_free(path: Path) -> None:
    """Require that a run may be written there.

    Raises:
        HeftError: the path is a file, cannot be a directory, or is one that is not empty.
    """
    require_possible(path)
    if path.exists() and not is_dir(path):
        raise HeftError(f"output {path} is a file; give a directory that does not exist yet (--output DIR)")
    if is_dir(path) and any(each.name != LOCK_FILE for each in path.iterdir()):
        if is_search(path):
            raise HeftError(
                f"output {path} holds a search of heft tune: go on with --resume, replace it with --overwrite, or give"
                " another directory with --output DIR"
            )
        if is_begun(path) and not is_finished(path):
            if _is_sweep(path):
                raise HeftError(
                    f"output {path} holds a sweep that is not finished, and a sweep begins again: replace it with"
                    " --overwrite, or give another directory with --output DIR"
                )
            raise HeftError(
                f"output {path} holds a run that is not finished: resume it with --resume, replace it with --overwrite,"
                " or give another directory with --output DIR"
            )
        if not is_begun(path):
            raise HeftError(f"output {path} is not empty; give another with --output DIR, or remove it")
        what, again = ("sweep", "") if _is_sweep(path) else ("run", "--resume shows its figures again, ")
        raise HeftError(
            f"output {path} already holds a {what}: {again}--overwrite replaces it, --output DIR writes elsewhere"
        )


def require_same(recipe: Recipe) -> Recipe:
    """Require that the run in a recipe's directory was begun with that recipe.

    Returns:
        The recipe, with the run's date for its chat template where it leaves that open.

    Raises:
        HeftError: it was another one.
    """
    if is_search(recipe.output_dir):
        raise HeftError(
            f"{recipe.output_dir} holds a search, which heft tune resumes; give another directory with --output DIR"
        )
    if _is_sweep(recipe.output_dir):
        raise HeftError(f"{recipe.output_dir} holds a sweep, which cannot be resumed; give another with --output DIR")
    return _same(recipe, "run", "train")


def require_same_search(recipe: Recipe, budget: str) -> Recipe:
    """As `require_same`, of a search of `heft tune` with its budget."""
    path = recipe.output_dir
    if not is_search(path):
        raise HeftError(f"{path} holds no search of heft tune; give another directory with --output DIR")
    begun_with = _tune_of(path).get("budget")
    if begun_with != budget:
        raise HeftError(
            f"{path} holds a search with a budget of {begun_with}, not {budget}: its trials are as long as that pays"
            f" for. Resume it with --budget {begun_with}, or give another directory with --output DIR"
        )
    return _same(recipe, "search", f"tune --budget {budget}")


def _same(recipe: Recipe, what: str, name: str) -> Recipe:
    """Require that what is in a recipe's directory was begun with that recipe; see `require_same`."""
    path = recipe.output_dir / "recipe.yaml"
    there = load_recipe(path)
    unlike = difference(there, recipe)
    if unlike is not None:
        again = command(*name.split(), path, "--resume", "--output", recipe.output_dir)
        raise HeftError(
            f"{recipe.output_dir} holds a {what} of another recipe ({unlike}); resume it with `{again}`, or"
            " give another directory with --output DIR"
        )
    return with_defaults_of(there, with_date_of(there, recipe))


def is_search(path: Path) -> bool:
    """Whether a directory holds a search of `heft tune`, begun or finished."""
    return is_begun(path) and bool(_tune_of(path))


def _tune_of(path: Path) -> dict:
    """What a manifest says of a search; empty where there is none."""
    about = read_json(path / "manifest.json").get("tune")
    return about if isinstance(about, dict) else {}


def _is_sweep(path: Path) -> bool:
    return is_file(path / "winner.yaml") or load_recipe(path / "recipe.yaml").sweep is not None


def clear_first_files(path: Path) -> None:
    """Remove what a run left that was ended before it had done anything; nothing where there is more, or no such run.

    Raises:
        HeftError: another process is working there.
    """
    if is_file(path / LOCK_FILE) and {each.name for each in path.iterdir()} <= _FIRST_FILES:
        with locked(path, "run"):
            remove_first_files(path)


def remove_first_files(path: Path) -> None:
    """Remove what a run writes before manifest.json."""
    folders = {"records", "rows"}
    for name in folders:
        shutil.rmtree(path / name, ignore_errors=True)
    for name in _FIRST_FILES - {LOCK_FILE} - folders:
        (path / name).unlink(missing_ok=True)
