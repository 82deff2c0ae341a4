"""A run, from recipe to run directory."""

import json

import pytest
import torch
from safetensors.torch import load_file

import heft
from heft.errors import HeftError
from heft.plan.planner import make_plan
from heft.recipe.defaults import with_defaults_of
from heft.recipe.files import load_recipe
from heft.results.records import read_records
from heft.runtime.reporter import Reporter
from tiny_recipe import write_recipe

HEFT = (
    "{coarse: {method: lora, rank: 2, steps: 2, batch_size: 4}, "
    "fine: {method: reft, rank: 2, positions: l2, steps: 2, batch_size: 4}}"
)


class Listener(Reporter):
    def __init__(self):
        self.stages, self.notes = [], []

    def overview(self, stage, rows):
        self.stages.append((stage, [(row.name, row.state) for row in rows]))

    def note(self, text):
        self.notes.append(text)


@pytest.fixture(scope="module")
def heard():
    """What the reporter of the finished run was told."""
    return Listener()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, heard):
    """A recipe and its run, which tests leave as it is."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = load_recipe(write_recipe(folder, HEFT), output=str(folder / "run"))
    torch.manual_seed(123)
    return recipe, heft.train(recipe, heard)


def test_a_run_leaves_everything_that_is_promised(finished):
    recipe, run = finished
    files = {str(path.relative_to(run.directory)) for path in run.directory.rglob("*") if path.is_file()}
    adapter = {
        f"adapter/{n}/{f}" for n in ("coarse", "fine") for f in ("adapter_config.json", "adapter_model.safetensors")
    }
    records = {f"records/{name}.jsonl" for name in ("base", "coarse", "fine")}
    assert files == adapter | records | {
        "recipe.yaml", "manifest.json", "metrics.jsonl", "summary.json", "adapter/heft.json",
    }  # fmt: skip
    resolved = load_recipe(run.directory / "recipe.yaml")
    assert resolved == with_defaults_of(resolved, recipe)
    assert "auto" not in {stage.learning_rate for stage in resolved.stages.values()}
    stages = json.loads((run.directory / "summary.json").read_text())["stages"]
    assert [stage["name"] for stage in stages] == ["base", "coarse", "fine"]
    for stage in stages:
        kept = read_records(run.directory / "records" / f"{stage['name']}.jsonl")
        assert stage["n"] == len(kept) == 10
        assert stage["accuracy"] == sum(record.correct for record in kept) / 10
        assert stage["interval"][0] <= stage["accuracy"] <= stage["interval"][1]
    assert [stage["trainable_parameters"] > 0 for stage in stages] == [False, True, True]
    kept = [load_file(run.directory / "adapter" / name / "adapter_model.safetensors") for name in ("coarse", "fine")]
    sizes = [sum(tensor.numel() for tensor in tensors.values()) for tensors in kept]
    assert [stage["stored_parameters"] for stage in stages] == [0, sizes[0], sum(sizes)]
    assert [(stage["ended"], stage["ended_because"]) for stage in stages] == [
        (None, None), ("planned", "all 2 steps were taken"), ("planned", "all 2 steps were taken"),
    ]  # fmt: skip
    assert all(stage["peak_bytes"] is None or stage["peak_bytes"] > 10**6 for stage in stages)
    manifest = json.loads((run.directory / "manifest.json").read_text())
    assert manifest["data"]["train"]["rows"] == 24
    assert {"torch", "transformers", "peft"} <= manifest["libraries"].keys()
    metrics = [json.loads(line) for line in (run.directory / "metrics.jsonl").read_text().splitlines()]
    assert [(m["stage"], m["step"]) for m in metrics] == [("coarse", 1), ("coarse", 2), ("fine", 1), ("fine", 2)]


def test_the_loaded_adapter_gives_the_records_of_the_run_to_the_bit(finished):
    recipe, run = finished
    model, tokenizer = heft.load(run.directory / "adapter")
    result = heft.evaluate(model, tokenizer, recipe.task, recipe.evaluation)
    assert result.records == read_records(run.directory / "records" / "fine.jsonl")


def test_two_runs_are_equal_to_the_bit_whatever_the_state_of_the_callers_generator(finished, tmp_path):
    recipe, run = finished
    torch.manual_seed(456)
    again = heft.train(recipe.model_copy(update={"output": str(tmp_path / "again")}))
    for name in ("coarse", "fine"):
        file = f"adapter/{name}/adapter_model.safetensors"
        assert (run.directory / file).read_bytes() == (again.directory / file).read_bytes()


def test_the_largest_seed_trains_every_stage(recipe_file, tmp_path):
    stages = "{coarse: {method: lora, rank: 2, steps: 1}, fine: {method: reft, rank: 2, steps: 1}}"
    recipe = load_recipe(recipe_file(stages, f"seed: {2**32 - 1}"), output=str(tmp_path / "run"))
    assert [stage.name for stage in heft.train(recipe).stages] == ["base", "coarse", "fine"]


def test_flops_of_whole_epochs_are_those_of_the_plan(recipe_file, tmp_path):
    reft = "{method: reft, rank: 2, epochs: 2, batch_size: 5"
    stages = f"{{coarse: {{method: lora, rank: 2, epochs: 1}}, fine: {reft}, positions: l2}}, "
    stages += f"upper: {reft}, positions: all, layers: [3], cache: disk}}, off: {reft}, positions: l2, cache: off}}}}"
    task = "{name: whereabouts, train_size: 12, eval_size: 2}"
    recipe = load_recipe(recipe_file(stages, task=task), output=str(tmp_path / "run"))
    base, *stages = heft.train(recipe).stages
    assert (base.flops, base.plain_flops, base.tokens) == (0, 0, 0)
    for done, planned in zip(stages, make_plan(recipe, probe_seconds=0).stages, strict=True):
        assert (done.name, done.steps) == (planned.name, planned.steps)
        assert done.flops == pytest.approx(planned.flops)
        assert done.plain_flops == pytest.approx(planned.plain_flops)
    coarse, fine, upper, off = stages
    assert coarse.flops == coarse.plain_flops
    assert fine.flops < off.flops < off.plain_flops
    assert upper.flops < upper.plain_flops


def test_flops_follow_the_rows_that_were_seen(finished):
    _, run = finished
    for stage in run.stages[1:]:
        assert stage.steps == 2
        assert 0 < stage.flops <= stage.plain_flops
    written = json.loads((run.directory / "summary.json").read_text())["stages"]
    assert [stage["flops"] for stage in written] == [stage.flops for stage in run.stages]


def test_a_model_that_cannot_be_counted_is_trained_all_the_same(recipe_file, tmp_path, monkeypatch, fresh_shapes):
    def fail(*args):
        raise NotImplementedError("no such kernel on meta")

    monkeypatch.setattr("heft.costs.operations._run", fail)
    listener = Listener()
    recipe = load_recipe(recipe_file("{coarse: {method: lora, rank: 2, steps: 1}}"), output=str(tmp_path / "run"))
    run = heft.train(recipe, listener)
    assert [(stage.flops, stage.plain_flops) for stage in run.stages[1:]] == [(None, None)]
    assert "FLOPs of stage coarse are not counted: NotImplementedError: no such kernel on meta" in listener.notes


def test_a_run_in_an_occupied_directory_is_refused_and_leaves_it_alone(finished):
    recipe, run = finished
    before = {path: path.read_bytes() for path in run.directory.rglob("*") if path.is_file()}
    with pytest.raises(HeftError, match="already holds a run: --resume"):
        heft.train(recipe)
    assert {path: path.read_bytes() for path in run.directory.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "stages",
    [*(pytest.param(f"{{a: {{method: {method}, steps: 1}}}}", marks=pytest.mark.long) for method in ("lora", "reft")),
     "{a: {method: reft, steps: 1}, b: {method: lora, steps: 1}}", "{a: {method: joint, steps: 1}}",
     "{a: {method: lora, steps: 1}, b: {method: reft, steps: 1}, c: {method: lora, steps: 1, init: pissa}}"],
)  # fmt: skip
def test_every_list_of_stages_is_a_recipe(recipe_file, tmp_path, stages):
    recipe = load_recipe(recipe_file(stages), output=str(tmp_path / "run"))
    run = heft.train(recipe)
    model, tokenizer = heft.load(run.directory / "adapter")
    result = heft.evaluate(model, tokenizer, recipe.task, recipe.evaluation)
    last = run.stages[-1].name
    assert result.records == read_records(run.directory / "records" / f"{last}.jsonl")


@pytest.mark.parametrize(
    ("stages", "task", "message"),
    [
        ("{a: {method: lora, targets: [q_prj]}}", None, "'q_prj' matches no linear module.*q_proj"),
        ("{a: {method: reft, positions: f400+l400}}", None, "shorter than the 800 positions"),
        ("{a: {method: lora, holdout: 0.99}}", None, "leaves none to train on"),
        (
            "{a: {method: lora, holdout: 0.1}}",
            "{name: whereabouts, train_size: 1, eval_size: 2}",
            "0.1 of 1 row leaves none",
        ),
        ("{a: {method: lora}}", "{name: whereabouts, train_size: 4, eval_size: 2, max_length: 16}", "too small"),
        ("{a: {method: lora}}", "{name: rows, train: no.jsonl, eval: no.jsonl}", r"no\.jsonl"),
    ],
)
def test_bad_input_is_one_message_and_leaves_nothing(recipe_file, tmp_path, stages, task, message):
    path = recipe_file(stages, **({"task": task} if task else {}))
    with pytest.raises(HeftError, match=message):
        heft.train(load_recipe(path, output=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("replaces", [False, True], ids=["a free directory", "a run that it replaces"])
def test_prompts_that_do_not_switch_an_alora_on_are_said_before_anything_is_written(recipe_file, tmp_path, replaces):
    first = recipe_file("{a: {method: lora, rank: 2, positions: l4+, steps: 1, batch_size: 4}}")
    trained = heft.train(load_recipe(first, output=str(tmp_path / "first")))
    assert (trained.directory / "adapter" / "a" / "adapter_config.json").read_text().count("alora_invocation_tokens")
    run = tmp_path / "run"
    if replaces:
        heft.train(load_recipe(first, output=str(run)))
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    lines = [json.dumps({"q": f"Is it {n}?", "a": "yes" if n % 2 else "no"}) for n in range(12)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    task = "{name: rows, train: rows.jsonl, prompt: '{q} Say:', answer: a, choices: labels}"
    behind = (
        f"{{a: {{method: lora, from: {trained.directory.as_posix()}}}, b: {{method: reft, positions: l2, steps: 1}}}}"
    )
    with pytest.raises(HeftError, match=r"stages\.a\.from: the adapter is an aLoRA.*12 of 12 prompts do not end with"):
        heft.train(load_recipe(recipe_file(behind, task=task), output=str(run)), overwrite=replaces)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_the_reporter_hears_what_trains_before_each_stage(finished, heard):
    assert heard.notes[-1].startswith("prefixes reused, ")
    assert heard.stages == [
        ("coarse", [("base", "frozen, active"), ("coarse", "trains, active")]),
        ("fine", [("base", "frozen, active"), ("coarse", "frozen, active"), ("fine", "trains, active")]),
    ]
