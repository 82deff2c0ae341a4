"""The table of tasks: names, settings, and what an unknown name is answered with."""

import subprocess
import sys

import pytest
from pydantic import TypeAdapter, ValidationError

from heft.errors import HeftError
from heft.tasks import TASKS, AnyTask, TaskSettings, task_for, unknown_task
from heft.tasks.siqa import Siqa


def hub_of(task):
    return getattr(task.settings_type, "sources", {}).get("hub")


REQUIRED = {"rows": {"train": "t.jsonl", "eval": "e.jsonl"}}


@pytest.mark.parametrize("name", TASKS)
def test_a_name_leads_to_its_settings_and_these_to_its_task(name):
    settings = TypeAdapter(AnyTask).validate_python({"name": name, **REQUIRED.get(name, {})})
    assert type(settings) is TASKS[name].settings_type
    task = task_for(settings)
    assert type(task) is TASKS[name]
    assert (task.name, settings.name, task.settings) == (name, name, settings)


def test_settings_of_one_task_are_unknown_to_another():
    with pytest.raises(ValidationError, match="passage"):
        TypeAdapter(AnyTask).validate_python({"name": "siqa", "passage": True})


def test_an_unknown_name_is_answered_with_the_nearest_one():
    assert "did you mean 'hellaswag'?" in str(unknown_task("hellasawg"))
    assert "did you mean" not in str(unknown_task("zzz"))
    with pytest.raises(HeftError, match="did you mean 'boolq'"):
        task_for(TaskSettings(name="boolqq"))


def test_tasks_whose_hub_branch_is_a_script_read_the_converted_branch():
    scripts = {name for name, task in TASKS.items() if (hub := hub_of(task)) and hub.revision}
    assert scripts == {"piqa", "siqa"}
    assert hub_of(Siqa).revision == "refs/convert/parquet"


def test_default_splits_are_splits_that_the_hub_has():
    for name, task in TASKS.items():
        if hub_of(task) is not None:
            settings = task.settings_type()
            assert {settings.train_split, settings.eval_split} <= set(hub_of(task).splits), name


def test_importing_the_tasks_imports_neither_torch_nor_datasets():
    code = "import sys, heft.tasks; print([m for m in ('torch', 'datasets', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
