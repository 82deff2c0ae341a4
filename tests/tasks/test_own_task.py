"""A task of a person's own, named in a recipe as module:Class."""

import pytest

from commands import heft as heft_here
from commands import heft_alone as heft

CODE = '''
from heft.tasks import Task, TaskSettings, choice_example
from pydantic import Field

class ParitySettings(TaskSettings):
    """Odd or even."""
    name: str = "parity"
    below: int = Field(default=40, ge=10)
    """Numbers are below this."""

class Parity(Task):
    settings_type = ParitySettings
    fields = {"number": int}

    def rows(self, split):
        for number in range(self.settings.below):
            if (number % 5 == 0) == (split == "eval"):
                yield f"parity row {number}", {"number": number}

    def example(self, row):
        return choice_example(self.name, f"Is {row['number']} odd?\\nAnswer:", ("no", "yes"), row["number"] % 2)
'''
RECIPE = (
    "name: own\nmodel: {name: 'random:tiny-llama'}\ntask: {name: 'my_parity:Parity', below: 30}\n"
    "stages: {coarse: {method: lora, rank: 2, steps: 2, batch_size: 4}}\n"
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "my_parity.py").write_text(CODE, encoding="utf-8")
    (tmp_path / "own.yaml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


def test_a_recipe_trains_on_it_from_its_own_folder_and_eval_takes_it_by_name(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    trained = heft("train", folder / "own.yaml", cwd=elsewhere)
    assert trained.returncode == 0, trained.stderr
    assert "results on 6 evaluation examples" in trained.stdout
    adapter = elsewhere / "runs/own/adapter"
    refused = heft("eval", adapter, cwd=folder)
    assert refused.returncode == 2
    assert "give --task my_parity:Parity" in refused.stderr
    evaluated = heft("eval", adapter, "--task", "my_parity:Parity", cwd=folder)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "6 examples" in evaluated.stdout
    assert heft_here("report", elsewhere / "runs/own", cwd=elsewhere).returncode == 0  # needs no code of the task


@pytest.mark.parametrize(
    ("task", "fault"),
    [
        (
            "{name: 'my_parity:Parity', below: 3}",
            "own.yaml:3: task.below: expected a whole number of at least 10; got 3",
        ),
        ("{name: 'my_parity:Parity', belw: 30}", "task.belw: unknown key; did you mean 'below'?"),
        ("{name: 'my_parity:Other'}", "has no subclass of heft.tasks.Task called Other; has Parity"),
        ("{name: 'my_paritty:Parity'}", "there is no module my_paritty in"),
    ],
)
def test_what_is_wrong_is_said_in_words(folder, task, fault):
    text = RECIPE.replace("{name: 'my_parity:Parity', below: 30}", task)
    (folder / "own.yaml").write_text(text, encoding="utf-8")
    refused = heft("train", "own.yaml", cwd=folder)
    assert refused.returncode == 2
    assert fault in refused.stderr


def test_code_that_fails_is_named(folder):
    (folder / "my_parity.py").write_text("raise RuntimeError('mine')\n", encoding="utf-8")
    refused = heft("plan", "own.yaml", "--no-probe", cwd=folder)
    assert "my_parity cannot be imported: RuntimeError: mine" in refused.stderr
