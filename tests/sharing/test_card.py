"""The model card: valid metadata, the run's own figures, and nothing private."""

import getpass
import json
import re
import shutil
import socket
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

import heft
from heft.errors import HeftError
from heft.recipe.recipe import LoraStage
from heft.results.summary import read_summaries
from heft.sharing.card import card
from heft.sharing.facts import facts_of
from heft.sharing.folder import write_repository
from heft.sharing.public import is_private, public_task
from heft.sweep.run import sweep
from heft.text.units import interval, percent
from tickets import write_tickets
from tiny import byte_tokenizer, tiny_model
from tiny_recipe import write_recipe


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    """A run on a base in a folder and on rows in a file, of which nobody else has either."""
    folder = tmp_path_factory.mktemp("private-place")
    tiny_model().save_pretrained(folder / "secret-base")
    byte_tokenizer().save_pretrained(folder / "secret-base")
    write_tickets(folder)
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"name: secret-project\nmodel: {{name: {folder / 'secret-base'}, dtype: float32, device: cpu}}\n"
        f'task: {{name: rows, train: {folder / "tickets.csv"}, prompt: "Text: {{text}}\\nLabel:", answer: label,'
        " choices: labels}\n"
        "stages: {coarse: {method: lora, steps: 1, batch_size: 4}, fine: {method: reft, steps: 1, batch_size: 4}}\n"
        f"output: {folder / 'run'}\n"
    )
    return heft.train(recipe).directory


def test_the_table_has_the_runs_figures_with_their_intervals(run):
    text = card(facts_of(run), "org/name")
    for stage in read_summaries(run):
        row = next(line for line in text.splitlines() if line.startswith(f"| {stage.name} |"))
        assert percent(stage.accuracy) in row
        assert interval(stage.interval) in row
        assert f"{stage.trainable_parameters:,}" in row


def test_the_metadata_are_what_the_hub_reads(run):
    data = ModelCard(card(facts_of(run, license="apache-2.0"), "org/name")).data
    last = read_summaries(run)[-1]
    assert (data.library_name, data.license, data.pipeline_tag) == ("heft", "apache-2.0", "text-generation")
    assert {"heft", "lora", "reft"} <= set(data.tags)
    assert data.metrics == ["accuracy"]
    (result,) = data.eval_results
    assert (result.dataset_name, result.metric_type) == ("whereabouts", "accuracy")
    assert result.metric_value == pytest.approx(last.accuracy, abs=1e-6)
    assert interval(last.interval) in result.metric_name


def test_the_base_is_named_as_others_know_it(local):
    data = ModelCard(card(facts_of(local, base="org/base"), "org/name")).data
    assert (data.base_model, data.base_model_relation) == ("org/base", "adapter")


