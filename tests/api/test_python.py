"""heft from Python, without files: as strict as the command line, with the same result."""

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pandas
import pytest
from datasets import Dataset, DatasetDict

import heft
from commands import heft as command
from heft.api.progress import NotebookReporter
from heft.runtime.reporter import Reporter

ROWS = [{"text": f"note {i} about {'rain' if i % 2 else 'sun'}", "label": "wet" if i % 2 else "dry"} for i in range(24)]
NEW = [{"id": f"00{i}", "text": f"note about {what}"} for i, what in enumerate(("rain", "sun", "rain and sun"))]
TASK = {"prompt": "{text}\nWeather:", "answer": "label", "choices": "labels", "format": "cloze"}
MODEL = {"name": "random:tiny-llama", "device": "cpu", "dtype": "float32"}
STAGE = {"method": "reft", "rank": 2, "positions": "l1", "steps": 2, "batch_size": 4}


def values(train=ROWS, **others):
    """A recipe as a mapping."""
    task = {"name": "rows", "train": train, **TASK}
    return {"name": "notes", "model": MODEL, "task": task, "stages": {"fine": STAGE}, **others}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return heft.train(values(), output=tmp_path_factory.mktemp("python") / "run")


def test_rows_in_predictions_out_as_the_command_gives_them(result, tmp_path):
    predicted = heft.predict(result.directory, NEW)
    (tmp_path / "new.jsonl").write_text("".join(json.dumps(row) + "\n" for row in NEW))
    done = command("predict", result.directory, tmp_path / "new.jsonl")
    assert done.returncode == 0, done.stderr
    assert predicted == [json.loads(line) for line in done.stdout.splitlines()]
    assert [{key: row[key] for key in NEW[0]} for row in predicted] == NEW
    assert {row["prediction"] for row in predicted} <= {"wet", "dry"}


def test_what_is_odd_about_rows_is_told(result):
    class Heard(Reporter):
        told = []

        def warn(self, text):
            self.told.append(text)

    heft.predict(result, [{**NEW[0], "label": "neither"}], reporter=Heard())
    assert Heard.told == ["1 row has an answer that the task rows does not know"]


def test_whatever_the_model_is_given_as_the_answers_are_the_same(result, tmp_path):
    expected = heft.predict(result.directory, NEW)
    model, tokenizer = heft.load(result.adapter)
    task = heft.RowsSettings(train=ROWS, prompt=TASK["prompt"], answer="label", choices=["dry", "wet"], format="cloze")
    for found in (
        result.predict(NEW),
        heft.predict(result, NEW),
        heft.predict(str(result.adapter), NEW, output=tmp_path / "made.jsonl"),
        heft.predict(model, NEW),
        heft.predict((model, tokenizer), NEW),
        heft.predict(heft.load(result), NEW),
        heft.predict(model, NEW, tokenizer=tokenizer, task=task),
        heft.predict(model, Dataset.from_list(NEW)),
    ):
        assert found == expected
    assert [json.loads(line) for line in (tmp_path / "made.jsonl").read_text().splitlines()] == expected


def test_a_data_frame_comes_back_as_one_with_its_index(result):
    frame = pandas.DataFrame(NEW, index=[7, 3, 5])
    found = heft.predict(result, frame)
    assert list(found.index) == [7, 3, 5]
    assert found.to_dict("records") == heft.predict(result, NEW)
    assert list(frame.columns) == ["id", "text"]


@pytest.mark.parametrize("form", ["settings", "frame", "data set", "file"])
def test_every_form_of_a_recipe_trains_the_same(form, result, tmp_path):
    if form == "settings":
        recipe = heft.Recipe(
            name="notes",
            model=heft.ModelSettings(**MODEL),
            task=heft.RowsSettings(train=ROWS, **TASK),
            stages={"fine": heft.ReftStage(rank=2, positions="l1", steps=2, batch_size=4)},
        )
    elif form == "file":
        recipe = result.directory / "recipe.yaml"
    else:
        recipe = values(pandas.DataFrame(ROWS) if form == "frame" else Dataset.from_list(ROWS))
    again = heft.train(recipe, output=tmp_path / "run")
    assert again.records() == result.records()
    tensors = "fine/adapter_model.safetensors"
    assert (again.adapter / tensors).read_bytes() == (result.adapter / tensors).read_bytes()


