"""The JSON documents of `--json`, declared once; docs/json.md is written from them.

`python -m heft.cli.documents > docs/json.md` writes it anew.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from heft.results.summary import StageSummary
from heft.settings.words import Schema, describe, resolve, schema_of


class _Document(BaseModel):
    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class _Done(_Document):
    seconds: float
    """From the command's start to its end."""
    warnings: list[str]
    """What is odd, was damaged or may change the result, in the order in which it was found."""


class TrainDocument(_Done):
    """`heft train --json`."""

    command: Literal["train"] = "train"
    """The command."""
    run: str
    """The run directory."""
    adapter: str
    """The adapter directory."""
    stages: list[StageSummary]
    """The base and each stage, as in summary.json; see below."""


class EvalDocument(_Done):
    """`heft eval --json`."""

    command: Literal["eval"] = "eval"
    """The command."""
    task: str
    """Name of the task."""
    n: int
    """Examples."""
    accuracy: float
    """Share answered rightly."""
    interval: tuple[float, float]
    """Wilson's 95 % interval of the accuracy."""
    balanced_accuracy: float | None
    """Mean recall over classes; null for generated answers."""
    majority: float | None
    """Share of the commonest right answer; null for generated answers."""
    predictions: dict[str, float] | None
    """How often each choice was predicted, as a share, by its index; null for generated answers."""
    labels: list[str] | None
    """What the choices stand for, by their index, where all examples have the same; else null."""
    loss: float | None
    """Cross-entropy of a token of the reference answers (nats); null where choices are scored."""
    rouge_l: float | None
    """ROUGE-L of generated texts, 0 to 1; null where choices are scored, or only a part of a text is compared."""
    chrf: float | None
    """chrF of generated texts, 0 to 1; null likewise."""
    prompts_cut: int
    """Prompts that were cut to the task's max_length."""
    records: str | None
    """The file of records, where one was asked for."""


class HarnessRow(_Document):
    """A figure of lm-evaluation-harness."""

    task: str
    """Name of the task, or of a group of tasks."""
    metric: str
    """As the harness calls it, such as acc."""
    filter: str
    """What answers went through before they were counted; mostly none."""
    value: float | None
    """As the harness gives it, such as 0.5 for an accuracy of a half; null for NaN."""
    stderr: float | None
    """Its standard error; null where the harness gives none, or NaN."""
    higher_is_better: bool | None
    """Null where the task does not say."""
    n: int | None
    """Rows; null for a group."""
    num_fewshot: int | None
    """Examples before each question; null for a group."""


class HarnessDocument(_Done):
    """`heft eval --harness TASKS --json`."""

    command: Literal["eval"] = "eval"
    """The command."""
    harness: str
    """The version of lm-evaluation-harness."""
    results: list[HarnessRow]
    """The figures of every task and group; see below."""
    samples: str | None
    """The file of samples, where one was asked for."""


class PredictDocument(_Done):
    """`heft predict --json`, which needs `--output`."""

    command: Literal["predict"] = "predict"
    """The command."""
    output: str
    """The file of rows with predictions."""
    rows: int
    """Rows in it."""
    unusable: int
    """Rows without a prediction, since they cannot be used (`--skip-bad-rows`)."""
    n: int
    """Rows whose right answer is known."""
    accuracy: float | None
    """Share of these answered rightly; null where there are none."""
    interval: tuple[float, float] | None
    """Wilson's 95 % interval of the accuracy."""


class SweepRow(_Document):
    """A configuration of a sweep."""

    name: str
    """c00, c01, …"""
    values: dict[str, Any]
    """Its settings from the grid."""
    expected_errors: float | None
    """Expected share of wrong answers on the validation rows, by which the best is chosen; null where answers are
    generated (the loss chooses) or it diverged."""
    loss: float | None
    """Validation loss; null where it diverged."""
    accuracy: float | None
    """Accuracy on the validation rows; null where answers are generated or it diverged."""
    interval: tuple[float, float] | None
    """Its 95 % interval."""
    n: int
    """Validation rows."""
    steps: int
    """Optimizer steps taken."""
    trainable_parameters: int
    """Numbers that were trained."""
    stopped_early: bool
    """Whether its validation loss ended it before its steps did."""
    diverged: bool
    """Whether a loss, a gradient or a weight was NaN or infinite."""


class SweepDocument(_Done):
    """`heft sweep --json`."""

    command: Literal["sweep"] = "sweep"
    """The command."""
    sweep: str
    """The sweep's directory."""
    winner: str
    """The best configuration as a recipe."""
    adapter: str
    """The adapter directory of the earlier stages and the winner."""
    results: list[SweepRow]
    """Every configuration, best first; see below."""
    evaluation: StageSummary | None
    """The winner on the evaluation split, where the recipe asks for it."""


class LayerProbeDocument(_Document):
    """`layer_probe` in the document of `heft plan --probe-layers --json`. Norms are in nats per answer token and unit
    of the edit; lists of layers begin with layer 0."""

    group_names: list[str]
    """Groups of tokens, in the order that all lists of groups have."""
    rows: int
    """Training rows that were looked at."""
    positions: str
    """Positions by which layers are compared."""
    tokens: list[int]
    """Tokens of each group in these rows."""
    edited: list[float]
    """Of each layer, the norm of the gradient, mean over rows, of a zero edit of these positions."""
    edited_rows: list[float]
    """Likewise, the mean over rows of each row's own norm."""
    groups: list[list[float]]
    """As `edited`, of an edit of each group alone: layers of groups."""
    groups_rows: list[list[float]]
    """As `edited_rows`, likewise."""
    layer_shares: list[float]
    """Each layer's share of the sum of `edited`."""
    agreement: list[float]
    """`edited` by `edited_rows`: 1 where all rows ask for the same edit."""
    group_shares: list[float]
    """Each group's share of the sum of `groups`."""
    order: list[int]
    """Layers, the one with the largest `edited` first."""


