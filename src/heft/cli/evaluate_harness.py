"""`heft eval MODEL --harness TASKS`: lm-evaluation-harness on an adapter or a base model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heft.errors import HeftError

if TYPE_CHECKING:
    from heft.cli.output import Output
    from heft.harness.tasks import HarnessFigure


@dataclass(frozen=True)
class HarnessOptions:
    """Options of `heft eval` that are the harness's.

    Attributes:
        tasks: of `--harness`; None where heft's own task is evaluated, with which none of the others goes.
    """

    tasks: str | None
    num_fewshot: int | None = None
    include_path: Path | None = None
    apply_chat_template: bool = False
    system_instruction: str | None = None
    gen_kwargs: str | None = None

    def require_to_go_with(self, task: str | None, split: str | None, overrides: Sequence[str]) -> None:
        """Require that no options of the harness and of heft's own tasks are mixed.

        Raises:
            HeftError: they are; all that do not go together are named.
        """
        if self.tasks is None:
            there = {name: value for name, value in vars(self).items() if value is not None and value is not False}
            given = [f"--{name.replace('_', '-')}" for name in there]
            if given:
                raise HeftError(f"{', '.join(given)} goes with --harness TASKS, which is not there")
            return
        given = [f"--{name}" for name, value in (("task", task), ("split", split)) if value is not None]
        keys = [text.partition("=")[0].strip() for text in overrides]
        given += [f"--set {key}" for key in keys if key.startswith("task.") or key == "evaluation.normalize"]
        if given:
            raise HeftError(
                f"{', '.join(given)} is of heft's own tasks, and --harness {self.tasks} asks for those of"
                " lm-evaluation-harness, which decide this themselves"
            )


def evaluate_harness(
    given: str,
    options: HarnessOptions,
    *,
    limit: int | None,
    batch_size: int | None,
    overrides: Sequence[str],
    trust_remote_code: bool,
    base: str | None,
    output: Path | None,
    out: "Output",
) -> None:
    """Evaluate, print the figures, and write the samples where they are asked for.

    Raises:
        HeftError: the harness is not installed, a task is not known, or the model cannot be loaded.
    """
    from heft.harness.tasks import HarnessTasks

    tasks = HarnessTasks([options.tasks or ""], options.include_path)
    from heft.harness.model import HeftLM

    out.note(f"loading {given}")
    lm = HeftLM(
        given,
        batch_size=batch_size,
        base=base,
        trust_remote_code=trust_remote_code,
        reporter=out.reporter,
        settings=overrides,
    )
    figures, samples = tasks.run(
        lm,
        num_fewshot=options.num_fewshot,
        limit=limit,
        apply_chat_template=options.apply_chat_template,
        system_instruction=options.system_instruction,
        gen_kwargs=options.gen_kwargs,
    )
    if output is not None:
        _write(output, samples)
    _say(out, figures, output)


def _say(out: "Output", figures: Sequence["HarnessFigure"], output: Path | None) -> None:
    from heft.cli.documents import HarnessDocument, HarnessRow
    from heft.harness.registration import harness_version
    from heft.storage.atomic import finite

    for figure in figures:
        error = "" if figure.stderr is None else f" (standard error {figure.stderr:.4f})"
        filtered = "" if figure.filter == "none" else f" [{figure.filter}]"
        rows = "" if figure.n is None else f", {figure.n:,} rows, {figure.num_fewshot}-shot"
        out.last(f"{figure.task}: {figure.metric}{filtered} {figure.value:.4f}{error}{rows}")
    if output is not None:
        out.last(f"samples: {output}")
    rows = [HarnessRow(**finite(asdict(figure))) for figure in figures]
    version = harness_version()
    out.document(HarnessDocument, harness=version, results=rows, samples=None if output is None else str(output))


def _write(output: Path, samples: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """One JSON line for each row of each task, as the harness gives it, with the task's name."""
    from lm_eval.utils import handle_non_serializable

    from heft.storage.atomic import finite, write_text
    from heft.storage.targets import make_folder_of

    lines = [
        json.dumps(finite({"task": task, **sample}), default=handle_non_serializable, ensure_ascii=False)
        for task, rows in samples.items()
        for sample in rows
    ]
    make_folder_of(output)
    write_text(output, "".join(f"{line}\n" for line in lines))
