"""`--overwrite`: the run that is in a directory makes room for another."""

import os
import shutil
from contextlib import nullcontext
from pathlib import Path

from heft.errors import HeftError
from heft.recipe.recipe import Recipe
from heft.run.begun import require_free
from heft.run.directory import REPORT
from heft.storage.atomic import readable_os_errors
from heft.storage.locks import LOCK_FILE, locked
from heft.storage.reading import is_dir, is_file, read_json

_OF_A_RUN = {
    LOCK_FILE,
    "recipe.yaml",
    "manifest.json",
    "metrics.jsonl",
    "rows",
    "records",
    "summary.json",
    "adapter",
    "checkpoints",
    "trackers",
    "results.json",
    "results.csv",
    "sweep.svg",
    "winner.yaml",
    "trials.jsonl",
    "tune.json",
    "tune.svg",
    "table.md",
    "arms",
    "best.yaml",
    "study.yaml",
    "run",
    "weights",
    REPORT,
}
"""What runs, sweeps and searches write."""


def require_output(recipe: Recipe, overwrite: bool) -> None:
    """Require that a run, a sweep or a search may begin in a recipe's directory, with `overwrite` in place of another.

    Raises:
        HeftError: `require_free` does, or with `overwrite` `require_replaceable`, or rows of the recipe lie in what
            would be removed.
    """
    path = recipe.output_dir
    if not overwrite:
        require_free(path)
        return
    require_replaceable(path)
    for key, file in type(recipe.task).located(vars(recipe.task)).items():
        if Path(file).resolve().is_relative_to(path.resolve()):
            raise HeftError(
                f"task.{key} is {file}, which lies in output {path}, and --overwrite would remove it: give another"
                " directory with --output DIR, or move these rows"
            )


def require_replaceable(path: Path) -> None:
    """Require that a directory is free, or holds a run or a sweep of heft and nothing else.

    Raises:
        HeftError: it is something else, a link, the folder that the program is in, or has files that heft did not
            write.
    """
    if not is_dir(path) or all(each.name == LOCK_FILE for each in path.iterdir()):
        require_free(path)
        return
    if path.is_symlink():
        raise HeftError(
            f"output {path} is a link to {path.resolve()}, and --overwrite follows none: give that directory itself"
        )
    if Path(os.curdir).resolve().is_relative_to(path.resolve()):
        raise HeftError(
            f"output {path} is the folder that you are in, or holds it, and --overwrite would remove it: go to another"
            " folder, or give another directory with --output DIR"
        )
    if not is_file(path / "recipe.yaml") or not _is_manifest(path / "manifest.json"):
        raise HeftError(
            f"output {path} is not empty and holds no run of heft, so --overwrite leaves it alone: give another with"
            " --output DIR, or remove it"
        )
    others = sorted({each.name.removesuffix(".partial") for each in path.iterdir()} - _OF_A_RUN)
    if others:
        raise HeftError(
            f"output {path} has files beside the run's ({', '.join(others[:5])}), and --overwrite would remove them:"
            " move them away"
        )


def remove_run(path: Path) -> None:
    """Remove the run in a directory, if there is one: it is there as it was, or gone. Links in it are not followed.

    Raises:
        HeftError: `require_replaceable` does, another process works there or in a search's `run`, or it cannot be
            removed.
    """
    require_replaceable(path)
    if not is_dir(path):
        return
    aside = path.with_name(f"{path.name}.old.partial")
    inner = path / "run"
    with (
        locked(path, "run"),
        locked(inner, "run") if is_dir(inner) and not inner.is_symlink() else nullcontext(),
        readable_os_errors(path),
    ):
        if aside.is_symlink() or aside.is_file():
            raise HeftError(f"{aside} is in the way of --overwrite; move it")
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(path, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _is_manifest(path: Path) -> bool:
    try:
        return "format" in read_json(path) and "heft_version" in read_json(path)
    except HeftError:
        return False
