"""`heft.predict`: a model's answers to rows, from Python."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heft.api.progress import reporter_for
from heft.errors import HeftError
from heft.runtime.reporter import Reporter
from heft.tasks.base import TaskSettings

if TYPE_CHECKING:
    from heft.prediction.opening import Answering


def predict(
    model: Any,
    rows: Any,
    *,
    tokenizer: Any = None,
    task: TaskSettings | Mapping[str, Any] | None = None,
    stages: str | Sequence[str] = (),
    overrides: Sequence[str] = (),
    base: str | None = None,
    batch_size: int | None = None,
    split: str | None = None,
    encoding: str | None = None,
    skip_bad_rows: bool = False,
    trust_remote_code: bool = False,
    output: str | Path | None = None,
    reporter: Reporter | None = None,
    progress: bool | None = None,
) -> Any:
    """A model's answer to each row, with the probability of each label.

    Args:
        model: a run, its adapter directory or a recipe, as a path; the result of `heft.train`; or a model, such as
            `heft.load` returns, alone or with its tokenizer.
        rows: a list of dicts, a pandas DataFrame, a `datasets.Dataset`, or the path or Hub id of a table. The right
            answer need not be there.
        tokenizer: of a model that is not from `heft.load`.
        task: likewise: the task's settings, as in a recipe.
        stages: one or several, as `--stages` of `heft predict`, where `model` is a path; likewise the next two.
        overrides: as `--set`.
        base: as `--base`.
        batch_size: rows per forward pass; None: as evaluated.
        split: of a data set that has several.
        encoding: of a text file that is not in Unicode, such as cp1252.
        skip_bad_rows: whether rows that cannot be used are left without a prediction.
        trust_remote_code: as `--trust-remote-code`.
        output: a file to write as well: .jsonl, .csv, .tsv or .parquet.
        reporter: as for `heft.train`.
        progress: likewise.

    Returns:
        A list of dicts: each row's own columns with `prediction` and, for labels, `probability` and
        `probability_LABEL`. A DataFrame, with the index of the one that was given, where `rows` is one.

    Raises:
        HeftError: rows cannot be used, all of which are counted; or the model cannot be loaded, or is not ready
            (`heft.evaluation.evaluator.require_ready`).
    """
    from heft.prediction.output import output_rows, require_place, require_writable, write_rows
    from heft.prediction.predict import predict_rows
    from heft.prediction.prediction import require_free_columns
    from heft.tasks.table import read_table

    if output is not None:
        require_place(Path(output), rows if isinstance(rows, str | Path) else None)
    table = read_table(rows, split=split, encoding=encoding)
    require_free_columns(table)
    if output is not None:
        require_writable(Path(output), table)
    if isinstance(model, str | os.PathLike):
        from heft.prediction.opening import opening

        chosen = [stages] if isinstance(stages, str) else stages
        answering = opening(Path(model), chosen, overrides, base, trust_remote_code).load()
    else:
        if stages or overrides or base is not None:
            raise HeftError("stages, overrides and base are for a path; a model answers as it is")
        answering = _of_model(model, tokenizer, task)
    if batch_size is not None:
        answering = answering.with_batch_size(batch_size)
    reporter = reporter or reporter_for(progress, to_stderr=True)
    predictions = predict_rows(answering, table, reporter, skip_bad_rows)
    for line in predictions.notes[1:]:
        reporter.warn(line)
    found = output_rows(predictions)
    if output is not None:
        write_rows(Path(output), found)
    return _like(rows, found)


def _of_model(model: Any, tokenizer: Any, task: TaskSettings | Mapping[str, Any] | None) -> "Answering":
    """A model with the tokenizer and the task that it was loaded with, or those that are given."""
    from heft.adapters.loaded import origin_of
    from heft.evaluation.evaluator import require_model, require_ready
    from heft.prediction.opening import Answering
    from heft.recipe.files import evaluation_request
    from heft.recipe.recipe import EvaluationSettings

    if isinstance(model, tuple):
        if len(model) != 2:
            raise HeftError(f"a model with its tokenizer are two; got a tuple of {len(model)}")
        model, tokenizer = model
    require_model(model)
    origin = origin_of(model)
    if origin is not None:
        tokenizer = origin.tokenizer if tokenizer is None else tokenizer
    if tokenizer is None or (task is None and origin is None):
        raise HeftError(
            "the model is not from heft.load, so its tokenizer and its task are not known: give tokenizer= and task="
        )
    require_ready(model, tokenizer)
    if task is not None and not isinstance(task, TaskSettings | Mapping):
        raise HeftError(f"task is a {type(task).__name__}; expected the settings of a task, as in a recipe")
    if isinstance(task, TaskSettings):
        return Answering(model, tokenizer, task, EvaluationSettings())
    values: dict[str, Any] = {"task": dict(task) if task is not None else dict(origin.manifest.task)}
    if task is None:
        values["evaluation"] = dict(origin.manifest.evaluation)
    request = evaluation_request(values, where="heft.predict")
    return Answering(model, tokenizer, request.task, request.evaluation)


def _like(rows: Any, found: list[dict[str, Any]]) -> Any:
    """The predictions as what the rows were: a DataFrame for one, else a list of dicts."""
    pandas = sys.modules.get("pandas")
    if pandas is None or not isinstance(rows, pandas.DataFrame):
        return found
    added = [name for name in found[0] if name not in rows.columns]
    return rows.assign(**{name: [row[name] for row in found] for name in added})
