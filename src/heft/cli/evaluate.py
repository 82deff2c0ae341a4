"""`heft eval`: an adapter or a base model on a task."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from heft.cli.options import AsJson, Base, Overrides, Quiet, ServedName, Task, TrustRemoteCode, Url
from heft.errors import HeftError
from heft.text.units import percent

if TYPE_CHECKING:
    from heft.cli.output import Output
    from heft.evaluation import Evaluation
    from heft.recipe.recipe import EvaluationRequest
    from heft.tasks import TaskSettings


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A run, its adapter directory, ORG/NAME@REVISION on the Hub, or a base model as in model.name.",
        ),
    ],
    task: Task = None,
    split: Annotated[str | None, typer.Option(help="Split of the task's data.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Most rows to evaluate on: a sample; with --harness the first of a task.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write one record per example, as JSON Lines; with --harness its samples."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Rows per forward pass.")] = None,
    harness: Annotated[
        str | None,
        typer.Option(metavar="TASKS", help="Evaluate on tasks of lm-evaluation-harness, such as boolq,arc_easy."),
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(min=0, help="--harness: examples before each question (default: the task's).")
    ] = None,
    include_path: Annotated[
        Path | None, typer.Option(metavar="DIR", help="--harness: a folder of YAML tasks of your own.")
    ] = None,
    apply_chat_template: Annotated[
        bool, typer.Option("--apply-chat-template", help="--harness: prompts as turns of a chat.")
    ] = False,
    system_instruction: Annotated[
        str | None, typer.Option(metavar="TEXT", help="--harness: a system message before each prompt.")
    ] = None,
    gen_kwargs: Annotated[
        str | None, typer.Option(metavar="K=V,…", help="--harness: how texts are generated, such as temperature=0.7.")
    ] = None,
    override: Overrides = [],  # noqa: B006 - typer wants a list
    trust_remote_code: TrustRemoteCode = False,
    base: Base = None,
    url: Url = None,
    served_model_name: ServedName = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Evaluate an adapter or a base model on a task. --set takes task.KEY, evaluation.KEY and model.KEY.

    With --harness the tasks are those of lm-evaluation-harness, scored by heft.
    """
    from heft.adapters.places import adapter_directory, is_run_or_adapter
    from heft.cli.evaluate_harness import HarnessOptions, evaluate_harness
    from heft.cli.output import Output
    from heft.cli.remote import require_url
    from heft.recipe.files import evaluation_request
    from heft.storage.targets import require_new_file

    require_url(url, served_model_name, harness)
    asked = HarnessOptions(harness, num_fewshot, include_path, apply_chat_template, system_instruction, gen_kwargs)
    asked.require_to_go_with(task, split, override)
    if output is not None:
        require_new_file(output, "records")
    if harness is not None:
        sizes = {"limit": limit, "batch_size": batch_size}
        how = {"overrides": override, "trust_remote_code": trust_remote_code, "base": base}
        evaluate_harness(model, asked, **sizes, **how, output=output, out=Output(quiet, as_json))
        return
    directory = adapter_directory(model) if is_run_or_adapter(model) else None
    values = _values(model, directory, task, override, trust_remote_code, base)
    settings = evaluation_request(_narrowed(values, split, limit, batch_size), override)
    out = Output(quiet, as_json)
    if url is None:
        result = _here(directory, settings, out)
    else:
        result = _on_a_server(url, served_model_name, directory, settings, out)
    _say(out, result, settings.task, output)


def _narrowed(values: dict[str, dict], split: str | None, limit: int | None, batch_size: int | None) -> dict[str, dict]:
    """Settings with the split, the rows and the batch size that are asked for."""
    from heft.tasks import TASKS

    name = values["task"].get("name")
    if split is not None and name in TASKS and "eval_split" not in TASKS[name].settings_type.model_fields:
        raise HeftError(f"task {name} has no named splits; leave out --split")
    values["task"] |= {} if split is None else {"eval_split": split}
    values["task"] |= {} if limit is None else {"eval_limit": limit}
    values["evaluation"] |= {} if batch_size is None else {"batch_size": batch_size}
    return values


def _here(directory: Path | None, settings: "EvaluationRequest", out: "Output") -> "Evaluation":
    """The evaluation of a base model, or of the adapters in a directory on it."""
    from heft.adapters.directory import open_adapters
    from heft.evaluation import evaluate as run_evaluation
    from heft.models.load import load_base

    base = load_base(settings.model)
    model = base.model if directory is None else open_adapters(directory, base).model
    return run_evaluation(model, base.tokenizer, settings.task, settings.evaluation, out.reporter)