class TuneArm(_Document):
    """An arm of a search, by its best trial."""

    arm: str
    """Its name."""
    loss: float
    """What the search's trials are chosen by (`chosen_by`), on the validation rows."""
    accuracy: float | None
    """Accuracy on the validation rows; null where answers are generated or there are more than eight choices."""
    difference: float
    """Of the loss, from the best arm's."""
    interval: tuple[float, float] | None
    """95 % interval of the difference, paired by row; null where there is nothing to compare."""
    ties: bool
    """Whether that interval includes 0."""
    still_falls: bool
    """Whether the loss still fell with length: the same recipe with fewer steps was worse, with an interval that
    excludes 0, and none with more was tried."""
    training_seconds: float | None
    """Seconds of training the best trial's recipe alone; null where they were not measured."""
    training_flops: float
    """FLOPs of the same, as executed."""
    spent: float
    """What the arm used of the budget, in seconds or FLOPs."""
    trials: int
    """Trials of whole recipes of the arm."""
    recipe: str
    """The file of its best recipe."""


class TuneDocument(_Done):
    """`heft tune --json`."""

    command: Literal["tune"] = "tune"
    """The command."""
    search: str
    """The directory of the search."""
    best: str
    """The recipe that is taken, as a file."""
    chosen_by: Literal["expected errors", "validation loss"]
    """What trials are chosen by, which is `loss` in `arms`: the expected share of wrong answers, 0 to 1, where rows
    have choices; else of an answer token."""
    winner: str
    """The arm that it is of."""
    verdict: str
    """Who wins and why, in words."""
    arms: list[TuneArm]
    """The arms, lowest loss first; see below."""
    run: str | None
    """The run of the best recipe; null with `--no-run`."""
    stages: list[StageSummary] | None
    """Its base and stages, as in summary.json."""


class ExportDocument(_Done):
    """`heft export --json`."""

    command: Literal["export"] = "export"
    """The command."""
    output: str
    """The folder."""
    format: Literal["transformers", "peft", "pyreft"]
    """Whose format it is in."""
    adapters: list[str]
    """The adapters that are in it."""
    beside: list[str]
    """Those of them that are beside a merged model, in `adapter/`."""
    folded: list[str]
    """ReFT adapters that are part of weights."""
    difference: float | None
    """Largest difference of logits from the adapted model's; null where files are copies."""


class PushDocument(_Done):
    """`heft push --json`."""

    command: Literal["push"] = "push"
    """The command."""
    repository: str
    """ORG/NAME."""
    files: list[str]
    """Paths in the repository."""
    commit: str | None
    """Id of the commit; null with `--dry-run`."""
    url: str | None
    """Its address."""


class Error(_Document):
    """What went wrong."""

    kind: Literal["input", "usage", "interrupted", "defect"]
    """input: something given is wrong. usage: the command line is wrong. interrupted: Ctrl-C or SIGTERM. defect: heft
    is wrong."""
    message: str
    """In words, as on standard error."""
    exit_status: int
    """Of the command."""


class ErrorDocument(_Document):
    """Any command with `--json` that fails."""

    error: Error
    """See below."""


INTRODUCTION = """\
# JSON on standard output

<!-- Written by `python -m heft.cli.documents > docs/json.md`; change the declarations, not this file. -->

`heft train`, `heft eval`, `heft predict`, `heft sweep`, `heft tune`, `heft export` and `heft push` take `--json`: one
document on standard output at the end, progress on standard error. An error is a document too, beside its line on
standard error, and the exit status is the same as without `--json`: 2 for what is wrong in the input, 130 and 143 after
Ctrl-C and SIGTERM. So are errors of every other command that has `--json` (plan, compare, verify, doctor, recipes),
whose documents hold what they print.

`--quiet` prints warnings, on standard error, and the last lines.

```
heft train quickstart --json | jq '.stages[-1].accuracy'
```
"""


def documents_page() -> str:
    """The text of docs/json.md."""
    kinds = (
        *(TrainDocument, StageSummary, EvalDocument, HarnessDocument, HarnessRow, PredictDocument, SweepDocument),
        *(SweepRow, LayerProbeDocument, TuneDocument, TuneArm, ExportDocument, PushDocument, ErrorDocument, Error),
    )
    return "\n".join([INTRODUCTION, *(_section(kind) for kind in kinds)])


def _section(kind: type[BaseModel]) -> str:
    schema = schema_of(kind)
    about = " ".join(schema["description"].split())
    rows = ["| key | value | meaning |", "|---|---|---|"]
    for key, node in schema["properties"].items():
        meaning = " ".join((node.get("description") or "").split())
        rows.append(f"| `{key}` | {_value(node)} | {meaning} |".replace("<", "&lt;"))
    title = kind.__name__.removesuffix("Document")
    return f"## {title}\n\n{about}\n\n" + "\n".join(rows) + "\n"


def _value(node: Schema) -> str:
    inner = resolve(node)
    if "properties" in inner:
        words = "an object"
    elif inner.get("type") == "array" and "prefixItems" in inner:
        words = "two numbers"
    elif inner.get("type") == "array" and "properties" in resolve(inner.get("items", {})):
        words = "a list of objects"
    else:
        return describe(node)
    return f"{words}, or null" if inner is not node and "anyOf" in node else words


if __name__ == "__main__":
    print(documents_page(), end="")