def test_an_embedded_base_is_named_by_its_origin(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    path = copy / "adapter/heft.json"
    values = json.loads(path.read_text())
    values["model"]["name"] = "embedded:smollm2-135m-instruct"
    path.write_text(json.dumps(values))
    text = card(facts_of(copy), "org/name")
    assert ModelCard(text).data.base_model == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert "a quantised copy of" in text


def test_a_task_of_the_hub_names_its_data_set(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    path = copy / "adapter/heft.json"
    values = json.loads(path.read_text())
    values["task"] = {"name": "boolq", "source": "/home/someone/boolq"}
    path.write_text(json.dumps(values))
    text = card(facts_of(copy), "org/name")
    assert ModelCard(text).data.datasets == ["google/boolq"]
    assert "/home" not in text


def test_a_base_in_a_folder_needs_a_name_that_others_have(local):
    with pytest.raises(HeftError, match="--base ORG/NAME"):
        facts_of(local)
    with pytest.raises(HeftError, match="is a folder of this machine, which nobody else has; expected --base ORG/NAME"):
        facts_of(local, base=str(local))


def test_no_file_of_the_repository_has_a_path_or_a_name_of_this_machine(local, tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    files = write_repository(folder, facts_of(local, base="org/base"), "org/name")
    texts = "\n".join(path.read_text() for path in files if path.suffix != ".safetensors")
    for private in (str(local.parent), "secret-base", "secret-project", "tickets.csv", str(Path.home()) + "/"):
        assert private not in texts, private
    names = {getpass.getuser(), socket.gethostname()} - {"root", "localhost"}
    assert not any(name in texts for name in names)
    assert "Rows that are not shared here" in texts


def test_the_labels_stay_so_that_the_adapter_predicts_without_the_rows(local, tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    write_repository(folder, facts_of(local, base="org/base"), "org/name")
    task = json.loads((folder / "heft.json").read_text())["task"]
    assert (task["train"], sorted(task["choices"])) == ("rows.jsonl", ["account", "broken", "delay", "refund"])


def test_an_adapter_directory_without_its_run_has_a_card_too(run, tmp_path):
    copy = shutil.copytree(run / "adapter", tmp_path / "alone")
    text = card(facts_of(copy), "org/name")
    assert "Nothing was measured of these adapters here" in text
    assert "## Results" not in text
    assert ModelCard(text).data.metrics is None


def test_limits_say_what_the_figures_do_not_show(run):
    text = card(facts_of(run), "org/name")
    assert "One run with seed 0" in text
    assert "No license was given" in text
    assert "The intervals of the base and of the last stage overlap." in text


def test_generated_answers_have_their_loss_in_the_table(tmp_path):
    rows = [{"prompt": f"Say {word}", "completion": word} for word in ("red", "blue", "green", "grey") * 5]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = f"{{name: rows, train: {tmp_path / 'rows.jsonl'}, max_new_tokens: 8}}"
    stages = "{fine: {method: reft, rank: 2, positions: l2, steps: 1, batch_size: 4}}"
    run = heft.train(write_recipe(tmp_path, stages, f"output: {tmp_path / 'run'}", task=task)).directory
    text = card(facts_of(run), "org/name")
    assert "| after | accuracy | 95 % interval | loss | parameters trained |" in text
    assert f"{read_summaries(run)[-1].loss:.3f}" in text


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """A sweep behind a stage without validation rows, with its winner evaluated."""
    folder = tmp_path_factory.mktemp("swept")
    lora = "coarse: {method: lora, rank: 2, steps: 2, batch_size: 4}"
    stages = f"{{{lora}, fine: {{method: reft, rank: 3, positions: l2, steps: 2, batch_size: 4}}}}"
    grid = "grid: {rank: [1, 2], learning_rate: [1e-9, 3e-2]}, holdout: 0.25, evaluate_winner: true"
    return sweep(write_recipe(folder, stages, f"sweep: {{{grid}}}\noutput: {folder / 'sweep'}"))


def test_the_card_of_a_sweep_has_the_winners_settings_and_says_how_they_were_chosen(swept):
    text = card(facts_of(swept.directory), "org/name")
    shown = yaml.safe_load(text.split("```yaml\n")[2].split("```")[0])
    winner = swept.winner.stages["fine"]
    assert winner.rank != 3
    assert shown["stages"]["fine"].items() >= {"rank": winner.rank, "holdout": 0.25, "positions": "l2"}.items()
    assert shown["stages"]["fine"]["learning_rate"] == winner.learning_rate
    assert "The settings of stage `fine` are the best of 4 configurations of a sweep, chosen by its validation" in text
    assert (
        "24 rows to train on and 10 rows to evaluate on. Of the rows to train on, up to 6 were kept as validation"
        in text
    )
    assert "validation rows in stage `fine`." in text
    assert percent(swept.evaluation.accuracy) in text


def test_a_sweep_is_pushed_with_the_same_card(swept, tmp_path):
    write_repository(tmp_path, facts_of(swept.directory), "org/name")
    assert (tmp_path / "README.md").read_text() == card(facts_of(swept.directory), "org/name")
    assert json.loads((tmp_path / "fine/adapter_config.json").read_text())["rank"] == swept.winner.stages["fine"].rank


def test_validation_rows_of_a_run_are_told_by_stage(tmp_path):
    stages = "{coarse: {method: lora, steps: 1, holdout: 0.25}, fine: {method: reft, steps: 1}}"
    run = heft.train(write_recipe(tmp_path, stages, f"output: {tmp_path / 'run'}")).directory
    text = card(facts_of(run), "org/name")
    assert "Of the rows to train on, up to 6 were kept as validation rows in stage `coarse`." in text
    assert "chosen by" not in text


def test_that_nothing_evaluated_was_trained_on_is_said_where_the_run_saw_to_it(run):
    text = card(facts_of(run), "org/name")
    assert "; none of them was trained on." in text
    assert "may be among the evaluated ones" not in text


def test_a_run_that_was_allowed_training_rows_in_the_evaluation_does_not_say_so(tmp_path):
    rows = [{"question": f"Say {word}", "choices": ["red", "blue"], "answer": word} for word in ("red", "blue")]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = f"{{name: rows, train: {tmp_path / 'rows.jsonl'}, eval: {tmp_path / 'rows.jsonl'}}}"
    rest = f"allow: [train_in_eval]\noutput: {tmp_path / 'run'}"
    run = heft.train(write_recipe(tmp_path, "{only: {method: lora, steps: 1}}", rest, task=task)).directory
    text = card(facts_of(run), "org/name")
    assert "trained on" not in text.partition("## Results")[2].partition("## Use")[0]
    assert "- Training rows may be among the evaluated ones" in text


def test_a_stage_that_started_from_another_adapter_makes_no_promise_for_its_rows(run, tmp_path):
    stages = f"{{coarse: {{method: lora, from: {run}}}, fine: {{method: reft, steps: 1}}}}"
    again = heft.train(write_recipe(tmp_path, stages, f"output: {tmp_path / 'run'}")).directory
    text = card(facts_of(again), "org/name")
    assert "none of them was trained on" not in text
    assert "is not known: stage `coarse` started from another adapter." in text


def test_the_revision_is_the_runs_and_goes_where_the_base_has_another_name(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    path = copy / "adapter/heft.json"
    values = json.loads(path.read_text())
    values["model"] |= {"name": "org/base", "revision": "v7"}
    path.write_text(json.dumps(values))
    for base, revision in ((None, "v7"), ("org/base", "v7"), ("other/base", None)):
        folder = tmp_path / str(base).replace("/", "-")
        folder.mkdir()
        write_repository(folder, facts_of(copy, base=base), "org/name")
        assert json.loads((folder / "heft.json").read_text())["model"]["revision"] == revision
        for config in folder.glob("*/adapter_config.json"):
            assert json.loads(config.read_text())["revision"] == revision
        assert ("v7" in (folder / "README.md").read_text()) == (revision is not None)


@pytest.mark.parametrize(
    "given", ["https://huggingface.co/org/base", "org/base@main", "gpt2@main", "org/base/more", "org base", "/gone", ""]
)
def test_a_base_that_is_no_name_is_refused_with_what_was_given_and_expected(run, given):
    told = f"--base {given!r} is no name of a model on the Hub; expected --base ORG/NAME, without an address or a rev"
    with pytest.raises(HeftError, match=re.escape(told)):
        facts_of(run, base=given)


@pytest.mark.parametrize("given", ["org/base", "gpt2", "random:tiny-llama", "Org-1/Base_2.5"])
def test_a_name_of_a_base_is_taken(run, given):
    assert facts_of(run, base=given).base == given


def test_the_settings_shown_make_the_recipe_again(run, tmp_path):
    text = card(facts_of(run), "org/name")
    blocks = text.split("```yaml\n")[1:]
    task, recipe = (yaml.safe_load(block.split("```")[0]) for block in blocks)
    again = heft.load_recipe(run / "recipe.yaml").model_dump(mode="json")
    for name, stage in recipe["stages"].items():
        assert {key: again["stages"][name][key] for key in stage} == stage
    assert {key: again["task"][key] for key in task["task"]} == task["task"]


def test_of_a_stage_only_where_it_comes_from_is_a_path(run):
    tokens = ["/think", "/no_think", "~"]
    stages = {"a": LoraStage(from_="/home/ann/lora", steps=1), "b": LoraStage(trainable_tokens=tokens, steps=1)}
    facts = facts_of(run)
    text = card(replace(facts, recipe=facts.recipe.model_copy(update={"stages": stages})), "org/name")
    found = yaml.safe_load(text.split("```yaml\n")[2].split("```")[0])["stages"]
    assert (found["a"]["from"], found["b"]["trainable_tokens"]) == ("lora", tokens)


@pytest.mark.parametrize("text", ["/home/ann/x", "~/x", "./x", "../x", "C:\\x\\y", "C:/x", "\\\\server\\x", "/data"])
def test_a_path_is_private(text):
    assert is_private(text)


@pytest.mark.parametrize(
    "text", ["org/name", "google/boolq", "yes/no", "Text: {text}\nLabel:", "Is it a/b or c?", "l2"]
)
def test_other_text_is_not(text):
    assert not is_private(text)


def test_texts_of_a_task_are_sent_as_they_are_though_they_look_like_paths():
    task = {"name": "rows", "train": "/home/ann/x.csv", "system": "/no_think", "choices": ["/", "./a"], "stop": ["/"]}
    found = public_task({**task, "prompt": "/no_think {text} ->"})
    assert found == {**task, "train": "rows.jsonl", "prompt": "/no_think {text} ->"}


def test_data_on_the_hub_keep_their_name_and_files_lose_theirs():
    assert public_task({"name": "rows", "train": "org/data:en", "eval": "a/b.jsonl"})["train"] == "org/data:en"
    assert public_task({"name": "rows", "train": "org/data", "eval": "a/b.jsonl"})["eval"] == "rows.jsonl"