def _on_a_server(
    url: str, name: str | None, directory: Path | None, settings: "EvaluationRequest", out: "Output"
) -> "Evaluation":
    """The evaluation of a model that a server has."""
    from heft.cli.remote import served_name
    from heft.serving.client import ServerClient
    from heft.serving.remote import RemoteModel, all_names

    client = ServerClient(url, name or served_name(directory, (), settings.model.name))
    remote = RemoteModel.of(client, settings, directory, () if directory is None else all_names(directory))
    return remote.evaluate(settings.task, settings.evaluation, out.reporter)


def _say(out: "Output", result: "Evaluation", task: "TaskSettings", output: Path | None) -> None:
    """Print the figures, write the records where they are asked for, and print the document."""
    from heft.cli.documents import EvalDocument
    from heft.results.records import write_records
    from heft.storage.targets import make_folder_of
    from heft.text.units import several

    line, *more = _lines(result, task)
    out.last(line)
    for line in more:
        out.note(line)
    if result.prompts_cut:
        were = "was" if result.prompts_cut == 1 else "were"
        out.reporter.warn(f"{several(result.prompts_cut, 'prompt')} {were} cut to {task.max_length} tokens")
    out.note(f"{result.seconds:.1f} seconds")
    if output is not None:
        make_folder_of(output)
        write_records(output, result.records)
        out.last(f"records: {output}")
    out.document(
        EvalDocument,
        task=task.name,
        **asdict(result.metrics),
        labels=None if result.labels is None else list(result.labels),
        prompts_cut=result.prompts_cut,
        records=None if output is None else str(output),
    )


def _values(
    model: str,
    directory: Path | None,
    task: str | None,
    overrides: Sequence[str],
    trust_remote_code: bool,
    base: str | None,
) -> dict[str, dict]:
    """Settings of model, task and evaluation: the adapter's where it was trained on that task, else the defaults."""
    from heft.adapters.manifest import base_settings, read_manifest
    from heft.tasks import TASKS, allow_import_from, is_own, unknown_task

    if is_own(task):
        allow_import_from(Path())
    elif task is not None and task not in TASKS:
        raise unknown_task(task)
    if directory is not None:
        manifest = read_manifest(directory)
        # refused where its code may not run; a name that a person overrides need not exist
        renamed = any(text.partition("=")[0].strip() == "model.name" for text in overrides)
        found = base_settings(
            directory, manifest, trust_remote_code, manifest.model.name if renamed and not base else base
        )
        own_task = manifest.task if task in (None, manifest.task.get("name")) else {"name": task}
        return {"task": dict(own_task), "evaluation": dict(manifest.evaluation), "model": found.model_dump()}
    if base is not None:
        raise HeftError(
            f"--base {base} goes with a run or an adapter directory, and {model} is neither: give the base itself"
        )
    if task is None:
        expected = f"give one with --task: {', '.join(TASKS)}"
        raise HeftError(f"{model} is neither a run nor an adapter directory, so it has no task of its own; {expected}")
    trust = {"trust_remote_code": True} if trust_remote_code else {}
    return {"task": {"name": task}, "evaluation": {}, "model": {"name": model, **trust}}


def _lines(result: "Evaluation", task: "TaskSettings") -> list[str]:
    metrics = result.metrics
    low, high = metrics.interval
    lines = [
        f"{task.name}: accuracy {percent(metrics.accuracy)} ({percent(low)} to {percent(high)}), {metrics.n:,} examples"
    ]
    if metrics.loss is not None:
        lines.append(f"loss of the reference answers {metrics.loss:.4f} nats a token")
    if metrics.rouge_l is not None:
        lines.append(f"ROUGE-L {100 * metrics.rouge_l:.1f}, chrF {100 * metrics.chrf:.1f} (of 100)")
    if metrics.predictions is not None:
        from heft.results.labels import label_of

        shares = metrics.predictions.items()
        answers = ", ".join(f"{label_of(int(index), result.labels)} {percent(share)}" for index, share in shares)
        lines.append(
            f"balanced accuracy {percent(metrics.balanced_accuracy)}, majority class {percent(metrics.majority)}"
        )
        lines.append(f"predicted {answers}")
    return lines
