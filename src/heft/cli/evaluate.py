"""`heft eval`: which model, which task with which settings, and the figures."""

import os
from collections.abc import Sequence
from pathlib import Path

from heft.cli.show import ConsoleReporter
from heft.errors import HeftError
from heft.recipe.files import evaluation_request
from heft.results.metrics import Metrics
from heft.results.records import write_records
from heft.storage.atomic import readable_os_errors
from heft.storage.reading import is_dir, nearest_existing
from heft.tasks import TASKS, TaskSettings, unknown_task
from heft.text.units import percent


def run_evaluation(
    model: str,
    task: str | None,
    split: str | None,
    limit: int | None,
    output: Path | None,
    batch_size: int | None,
    overrides: Sequence[str],
    trust_remote_code: bool = False,
    base: str | None = None,
) -> None:
    """Evaluate and print; settings come from the adapter where it was trained on that task, else from the defaults."""
    if task is not None and task not in TASKS:
        raise unknown_task(task)
    from heft.adapters.directory import open_adapters

    path = Path(model)
    is_adapter = os.path.isfile(path / "heft.json")
    known = _known_of_adapter(path, overrides, trust_remote_code, base) if is_adapter else _known_of_base(model, base)
    if not is_adapter and trust_remote_code:
        known["model"]["trust_remote_code"] = True
    if task is None and not is_adapter:
        raise HeftError(
            f"{model} is no adapter directory, so it has no task of its own; give one with --task: {', '.join(TASKS)}"
        )
    own_task = known["task"] if task in (None, known["task"].get("name")) else {"name": task}
    values = {"task": dict(own_task), "evaluation": dict(known["evaluation"]), "model": dict(known["model"])}
    if split is not None:
        _require_splits(values["task"].get("name"))
        values["task"]["eval_split"] = split
    if limit is not None:
        values["task"]["eval_limit"] = limit
    if batch_size is not None:
        values["evaluation"]["batch_size"] = batch_size
    settings = evaluation_request(values, overrides)
    if output is not None:
        _require_a_place(output)

    reporter = ConsoleReporter()
    from heft.evaluation import evaluate
    from heft.models.load import load_base

    loaded = load_base(settings.model)
    adapted = open_adapters(path, loaded).model if is_adapter else loaded.model
    result = evaluate(adapted, loaded.tokenizer, settings.task, settings.evaluation, reporter)
    for line in _lines(result.metrics, settings.task):
        reporter.note(line)
    if result.prompts_cut:
        reporter.note(f"{result.prompts_cut:,} prompts were cut to {settings.task.max_length} tokens")
    reporter.note(f"{result.seconds:.1f} seconds")
    if output is not None:
        with readable_os_errors(output):
            output.parent.mkdir(parents=True, exist_ok=True)
        write_records(output, result.records)
        reporter.note(f"records: {output}")


def _known_of_adapter(path: Path, overrides: Sequence[str], trust_remote_code: bool, base: str | None) -> dict:
    """What an adapter directory says of its model, task and evaluation."""
    from heft.adapters.manifest import base_settings, read_manifest

    manifest = read_manifest(path)
    # refuses where that was not allowed; a name that a person overrides need not be there
    renamed = any(text.partition("=")[0].strip() == "model.name" for text in overrides)
    found = base_settings(path, manifest, trust_remote_code, manifest.model.name if renamed and not base else base)
    return manifest.model_dump() | {"model": found.model_dump()}


def _known_of_base(model: str, base: str | None) -> dict:
    if base is not None:
        raise HeftError(f"--base {base} goes with an adapter directory, and {model} is none: give the base itself")
    return {"model": {"name": model}, "task": {}, "evaluation": {}}


def _require_a_place(output: Path) -> None:
    if is_dir(output):
        raise HeftError(f"--output {output} is a folder; give the file that records are to be written to")
    above = nearest_existing(output.parent)
    if not is_dir(above):
        raise HeftError(f"--output {output} cannot be made: {above} is a file")


def _require_splits(task: object) -> None:
    if task in TASKS and "eval_split" not in TASKS[task].settings_type.model_fields:
        raise HeftError(f"task {task} has no named splits; leave out --split")


def _lines(metrics: Metrics, task: TaskSettings) -> list[str]:
    low, high = metrics.interval
    lines = [
        f"{task.name}: accuracy {percent(metrics.accuracy)} ({percent(low)} to {percent(high)}), {metrics.n:,} examples"
    ]
    if metrics.predictions is not None:
        answers = ", ".join(f"{name} {percent(share)}" for name, share in metrics.predictions.items())
        lines.append(
            f"balanced accuracy {percent(metrics.balanced_accuracy)}, majority class {percent(metrics.majority)}"
        )
        lines.append(f"predicted {answers}")
    return lines
