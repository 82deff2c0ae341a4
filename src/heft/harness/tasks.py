"""Tasks of lm-evaluation-harness by name, and what it found on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from traceback import walk_tb
from typing import Any

from jinja2 import TemplateError

from heft.errors import HeftError
from heft.harness.registration import require_harness
from heft.storage.reading import is_dir, is_file
from heft.text.listing import first_of, suggest

_STDERR = "_stderr"


@dataclass(frozen=True)
class HarnessFigure:
    """A figure of a task or of a group of tasks.

    Attributes:
        task: its name.
        metric: as the harness calls it, such as acc.
        filter: what answers went through before they were counted; mostly none.
        value: as the harness gives it, such as 0.5 for an accuracy of a half.
        stderr: its standard error; None where the harness gives none.
        higher_is_better: None where the task does not say.
        n: rows; None for a group.
        num_fewshot: examples before each question; None for a group.
    """

    task: str
    metric: str
    filter: str
    value: float
    stderr: float | None
    higher_is_better: bool | None
    n: int | None
    num_fewshot: int | None


class HarnessTasks:
    """Tasks that are found and whose data is loaded.

    Args:
        names: of tasks, groups and tags, patterns such as `mmlu_*`, or YAML files; commas separate several.
        include_path: a folder of YAML tasks of one's own. They may run Python that stands beside them.

    Raises:
        HeftError: the harness is not installed, a name is not known, or the data of a task cannot be read.
    """

    def __init__(self, names: Sequence[str], include_path: Path | None = None):
        require_harness()
        from lm_eval.tasks import TaskManager

        if include_path is not None and not is_dir(include_path):
            raise HeftError(f"--include-path {include_path} is no folder; give the one that holds the YAML tasks")
        self.manager = TaskManager(include_path=None if include_path is None else str(include_path))
        wanted = self._matching([name.strip() for given in names for name in given.split(",")], include_path)
        self._loaded = self._load(wanted)

    def run(
        self,
        model: Any,
        num_fewshot: int | None = None,
        limit: int | None = None,
        apply_chat_template: bool = False,
        system_instruction: str | None = None,
        gen_kwargs: str | None = None,
    ) -> tuple[list[HarnessFigure], dict[str, list[dict[str, Any]]]]:
        """Evaluate a model (`heft.harness.model.HeftLM`), as `lm_eval.simple_evaluate` does.

        Returns:
            The figures, and the harness's samples, one for each row, by the name of the task.

        Raises:
            HeftError: the harness or the model refuses a task.
        """
        import lm_eval

        options = {"num_fewshot": num_fewshot, "limit": limit, "gen_kwargs": gen_kwargs}
        options |= {"system_instruction": system_instruction, "apply_chat_template": apply_chat_template}
        try:
            found = lm_eval.simple_evaluate(
                model=model,
                tasks=self._loaded,
                task_manager=self.manager,
                fewshot_as_multiturn=apply_chat_template,
                **options,
            )
        except (ValueError, AssertionError, TemplateError) as error:  # of the harness, and of a task's templates
            raise HeftError(f"lm-evaluation-harness: {_in_a_line(error)}") from error
        except Exception as error:  # a task may run any code
            if isinstance(error, HeftError) or _is_of_the_model(error):
                raise
            raise HeftError(f"lm-evaluation-harness: {type(error).__name__}: {_in_a_line(error)}") from error
        return figures_of(found), found["samples"]

    def _matching(self, names: Sequence[str], include_path: Path | None) -> list[str]:
        """Names as the harness has them; every one that is not known is named."""
        found, unknown = [], []
        for name in filter(None, names):
            if name.endswith((".yaml", ".yml")) and is_file(Path(name)):
                found.append(str(Path(name).resolve()))
                continue
            matching = self.manager.match_tasks([name])
            found += matching
            if not matching:
                unknown.append(name)
        if unknown:
            where = "" if include_path is None else f" or in {include_path}"
            near = "".join(suggest(name, self.manager.all_tasks) for name in unknown[:1])
            near = near if near.startswith("; did") else "; `lm_eval ls tasks` lists them"
            raise HeftError(
                f"lm-evaluation-harness has no task {', '.join(map(repr, unknown))}{where}{near}. For tasks of your own"
                " give --include-path FOLDER, or a YAML file"
            )
        if not found:
            raise HeftError("no task is named; give some, such as --harness boolq,arc_easy")
        return list(dict.fromkeys(found))

    def _load(self, names: Sequence[str]) -> list:
        """Tasks and groups, not one of them within another."""
        try:
            loaded = self.manager.load(list(names))
        except Exception as error:  # a task may run any code, and reads from the Hub
            raise HeftError(
                f"lm-evaluation-harness cannot load {first_of(names, 5)}: {type(error).__name__}: {_in_a_line(error)}."
                " Rows of its own tasks come from the Hub; a YAML task of your own can read files (docs/harness.md)"
            ) from error
        inner = {name for children in loaded["group_map"].values() for name in children}
        inner |= {task.task_name for group in loaded["groups"].values() for task in group.get_all_tasks()}
        return [each for kind in ("groups", "tasks") for name, each in loaded[kind].items() if name not in inner]


def figures_of(found: Mapping[str, Any]) -> list[HarnessFigure]:
    """The figures in what `lm_eval.simple_evaluate` returns: of every task, then of every group."""
    rows = {**found["results"], **found.get("groups", {})}
    figures = []
    for task, values in rows.items():
        for key, value in values.items():
            metric, _, filtered = key.partition(",")
            if not filtered or metric.endswith(_STDERR) or not isinstance(value, Real):
                continue
            error = values.get(f"{metric}{_STDERR},{filtered}")
            figures.append(
                HarnessFigure(
                    task=task,
                    metric=metric,
                    filter=filtered,
                    value=float(value),
                    stderr=float(error) if isinstance(error, Real) else None,
                    higher_is_better=found["higher_is_better"].get(task, {}).get(metric),
                    n=found["n-samples"].get(task, {}).get("effective"),
                    num_fewshot=found["n-shot"].get(task),
                )
            )
    return figures


def _is_of_the_model(error: Exception) -> bool:
    """Whether it happened within heft's model class, where it is no fault of a task."""
    return any(frame.f_globals.get("__name__") == "heft.harness.model" for frame, _ in walk_tb(error.__traceback__))


def _in_a_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else "no message"
