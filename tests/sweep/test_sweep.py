"""A sweep against `heft train`: each configuration has the losses and the adapter that it has alone."""

import csv
import json
import math
from xml.etree import ElementTree

import pytest
from alone import assert_as_alone, values
from safetensors.torch import load_file

import heft
from heft.errors import HeftError
from heft.plan.planner import make_plan
from heft.recipe.files import load_recipe
from heft.recipe.grid import configurations, recipe_of
from heft.run.replace import remove_run
from heft.runtime.reporter import Reporter
from heft.sweep.forward import PackedForward
from heft.sweep.run import sweep
from heft.text.units import percent
from tolerance import assert_tensors, of_weights, rounded, trained_losses


class Notes(Reporter):
    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


def test_ten_steps_of_every_configuration_are_those_of_heft_train(run, tmp_path):
    recipe, _, learners = run(
        "{method: reft, rank: 2, steps: 10, batch_size: 8, learning_rate: 1e-2}",
        "{grid: {positions: [l2, l4, f1+l1], rank: [2, 3], seed: [1, 5]}, holdout: 0.2}",
    )
    assert_as_alone(recipe, learners, tmp_path, [3, 6, 9])  # every position, rank and seed


def test_prefixes_that_give_other_losses_are_not_shared_and_this_is_said(run, tmp_path, monkeypatch):
    right = PackedForward._side_by_side
    monkeypatch.setattr(PackedForward, "_side_by_side", lambda self, copies: right(self, copies) + 0.01)
    notes = Notes()
    recipe, _, learners = run(
        "{method: reft, rank: 2, positions: l2, steps: 3, batch_size: 8, learning_rate: 1e-2}",
        "{grid: {seed: [2, 7]}, holdout: 0.2}",
        to=notes,
    )
    assert any(note.startswith("reuse is off, all configurations run whole rows: it differs") for note in notes.said)
    assert_as_alone(recipe, learners, tmp_path)


def test_settings_of_every_kind_may_differ(run, tmp_path):
    recipe, _, learners = run(
        "{method: reft, positions: l3, rank: 2, epochs: 2, learning_rate: 1e-2, micro_batch_size: 4,"
        " weight_decay: 0.1}",
        "{grid: {dropout: [0.0, 0.3], batch_size: [4, 8], optimizer: [adamw, adafactor],"
        " schedule: [cosine], layers: [[0, -1]], intervention: [direft]}, holdout: 0.25}",
    )
    assert len({learner.taken for learner in learners}) == 2
    assert_as_alone(recipe, learners, tmp_path, [3, 4])  # two values of each setting


def test_what_is_left_open_is_for_each_what_it_is_alone(run, tmp_path):
    recipe, found, learners = run(
        "{method: reft, positions: l2, rank: 2}", "{grid: {steps: [2, 3], learning_rate: [auto, 1e-2]}, holdout: 0.2}"
    )
    assert [result.values["learning_rate"] for result in found.results].count("auto") == 2
    assert {learner.taken for learner in learners} == {2, 3}
    assert_as_alone(recipe, learners, tmp_path)
    plan = make_plan(recipe, probe_seconds=0).sweep
    assert (plan.configurations, plan.steps) == (4, 3)


def test_early_stopping_and_best_checkpoints_are_each_configurations_own(run, tmp_path):
    recipe, found, learners = run(
        "{method: reft, positions: l2, steps: 9, batch_size: 4, warmup: 0, schedule: constant, holdout: 0.25,"
        " evaluate_every: 2, early_stopping: {patience: 1, min_delta: 0.001}, best_checkpoint: true}",
        "{grid: {learning_rate: [1e-9, 2e-2]}}",
    )
    assert [learner.stopped_early for learner in learners] == [True, False]
    assert_as_alone(recipe, learners, tmp_path)


def test_the_limit_of_tokens_changes_nothing(run):
    fine = "{method: reft, positions: l2, rank: 2, steps: 4, batch_size: 4, learning_rate: 1e-2, cache: 'off'}"
    grid = "{grid: {seed: [0, 1], dropout: [0.0, 0.2]}, tokens_per_pass: %d}"
    _, _, one = run(fine, grid % 9, "one")
    _, _, other = run(fine, grid % 5000, "other")
    for a, b in zip(one, other, strict=True):
        assert a.losses == trained_losses(b.losses, 1e-2, 4)


