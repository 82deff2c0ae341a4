"""Tasks: what a model is adapted to. One file per task, and its place in the table.

`load_examples` turns a recipe's task settings into examples; nothing here imports torch.
"""

from typing import TYPE_CHECKING, Annotated, Union

from pydantic import Field, SerializeAsAny, WrapValidator

from heft.errors import HeftError
from heft.tasks.arc import ArcChallenge, ArcEasy, Openbookqa
from heft.tasks.base import Split, SplitSettings, Task, TaskSettings
from heft.tasks.boolq import Boolq
from heft.tasks.example import Example, choice_example, generation_example
from heft.tasks.gsm8k import Gsm8k
from heft.tasks.hellaswag import Hellaswag
from heft.tasks.loading import examples_of
from heft.tasks.own import allow_import_from, is_own, own_settings, own_task
from heft.tasks.piqa import Piqa
from heft.tasks.rows import Rows
from heft.tasks.siqa import Siqa
from heft.tasks.whereabouts import Whereabouts
from heft.tasks.winogrande import Winogrande
from heft.text.listing import suggest

_TASKS = (Boolq, ArcEasy, ArcChallenge, Openbookqa, Piqa, Siqa, Hellaswag, Winogrande, Gsm8k, Rows, Whereabouts)
TASKS: dict[str, type[Task]] = {task.settings_type.model_fields["name"].default: task for task in _TASKS}
"""Every task a recipe can name, by that name."""

if TYPE_CHECKING:  # the union is made of the table, which type checkers do not read
    AnyTask = TaskSettings
else:
    AnyTask = Annotated[
        SerializeAsAny[Union[tuple(task.settings_type for task in TASKS.values())]],  # noqa: UP007
        Field(discriminator="name"),
        WrapValidator(own_settings),
    ]
"""The settings of any task in the table, told apart by `name`, or of a class: a pydantic field type for the recipe."""


def unknown_task(name: object) -> HeftError:
    """The error for a name that is not in the table, with the nearest one that is."""
    return HeftError(f"there is no task {str(name)!r}{suggest(str(name), list(TASKS))}")


def task_for(settings: TaskSettings) -> Task:
    """The task that the settings are of; a HeftError where the table has none of that name."""
    if is_own(settings.name):
        task = own_task(settings.name)
        return task(task.settings_type.model_validate(settings.model_dump()))
    if settings.name not in TASKS:
        raise unknown_task(settings.name)
    return TASKS[settings.name](settings)


def load_examples(settings: TaskSettings, split: Split) -> list[Example]:
    """The examples of a recipe's task, in the source's order.

    Raises:
        HeftError: the task is unknown, the source cannot be read or is empty, or rows are malformed (all are reported).
    """
    return examples_of(task_for(settings), split)


__all__ = [
    "TASKS",
    "AnyTask",
    "Example",
    "Split",
    "SplitSettings",
    "Task",
    "TaskSettings",
    "allow_import_from",
    "choice_example",
    "examples_of",
    "generation_example",
    "is_own",
    "load_examples",
    "task_for",
    "unknown_task",
]
