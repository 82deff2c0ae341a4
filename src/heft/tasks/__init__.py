"""Tasks: what a model is adapted to. One file per task, and one line in `TASKS`.

`load_examples` turns a recipe's task settings into examples; nothing here imports torch.
"""

from typing import Annotated, Union

from pydantic import Field

from heft.errors import HeftError
from heft.settings.base import suggest
from heft.tasks.arc import ArcChallenge, ArcEasy, Openbookqa
from heft.tasks.base import Example, Split, SplitSettings, Task, TaskSettings, choice_example, generation_example
from heft.tasks.boolq import Boolq
from heft.tasks.gsm8k import Gsm8k
from heft.tasks.hellaswag import Hellaswag
from heft.tasks.jsonl import Jsonl
from heft.tasks.loading import examples_of, load_examples
from heft.tasks.piqa import Piqa
from heft.tasks.siqa import Siqa
from heft.tasks.whereabouts import Whereabouts
from heft.tasks.winogrande import Winogrande

TASKS: dict[str, type[Task]] = {
    "boolq": Boolq,
    "arc_easy": ArcEasy,
    "arc_challenge": ArcChallenge,
    "openbookqa": Openbookqa,
    "piqa": Piqa,
    "siqa": Siqa,
    "hellaswag": Hellaswag,
    "winogrande": Winogrande,
    "gsm8k": Gsm8k,
    "jsonl": Jsonl,
    "whereabouts": Whereabouts,
}
"""Every task a recipe can name."""

AnyTask = Annotated[Union[tuple(task.settings_type for task in TASKS.values())], Field(discriminator="name")]  # noqa: UP007
"""The settings of any task in the table, told apart by `name`: a pydantic field type for the recipe."""


def unknown_task(name: object) -> HeftError:
    """The error for a name that is not in the table, with the nearest one that is."""
    return HeftError(f"there is no task {str(name)!r}{suggest(str(name), list(TASKS))}")


def task_for(settings: TaskSettings) -> Task:
    """The task that the settings are of.

    Raises:
        HeftError: no task has that name.
    """
    if settings.name not in TASKS:
        raise unknown_task(settings.name)
    return TASKS[settings.name](settings)


__all__ = [
    "TASKS",
    "AnyTask",
    "Example",
    "Split",
    "SplitSettings",
    "Task",
    "TaskSettings",
    "choice_example",
    "examples_of",
    "generation_example",
    "load_examples",
    "task_for",
    "unknown_task",
]
