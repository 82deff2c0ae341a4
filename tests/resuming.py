"""A short run of two stages for the tests of resuming: begun, interrupted in some way, resumed, compared."""

import json
import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

import heft
from heft.recipe.files import load_recipe
from tiny_recipe import recipe_text

START = recipe_text("", "checkpoint: {every_steps: 1}")
RECIPE = (
    START
    + """
  coarse: {method: lora, rank: 2, dropout: 0.1, epochs: 2, batch_size: 5, holdout: 0.1, evaluate_every: 3,
           best_checkpoint: true, learning_rate: 1e-2}
  fine: {method: reft, rank: 2, dropout: 0.1, positions: l3, epochs: 3, batch_size: 8, micro_batch_size: 4}
"""
)


def write(folder: Path, recipe: str = RECIPE) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(recipe)
    return path


def run(recipe: Path, output: Path, *settings: str) -> None:
    heft.train(load_recipe(recipe, settings, output=str(output)), resume=True)


def results(directory: Path) -> dict[str, object]:
    """All that must be the same whether or not a run was ended on the way: bytes, and figures but for time and room."""
    files = [*directory.glob("records/*"), *directory.glob("adapter/**/*"), directory / "metrics.jsonl"]
    found: dict[str, object] = {str(file.relative_to(directory)): file.read_bytes() for file in files if file.is_file()}
    stages = json.loads((directory / "summary.json").read_text())["stages"]
    timed = ("seconds", "evaluation_seconds", "peak_bytes")
    found["summary"] = [{key: value for key, value in stage.items() if key not in timed} for stage in stages]
    found["files"] = sorted(str(file.relative_to(directory)) for file in directory.rglob("*") if file.name != ".lock")
    return found


def in_a_child(work: Callable[[], None], log: Path | None = None) -> int:
    """Start work in a forked process, which has everything imported already; its process id.

    It says nothing; what it raises is written to `log`, where that is given.
    """
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        work()
        status = 0
    except BaseException as error:
        if log is not None:
            log.write_text(f"{type(error).__name__}: {error}\n\n{traceback.format_exc()}")
    finally:
        os._exit(status)


def was_killed(child: int) -> bool:
    """Wait for a child; whether SIGKILL ended it. Any other end but a good one is an error."""
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    assert os.waitstatus_to_exitcode(status) == 0, "the run failed"
    return False
