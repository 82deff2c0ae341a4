"""Tasks of a person's own, that a recipe names as `module:Class`.

The class is code. It is imported only for a recipe that a person runs, from the recipe's folder or the working
directory, or where it has been imported already; never because a run or an adapter directory names it.
"""

import importlib
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, ValidationError, create_model

from heft.errors import HeftError
from heft.settings.base import value_error
from heft.settings.words import faults_of, in_one_line
from heft.tasks.base import Task, TaskSettings

_NAME = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_folders: dict[str, None] = {}


class UnreadSettings(TaskSettings):
    """Settings of a task whose class has not been imported: whatever they are, they are kept."""

    model_config = ConfigDict(extra="allow")


def is_own(name: object) -> bool:
    """Whether a task's name is that of a class, `module:Class`."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def allow_import_from(*folders: Path) -> None:
    """Import classes of tasks from these folders from now on, where they are named."""
    _folders.update(dict.fromkeys(str(folder.resolve()) for folder in folders))


def folders_of_imports() -> list[Path]:
    """The folders from which classes of tasks are imported."""
    return [Path(folder) for folder in _folders]


def own_task(name: str) -> type[Task]:
    """The class of a task that is named `module:Class`, whose settings have that name.

    Raises:
        HeftError: it may not be imported, there is no such module or class, its import fails, or it is no task.
    """
    module_name, _, class_name = name.partition(":")
    module = sys.modules.get(module_name)
    if module is None:
        if not _folders:
            raise HeftError(
                f"the task {name} is code that is not imported because a file names it; give --task {name}, or import"
                f" {module_name} first"
            )
        module = _import(module_name, name)
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, Task)):
        tasks = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, Task)]
        has = ", ".join(task for task in tasks if task != "Task") or "none"
        raise HeftError(f"task {name}: {module_name} has no subclass of heft.tasks.Task called {class_name}; has {has}")
    if not issubclass(getattr(found, "settings_type", object), TaskSettings):
        raise HeftError(f"task {name}: {class_name}.settings_type must be a subclass of heft.tasks.TaskSettings")
    return _named(found, name)


def _import(module_name: str, name: str) -> Any:
    before = list(sys.path)
    sys.path[:0] = list(_folders)
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise HeftError(f"task {name}: {module_name} cannot be imported: {error}") from error
        places = " or ".join(_folders)
        raise HeftError(f"task {name}: there is no module {module_name} in {places}, and none is installed") from None
    except Exception as error:  # code of a person's own may fail in any way
        raise HeftError(f"task {name}: {module_name} cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path[:] = before


@cache
def _named(task: type[Task], name: str) -> type[Task]:
    """The task with settings whose name is the one that recipes use."""
    kind = create_model(task.settings_type.__name__, __base__=task.settings_type, name=(Literal[name], name))
    return type(task.__name__, (task,), {"settings_type": kind, "__module__": task.__module__})


def own_settings(value: Any, handler: Callable[[Any], Any]) -> Any:
    """A validator: settings of a task of a person's own by its class, all others by the table of tasks."""
    if isinstance(value, TaskSettings) and is_own(value.name):
        return value
    if not isinstance(value, dict) or not is_own(value.get("name")):
        return handler(value)
    module_name = value["name"].partition(":")[0]
    is_code = module_name in sys.modules or bool(_folders)
    try:
        kind = own_task(value["name"]).settings_type if is_code else UnreadSettings
    except HeftError as error:
        raise value_error(str(error), below=("name",)) from None
    try:
        return kind.model_validate(value, strict=is_code)
    except ValidationError as error:
        faults = faults_of(error, kind)
        path, text = next(iter(faults.items()))
        raise value_error(
            text if len(faults) == 1 else in_one_line(faults), below=path if len(faults) == 1 else ()
        ) from None