def test_a_configuration_that_diverges_ends_and_leaves_the_others_as_they_are(run, tmp_path):
    recipe, found, learners = run(
        "{method: reft, intervention: noreft, positions: l2, steps: 5, batch_size: 4, warmup: 0}",
        "{grid: {learning_rate: [1e-2, 1e38]}}",
    )
    assert [learner.diverged for learner in learners] == [False, True]
    assert [(r.name, r.diverged) for r in found.results] == [("c00", False), ("c01", True)]
    assert found.results[1].loss is None
    assert_as_alone(recipe, learners, tmp_path, [0])


def test_where_all_diverge_the_message_says_so(run):
    with pytest.raises(HeftError, match="every configuration diverged"):
        run("{method: reft, intervention: noreft, positions: l2, steps: 5, batch_size: 4, warmup: 0}",
            "{grid: {learning_rate: [1e38]}}")  # fmt: skip


def test_a_flat_loss_is_noted_with_its_configuration(run):
    notes = Notes()
    run("{method: reft, positions: l2, steps: 12, batch_size: 4}", "{grid: {learning_rate: [1e-9, 3e-2]}}", to=notes)
    (note,) = [note for note in notes.said if "is flat" in note]
    assert note.startswith("the loss of c00 (learning_rate 1e-09) is flat: ")


def test_the_directory_holds_what_is_promised_and_the_winner_repeats_itself(run, tmp_path):
    recipe, found, _ = run(
        "{method: reft, positions: l2, steps: 6, batch_size: 4}",
        "{grid: {learning_rate: [1e-4, 3e-2]}, holdout: 0.25, evaluate_winner: true}",
    )
    folder = found.directory
    assert {path.name for path in folder.iterdir()} == {
        "recipe.yaml", "manifest.json", "metrics.jsonl", "results.json", "results.csv", "sweep.svg", "winner.yaml",
        "adapter", "summary.json", "records",
    }  # fmt: skip
    errors = [result.expected_errors for result in found.results]
    assert errors == sorted(errors)
    table = list(csv.DictReader((folder / "results.csv").open()))
    assert [(row["name"], float(row["validation_loss"])) for row in table] == [(r.name, r.loss) for r in found.results]
    assert [float(row["validation_expected_errors"]) for row in table] == errors
    assert [row["n"] for row in table] == ["6", "6"]
    assert json.loads((folder / "results.json").read_text())["winner"] == found.results[0].name
    drawn = ElementTree.parse(folder / "sweep.svg").getroot()
    assert len(drawn.findall("{*}circle")) == len(found.results)
    text = " ".join(drawn.itertext())
    assert all(result.name in text and percent(result.accuracy) in text for result in found.results)
    alone = heft.train(load_recipe(folder / "winner.yaml", output=str(tmp_path / "alone")))
    mine = load_file(folder / "adapter" / "fine" / "adapter_model.safetensors")
    other = load_file(alone.directory / "adapter" / "fine" / "adapter_model.safetensors")
    assert_tensors(mine, other, of_weights(3e-2, 6))
    trained = alone.stages[-1]
    assert found.evaluation.accuracy == pytest.approx(trained.accuracy)
    for figure in ("steps", "trainable_parameters", "stored_parameters"):
        assert getattr(found.evaluation, figure) == getattr(trained, figure)
    model, tokenizer = heft.load(folder / "adapter")
    evaluation = heft.evaluate(model, tokenizer, recipe.task, recipe.evaluation)
    assert evaluation.metrics.accuracy == found.evaluation.accuracy


def test_the_ranking_is_what_an_evaluation_of_the_validation_rows_says(run):
    from heft.data.encode import Encoder
    from heft.data.validation import split_validation
    from heft.evaluation.likelihood import choice_log_likelihoods
    from heft.tasks import load_examples

    recipe, found, _ = run(
        "{method: reft, positions: l2, steps: 3, batch_size: 4}", "{grid: {rank: [2]}, holdout: 0.5}"
    )
    model, tokenizer = heft.load(found.directory / "adapter")
    rows = Encoder(tokenizer, recipe.task.max_length)(load_examples(recipe.task, "train"))
    held_back = split_validation(rows, 0.5, recipe.holdout_seed)[1]
    scores = choice_log_likelihoods(model, held_back, batch_size=4, pad_id=tokenizer.pad_token_id)
    golds = [row.example.gold for row in held_back]
    right = sum(max(range(len(s)), key=s.__getitem__) == gold for s, gold in zip(scores, golds, strict=True))
    assert found.results[0].accuracy == pytest.approx(right / len(held_back))
    wrong = [1 - math.exp(s[gold]) / sum(map(math.exp, s)) for s, gold in zip(scores, golds, strict=True)]
    assert found.results[0].expected_errors == rounded(sum(wrong) / len(wrong))
    total = -sum(s[gold] for s, gold in zip(scores, golds, strict=True))
    assert found.results[0].loss == rounded(total / sum(len(row.answer) for row in held_back))