def test_settings_are_changed_as_on_the_command_line(tmp_path):
    from heft.api.train import recipe_from

    recipe = recipe_from(values())
    for given in (values(), recipe):
        for overrides in ({"stages.fine.rank": 4, "seed": 3}, ["stages.fine.rank=4", "seed=3"]):
            changed = recipe_from(given, overrides, tmp_path)
            assert (changed.stages["fine"].rank, changed.seed, changed.output) == (4, 3, str(tmp_path))
            assert changed.task == recipe.task


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda: heft.LoraStage(rank=0),
            "LoraStage: rank: expected a whole number of at least 1 and at most 1048576; got 0",
        ),
        (lambda: heft.ReftStage(rnk=1), "ReftStage: rnk: unknown key; did you mean 'rank'"),
        (lambda: heft.Recipe(name="n"), "Recipe: task: missing.*; stages: missing"),
        (lambda: heft.LoraStage(rank="4"), "expected a whole number of at least 1 and at most 1048576; got '4'"),
        (lambda: heft.train(values(sead=1)), "recipe: sead: unknown key; did you mean 'seed'"),
        (
            lambda: heft.train(values(), overrides={"stages.fine.rank": 0}),
            "stages.fine.rank: expected a whole",
        ),
        (lambda: heft.train(values(train=3)), "rows cannot be read from int"),
        (lambda: heft.train(values(train=[])), "task.train: expected"),
        (
            lambda: heft.train(values(train=DatasetDict(train=Dataset.from_list(ROWS), test=Dataset.from_list(ROWS)))),
            r"recipe: task.train: has the splits train and test, .* give one, such as data\['train'\]",
        ),
        (lambda: heft.predict("nowhere", NEW), "nowhere does not exist; expected the directory of a run"),
        (lambda: heft.predict(None, NEW), "model is a NoneType; expected a model, such as heft.load"),
        (lambda: heft.predict((1, 2, 3), NEW), "a model with its tokenizer are two; got a tuple of 3"),
        (lambda: heft.load(None), "expected the directory of a run, .*; got null"),
        (lambda: heft.load_recipe({"name": "x"}), "a recipe's file was expected, .*; got .*heft.train and heft.Recipe"),
    ],
)
def test_what_is_wrong_is_one_message_for_people(make, told):
    with pytest.raises(heft.HeftError, match=told) as caught:
        make()
    assert "pydantic" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_model_in_training_mode_is_refused_where_dropout_would_make_answers_random(result):
    model, tokenizer = heft.load(result.adapter)
    task = heft.RowsSettings(train=ROWS, prompt=TASK["prompt"], answer="label", choices=["dry", "wet"])
    model.train()
    for ask in (lambda: heft.predict(model, NEW), lambda: heft.evaluate(model, tokenizer, task)):
        with pytest.raises(heft.HeftError, match=r"in training mode, in which dropout acts; call model.eval\(\) first"):
            ask()


def test_what_a_model_alone_does_not_tell_is_asked_for(result):
    from heft.models.load import load_base

    base = load_base(heft.ModelSettings(**MODEL))
    with pytest.raises(heft.HeftError, match="give tokenizer= and task="):
        heft.predict(base.model, NEW)
    with pytest.raises(heft.HeftError, match="are for a path"):
        heft.predict(base.model, NEW, stages=["fine"])
    task = {"name": "rows", "train": ROWS, **TASK}
    made = heft.predict(base.model, NEW, tokenizer=base.tokenizer, task=task)
    assert made == heft.predict(result.directory, NEW, stages=["base"]) == heft.predict(result, NEW, stages="base")


def test_what_is_no_model_no_tokenizer_and_no_task_is_named(result):
    model, tokenizer = heft.load(result)
    task = heft.RowsSettings(train=ROWS, prompt=TASK["prompt"], answer="label", choices=["dry", "wet"])
    for ask, told in (
        (lambda: heft.evaluate(None, tokenizer, task), "model is a NoneType; expected a model"),
        (lambda: heft.evaluate(model, None, task), "tokenizer is a NoneType; expected one of transformers"),
        (lambda: heft.evaluate(model, tokenizer, "rows"), "task is a str; expected the settings of a task, such as"),
        (lambda: heft.predict(model, NEW, task="rows"), "task is a str; expected the settings of a task"),
    ):
        with pytest.raises(heft.HeftError, match=told):
            ask()
    with pytest.raises(heft.HeftError, match=r"\(in Python skip_bad_rows=True\)"):
        heft.predict(model, [{"txt": "x"}])


def test_the_result_shows_its_table_and_leads_to_the_rest(result):
    from heft.text.units import percent

    text, page = str(result), result._repr_html_()
    for stage in result.stages:
        assert f"{stage.name} " in text
        assert f"<td>{stage.name}</td><td>{percent(stage.accuracy)}</td>" in page
    assert str(result.directory) in text
    assert len(result.records("base")) == len(result.records()) == result.stages[0].n
    assert result.accuracy == sum(r.correct for r in result.records()) / result.stages[0].n
    assert "<html" in result.report().read_text()
    with pytest.raises(heft.HeftError, match="no stage 'fin'; it has base, fine"):
        result.records("fin")


def test_progress_is_shown_where_it_is_asked_for(tmp_path, capsys):
    heft.train(values(), output=tmp_path / "silent")
    assert capsys.readouterr().out == ""
    heft.train(values(), output=tmp_path / "shown", progress=True)
    assert "train rows of rows" in capsys.readouterr().out
    heard = []

    class Tracker(Reporter):
        def note(self, text):
            heard.append(text)

    heft.train(values(), Tracker(), output=tmp_path / "heard", progress=True)
    assert capsys.readouterr().out == ""
    assert any("train rows" in line for line in heard)


def test_a_line_of_progress_is_safe_in_a_notebook():
    from heft.api.progress import _Bar

    assert _Bar("<b>fine", 1, 2, "loss 0.5")._repr_html_() == (
        '<progress value="1" max="2"></progress> &lt;b&gt;fine 1/2 loss 0.5'
    )
    NotebookReporter().step("nothing is open", 1, 2)


def test_everything_that_is_exported_is_there_and_importing_heft_stays_fast():
    assert all(getattr(heft, name) is not None for name in heft.__all__)
    slow = "torch transformers pandas datasets pyarrow pydantic rich"
    code = f"import sys, heft; print([n for n in '{slow}'.split() if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_type_checkers_are_told_of_all_that_is_exported():
    stub = (Path(heft.__file__).parent / "__init__.pyi").read_text()
    found = {name: module for module, name in re.findall(r"from (\S+) import (\w+) as \2$", stub, re.MULTILINE)}
    assert sorted(found) == heft.__all__
    assert all(getattr(import_module(module), name) is getattr(heft, name) for name, module in found.items())


def test_the_example_runs():
    script = Path(__file__).parents[2] / "examples/python_api.py"
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "results on" in done.stdout
    assert done.stdout.count("(0.") + done.stdout.count("(1.") == 2