@pytest.mark.parametrize(
    ("fine", "sweep", "message"),
    [
        ("{method: reft}", "{grid: {rank: [2, 400]}}", "rank: 400 is above the model's hidden size"),
        ("{method: reft}", "{grid: {positions: [l2, l900]}}", "shorter than the 900 positions"),
        ("{method: reft}", "{grid: {rank: [2]}, holdout: 0.99}", "leaves none to train on"),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(run, tmp_path, fine, sweep, message):
    with pytest.raises(HeftError, match=message):
        run(fine, sweep)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize("grid", ["{positions: [l2, f1]}", "{positions: [f1, l2], rank: [1, 2]}"])
def test_a_configuration_that_changes_no_answer_is_refused(run, grid):
    """Edits of a prompt's first token behind the last layer, which nothing reads."""
    with pytest.raises(HeftError, match="configuration c0[01] trains nothing that the answers depend on"):
        run("{method: reft, rank: 2, layers: [3], steps: 2}", f"{{grid: {grid}, holdout: 0.2}}")


def test_a_running_sweep_is_not_replaced_by_another(recipe_file, tmp_path):
    refused = []

    class Second(Reporter):
        def metrics(self, values):
            if "configuration" in values and not refused:
                with pytest.raises(HeftError, match="another process is working on the run in") as error:
                    remove_run(recipe.output_dir)
                refused.append(str(error.value))
                with pytest.raises(HeftError, match="another process is working on the run in"):
                    sweep(recipe, overwrite=True)

    grid = "sweep: {grid: {rank: [1, 2]}}"
    fine = "{method: reft, positions: l2, steps: 2, batch_size: 4}"
    recipe = load_recipe(recipe_file(f"{{fine: {fine}}}", grid), output=str(tmp_path / "sweep"))
    done = sweep(recipe, Second())
    assert len(refused) == 1
    assert (done.directory / "adapter" / "heft.json").is_file()
    sweep(recipe, overwrite=True)  # it is free again


def test_every_configuration_is_a_recipe_of_its_own(recipe_file):
    recipe = load_recipe(recipe_file("{fine: {method: reft}}", "sweep: {grid: {rank: [2, 4]}}"))
    assert [recipe_of(recipe, c).stages["fine"].rank for c in configurations(recipe)] == [2, 4]


def test_orthogonal_configurations_are_what_they_are_alone_and_the_winner_is_saved_folded(run, tmp_path):
    notes = Notes()
    recipe, done, learners = run(
        "{method: reft, rank: 2, positions: l2, steps: 6, batch_size: 8, learning_rate: 1e-2}",
        "{grid: {orthogonal_to: [null, coarse], intervention: [loreft, direft]}, holdout: 0.2}",
        to=notes,
    )
    winner = next(r.name for r in done.results)
    for learner in learners:
        configuration = learner.configuration
        if configuration.stage.orthogonal_to is None and configuration.name != winner:
            continue  # as other tests have them
        alone = recipe_of(recipe, configuration).model_copy(update={"output": str(tmp_path / configuration.name)})
        metrics = heft.train(alone).directory / "metrics.jsonl"
        assert learner.losses == trained_losses(values(metrics, "loss", stage="fine"), 1e-2, 6), configuration
    said = "edits read and write nothing of the directions that coarse writes, 4 of 64 at 4 sites"
    assert f"c02, c03: {said}" in notes.said
    saved = (
        load_file(folder / "adapter" / "fine" / "adapter_model.safetensors")
        for folder in (done.directory, tmp_path / winner)
    )
    assert_tensors(*saved, of_weights(1e-2, 6))


def test_a_grid_names_earlier_lora_stages_only(recipe_file):
    fine = "{coarse: {method: lora, steps: 1}, fine: {method: reft, steps: 1}}"
    with pytest.raises(HeftError, match=r"orthogonal_to(?s:.*)'coarsest' is no earlier stage"):
        load_recipe(recipe_file(fine, "sweep: {grid: {orthogonal_to: [null, coarse, coarsest]}}"))
