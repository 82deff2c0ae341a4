"""Stages that start from an adapter that exists: exact, as PEFT has it, or refused in words."""

import json
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path

import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

import heft
from heft.adapters.source import AdapterSource, find_source, require_agreement
from heft.builtin import tiny_llama
from heft.errors import HeftError
from heft.models.load import load_base
from heft.plan.planner import make_plan
from heft.recipe.files import dump_recipe, load_recipe
from heft.recipe.model import ModelSettings
from heft.recipe.recipe import LoraStage
from heft.run.train import train
from heft.runtime.reporter import Reporter
from heft.sweep.run import sweep
from heft.verify import verify

IDS = torch.arange(3, 43).reshape(2, 20)
FINE = "fine: {method: reft, rank: 2, positions: l2, steps: 2, batch_size: 4}"
TARGETS = ["q_proj", "down_proj"]
TASK = "{name: whereabouts, people: 2, moves: 2, train_size: 12, eval_size: 4}"


def fresh_base():
    return load_base(ModelSettings(name="random:tiny-llama", device="cpu", dtype="float32")).model


def plain_peft(folder: Path, steps: int = 3, tweak=None, **settings) -> Path:
    """A LoRA trained by PEFT and torch alone, as `save_pretrained` writes it."""
    torch.manual_seed(7)
    options = {"r": 3, "lora_alpha": 5, "target_modules": TARGETS, "task_type": "CAUSAL_LM"} | settings
    model = get_peft_model(fresh_base(), LoraConfig(**options))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    model.save_pretrained(folder)
    return folder


def change(folder: Path, **values) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return folder


@torch.no_grad()
def logits(model) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits


def logits_in_peft(folder: Path) -> torch.Tensor:
    return logits(PeftModel.from_pretrained(fresh_base(), folder))


class Heard(Reporter):
    def __init__(self):
        self.notes, self.warnings = [], []

    def note(self, text):
        self.notes.append(text)

    def warn(self, text):
        self.warnings.append(text)


class SignalAtStep(Reporter):
    """Ctrl-C after the first step of the fine stage."""

    def step(self, what, done, total):
        if (what, done) == ("fine", 1):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture
def lora(tmp_path):
    return plain_peft(tmp_path / "lora")


@pytest.fixture
def recipe(recipe_file, tmp_path):
    """A recipe whose coarse stage starts from a folder, with more settings of it and of the recipe, and its run."""

    def made(source, more="", rest="", fine=FINE, method="lora", output="run"):
        path = recipe_file(f"{{coarse: {{method: {method}, from: '{source}'{more}}}, {fine}}}", rest, task=TASK)
        return load_recipe(path, output=tmp_path / output)

    return made


def test_a_lora_of_plain_peft_is_a_frozen_stage_with_a_reft_stage_on_it(lora, recipe):
    heard = Heard()
    run = train(recipe(lora), heard)
    base, coarse, fine = run.stages
    assert (coarse.trainable_parameters, coarse.steps, coarse.tokens, coarse.flops, coarse.seconds) == (0, 0, 0, 0, 0)
    assert (coarse.ended, coarse.ended_because) == ("frozen", f"taken as it is from {lora}")
    assert coarse.stored_parameters == sum(t.numel() for t in load_file(lora / "adapter_model.safetensors").values())
    assert fine.trainable_parameters > 0
    model, _ = heft.load(run.directory / "adapter")
    from heft.adapters.attach import activated

    with activated(model, ["coarse"]):
        assert torch.equal(logits(model), logits_in_peft(lora))
    assert not torch.equal(logits(model), logits_in_peft(lora))
    saved = run.directory / "adapter" / "coarse"
    assert torch.equal(logits_in_peft(saved), logits_in_peft(lora))
    there, here = (load_file(each / "adapter_model.safetensors") for each in (lora, saved))
    assert there.keys() == here.keys()
    assert all(torch.equal(there[key], here[key]) for key in there)


def test_its_hashes_are_in_both_manifests(lora, recipe):
    from heft.storage.atomic import sha256_of

    run = train(recipe(lora))
    hashes = {name: sha256_of(lora / name) for name in ("adapter_config.json", "adapter_model.safetensors")}
    expected = {"given": str(lora), "folder": str(lora), "sha256": hashes}
    assert json.loads((run.directory / "manifest.json").read_text())["sources"] == {"coarse": expected}
    entries = json.loads((run.directory / "adapter" / "heft.json").read_text())["adapters"]
    assert [entry["source"] for entry in entries] == [expected, None]


@pytest.mark.parametrize(
    "settings",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"target_modules": "all-linear"},
        {"target_modules": r".*\.(0|1)\.(self_attn\.q_proj|mlp\.up_proj)"},
        {"layers_to_transform": [1]},
        pytest.param({"layers_to_transform": 0}, marks=pytest.mark.long),
        pytest.param({"layers_to_transform": [0], "layers_pattern": "layers"}, marks=pytest.mark.long),
        {"exclude_modules": ["down_proj"]},
        pytest.param({"exclude_modules": r".*0.*down_proj"}, marks=pytest.mark.long),
        {"rank_pattern": {"down_proj": 2}, "alpha_pattern": {"q_proj": 3}},
        {"rank_pattern": {r"model\.layers\.0.*q_proj": 2}},
        {"lora_dropout": 0.3},
        {"target_modules": [*TARGETS, "lm_head"]},
        {"target_modules": [*TARGETS, "embed_tokens"]},
        {"trainable_token_indices": [5, 9]},
        {"trainable_token_indices": {"embed_tokens": [5, 9]}},
        pytest.param({"task_type": None}, marks=pytest.mark.long),
        pytest.param({"init_lora_weights": "gaussian"}, marks=pytest.mark.long),
    ],
    ids=lambda settings: ",".join(settings),
)
def test_what_peft_lora_can_be_is_kept_to_the_bit(settings, tmp_path, recipe):
    folder = plain_peft(tmp_path / "lora", **settings)
    run = train(recipe(folder))
    assert torch.equal(logits_in_peft(run.directory / "adapter" / "coarse"), logits_in_peft(folder))
    model, _ = heft.load(run.directory / "adapter")
    from heft.adapters.attach import activated

    with activated(model, ["coarse"]):
        assert torch.equal(logits(model), logits_in_peft(folder))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"modules_to_save": ["lm_head"]}, "modules_to_save holds whole copies of modules"),
        ({"bias": "lora_only"}, "bias trains biases"),
        ({"lora_bias": True}, "lora_bias has a bias"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa', which changes the base's weights"),
        ({"init_lora_weights": "olora"}, "init_lora_weights is 'olora', which changes"),
        (
            {"trainable_token_indices": {"embed_tokens": [3], "lm_head": [3]}},
            "trainable_token_indices is of embed_tokens and lm_head",
        ),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_what_heft_cannot_keep_is_refused_in_words(settings, words, tmp_path, recipe):
    folder = plain_peft(tmp_path / "lora", **settings)
    with pytest.raises(HeftError, match=f"stages.coarse.from: .*cannot be started from: .*{words}"):
        train(recipe(folder))
    assert not (tmp_path / "run").exists()


def test_tokens_of_another_embedding_do_not_fit_the_base(tmp_path, recipe):
    folder = plain_peft(tmp_path / "lora", trainable_token_indices={"lm_head": [3]})
    with pytest.raises(HeftError, match=r"lm_head\.token_adapter\.trainable_tokens_delta is not expected"):
        train(recipe(folder))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"task_type": "SEQ_CLS"}, "task_type is 'SEQ_CLS'; heft adapts models of CAUSAL_LM"),
        ({"layer_replication": [[0, 1]]}, "layer_replication repeats layers"),
        ({"from_the_future": {"a": 1}}, "from_the_future is .* which this version of PEFT does not know"),
        ({"alpha_pattern": {"q.*": 3}}, "alpha_pattern has patterns"),
        ({"r": 0}, "r: expected a whole number of at least 1"),
        ({"bias": "all", "layer_replication": [[0, 1]]}, "bias trains biases.*; layer_replication repeats"),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_configurations_of_other_makers_are_refused_in_words(values, words, lora, recipe):
    change(lora, **values)
    with pytest.raises(HeftError, match=words):
        train(recipe(lora))


@pytest.mark.parametrize("value", [3, -1, 0.5, "x", ".*(", [], [1], ["x"], {"a": 1}, {"a": [2]}, True, [["x"]], {}])
def test_odd_values_of_any_key_are_an_error_in_words_or_no_fault(value, lora):
    from dataclasses import fields

    from heft.adapters.foreign import read_foreign_config

    path = lora / "adapter_config.json"
    whole = json.loads(path.read_text())
    for key in sorted({field.name for field in fields(LoraConfig)} | set(whole)):
        path.write_text(json.dumps(whole | {key: value}))
        with suppress(HeftError):
            read_foreign_config(path, lora / "adapter_model.safetensors")


def test_a_key_of_a_later_peft_that_is_off_does_no_harm(lora, recipe):
    change(lora, from_the_future=None, another=False, third={})
    assert train(recipe(lora)).stages[1].name == "coarse"


def test_all_peft_settings_are_known_here():
    """Each field of PEFT's LoraConfig is kept, has no effect in a trained adapter, or is refused where it is set."""
    from dataclasses import fields

    from heft.adapters import foreign
    from heft.adapters.safety import LoraFields

    known = {field.name for field in fields(LoraConfig)}
    assert set(foreign._REASONS) <= known
    kept = LoraFields.model_fields.keys() | {"layers_pattern"}
    for name in known - kept - foreign._NO_EFFECT:
        assert name in foreign._refused({name: "something"}), name


def test_pickled_weights_are_refused_in_words(lora, recipe):
    (lora / "adapter_model.safetensors").rename(lora / "adapter_model.bin")
    with pytest.raises(HeftError, match=r"has adapter_model.bin: such a file can run any code when it is opened"):
        train(recipe(lora))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (", rank: 8", r"rank is 8 in the recipe and 3 in .*adapter_config.json"),
        (", alpha: 16, rank: 3", r"alpha is 16.0 in the recipe and 5 in"),
        (", targets: [q_proj]", r"targets is \['q_proj'\] in the recipe and \['down_proj', 'q_proj'\] in"),
        (", targets: all-linear", "targets is 'all-linear' in the recipe and"),
        (", layers: [0]", r"layers is \[0\] in the recipe and 'all' in"),
        (", dora: true, rslora: true", "rslora is true in the recipe and false in .*; dora is true"),
        (", dropout: 0.5", "dropout is 0.5 in the recipe and 0.0 in"),
    ],
)
def test_a_setting_that_contradicts_the_files_is_an_error_with_both(settings, words, lora, recipe):
    with pytest.raises(HeftError, match=words):
        train(recipe(lora, settings))


def test_settings_that_the_files_have_too_may_be_said(lora, recipe):
    train(recipe(lora, ", rank: 3, alpha: 5, targets: [down_proj, q_proj], layers: all, dropout: 0"))


def test_experts_weights_are_targets_of_an_adapter_from_files_too():
    """PEFT lists them apart, as target_parameters."""
    config = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj"], target_parameters=["experts.gate_up_proj"])
    source = AdapterSource("a", Path("a"), config, Path("a"), {}, None)
    for targets in (["q_proj", "experts.gate_up_proj"], ["experts.gate_up_proj", "q_proj"]):
        require_agreement(LoraStage(method="lora", from_="a", targets=targets), source)
    with pytest.raises(HeftError, match=r"in the recipe and \['experts.gate_up_proj', 'q_proj'\] in"):
        require_agreement(LoraStage(method="lora", from_="a", targets=["q_proj"]), source)


@pytest.mark.parametrize("settings", ["learning_rate: 1e-3", "seed: 4", "batch_size: 4, holdout: 0.2", "warmup: 0.1"])
def test_a_frozen_stage_has_no_training_settings(settings, lora, recipe):
    with pytest.raises(HeftError, match="has no effect: the stage takes .* as it is and trains nothing"):
        recipe(lora, f", {settings}")


def test_a_resolved_recipe_is_read_back_equal_and_repeats_nothing_of_the_files(lora, recipe, tmp_path):
    for more in ("", ", epochs: 1", ", steps: 2, rank: 3"):
        made = recipe(lora, more)
        path = tmp_path / "written.yaml"
        path.write_text(dump_recipe(made))
        assert load_recipe(path) == made
        stage = made.model_dump()["stages"]["coarse"]
        assert ("rank" in stage) == ("rank" in more)
        assert ("learning_rate" in stage) == (more != "")


def test_trained_on_it_starts_from_those_weights(lora, recipe):
    run = train(recipe(lora, ", steps: 1, learning_rate: 1e-12, batch_size: 4"))
    stage = run.stages[1]
    assert (stage.steps, stage.ended) == (1, "planned")
    before = load_file(lora / "adapter_model.safetensors")
    assert stage.trainable_parameters == sum(t.numel() for t in before.values())
    after = load_file(run.directory / "adapter" / "coarse" / "adapter_model.safetensors")
    for key in before:  # a step of AdamW moves a weight by the learning rate at most, and rounds once
        torch.testing.assert_close(after[key], before[key], rtol=2**-23, atol=2e-12)
    config = json.loads((run.directory / "adapter" / "coarse" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], sorted(config["target_modules"])) == (3, 5, sorted(TARGETS))


def test_trained_on_it_moves(lora, recipe):
    run = train(recipe(lora, ", epochs: 1, learning_rate: 1e-2"))
    before = load_file(lora / "adapter_model.safetensors")
    after = load_file(run.directory / "adapter" / "coarse" / "adapter_model.safetensors")
    assert all(not torch.equal(before[key], after[key]) for key in before)


def test_a_run_its_adapter_directory_and_the_adapters_own_folder_are_the_same_source(lora, recipe, tmp_path):
    first = train(recipe(lora)).directory
    expected = logits_in_peft(lora)
    for number, given in enumerate((first, first / "adapter", first / "adapter" / "coarse")):
        run = train(recipe(given, output=f"again{number}"))
        assert torch.equal(logits_in_peft(run.directory / "adapter" / "coarse"), expected)


def test_a_reft_adapter_is_a_source_too(recipe_file, tmp_path):
    reft = "{edit: {method: reft, rank: 2, positions: f1+l2, steps: 2, learning_rate: 0.1, tied: false}}"
    first = train(load_recipe(recipe_file(reft), output=tmp_path / "first"))
    again = f"{{edit: {{method: reft, from: '{first.directory}'}}, top: {{method: lora, rank: 2, steps: 1}}}}"
    run = train(load_recipe(recipe_file(again), output=tmp_path / "second"))
    assert run.stages[1].accuracy == first.stages[1].accuracy
    assert (run.directory / "records" / "edit.jsonl").read_bytes() == (
        first.directory / "records" / "edit.jsonl"
    ).read_bytes()
    for name in ("adapter_model.safetensors",):
        there, here = (load_file(each.directory / "adapter" / "edit" / name) for each in (first, run))
        assert all(torch.equal(there[key], here[key]) for key in there | here)
    trained_on = f"{{edit: {{method: reft, from: '{first.directory}', steps: 2, rank: 2}}}}"
    third = train(load_recipe(recipe_file(trained_on), output=tmp_path / "third"))
    assert third.stages[1].steps == 2


@pytest.mark.parametrize(
    ("method", "words"),
    [("reft", "is an adapter of lora, and the stage's method is reft; set method: lora")],
)
def test_an_adapter_of_another_method_is_refused(method, words, lora, recipe):
    with pytest.raises(HeftError, match=words):
        train(recipe(lora, method=method))


def test_several_adapters_of_a_method_have_to_be_told_apart(recipe_file, tmp_path):
    two = "{one: {method: lora, rank: 2, steps: 1}, two: {method: lora, rank: 2, steps: 1}}"
    first = train(load_recipe(recipe_file(two), output=tmp_path / "first")).directory
    with pytest.raises(HeftError, match=r"has the adapters one \(lora\), two \(lora\), 2 of lora; say which: .*one"):
        find_source(str(first), "lora")
    with pytest.raises(HeftError, match="none of reft; none is of this stage's method"):
        find_source(str(first), "reft")
    heard = Heard()
    recipe = load_recipe(recipe_file(f"{{two: {{method: lora, from: '{first / 'adapter' / 'two'}'}}}}"))
    train(recipe.model_copy(update={"output": str(tmp_path / "second")}), heard)
    assert heard.warnings == [
        f"stage two: {first / 'adapter' / 'two'} was trained on top of one, which this recipe does not have"
    ]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("absent/../x y", "does not exist"),
        ("a" * 300, "does not exist"),
        ("a.yaml", "a.yaml is a file"),
        ("empty", "empty lacks adapter_config.json, adapter_model.safetensors"),
        ("model", "model holds a model, no adapter"),
        ("org/name", "org/name is not in the Hub's cache, and the Hub cannot be reached"),
    ],
)
def test_what_is_no_adapter_is_named(given, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").touch()
    Path("empty").mkdir()
    Path("model").mkdir()
    Path("model", "config.json").touch()
    with pytest.raises(HeftError, match=words):
        find_source(given, "lora")


def test_a_hub_id_is_read_from_the_hubs_cache(lora, recipe, tmp_path, monkeypatch):
    import huggingface_hub.constants as constants

    monkeypatch.setenv("HEFT_CACHE", str(tmp_path / "heft"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--org--name"
    commit = "0123456789" * 4
    for folder in ("refs", "blobs", f"snapshots/{commit}"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    for name in ("adapter_config.json", "adapter_model.safetensors"):  # links to blobs, as the Hub's library makes them
        shutil.copy(lora / name, repository / "blobs" / name)
        (repository / "snapshots" / commit / name).symlink_to(Path("../../blobs") / name)
    run = train(recipe("org/name"))
    assert torch.equal(logits_in_peft(run.directory / "adapter" / "coarse"), logits_in_peft(lora))
    (repository / "snapshots" / commit / "adapter_config.json").unlink()
    (repository / "snapshots" / commit / "adapter_config.json").symlink_to(lora / "adapter_config.json")
    shutil.rmtree(tmp_path / "heft")
    with pytest.raises(HeftError, match="is a link that leads out of"):
        find_source("org/name", "lora")


def test_a_base_of_other_shapes_is_an_error_with_the_tensors(lora, recipe):
    tensors = load_file(lora / "adapter_model.safetensors")
    key = next(key for key in tensors if "q_proj.lora_A" in key)
    tensors[key] = torch.zeros(3, 999)
    save_file(tensors, lora / "adapter_model.safetensors")
    change(lora, base_model_name_or_path="org/another")
    with pytest.raises(
        HeftError, match=r"(?s)stages.coarse.from: .*does not fit its base model.*is \[3, 999\]"
    ) as error:
        train(recipe(lora))
    assert "it was trained on org/another" in str(error.value)


def test_a_base_of_another_name_that_fits_is_a_warning(lora, recipe):
    change(lora, base_model_name_or_path="org/another")
    heard = Heard()
    train(recipe(lora), heard)
    assert heard.warnings == [
        f"stage coarse: {lora} was trained on org/another, and the base here is random:tiny-llama: its shapes fit"
    ]


def test_weights_that_a_file_has_beside_the_update_are_refused(lora, recipe):
    tensors = load_file(lora / "adapter_model.safetensors")
    own = fresh_base().get_input_embeddings().weight.detach().clone()
    tensors["base_model.model.model.embed_tokens.weight"] = own
    save_file(tensors, lora / "adapter_model.safetensors")
    assert torch.equal(logits_in_peft(train(recipe(lora)).directory / "adapter" / "coarse"), logits_in_peft(lora))
    tensors["base_model.model.model.embed_tokens.weight"] = own + 1
    save_file(tensors, lora / "adapter_model.safetensors")
    with pytest.raises(HeftError, match="has whole weights of model.embed_tokens.weight, which are not those of the"):
        train(recipe(lora, output="second"))
    tensors["base_model.model.model.embed_tokens.weight"] = own[:-1].clone()
    save_file(tensors, lora / "adapter_model.safetensors")
    with pytest.raises(HeftError, match="which is no part of a LoRA adapter or of this base"):
        train(recipe(lora, output="third"))


def test_a_source_in_the_runs_own_directory_is_refused(lora, recipe, tmp_path):
    train(recipe(lora))
    with pytest.raises(HeftError, match="which the run writes"):
        train(recipe(tmp_path / "run"), overwrite=True)
    assert (tmp_path / "run" / "adapter" / "heft.json").exists()


def test_a_run_whose_source_changed_is_not_resumed(lora, recipe, tmp_path):
    from heft.runtime import signals

    made = recipe(lora, rest="checkpoint: {every_steps: 1}")
    with signals.handling(), pytest.raises(KeyboardInterrupt):
        train(made, SignalAtStep())
    other = plain_peft(tmp_path / "other", steps=4)
    shutil.copy(other / "adapter_model.safetensors", lora / "adapter_model.safetensors")
    with pytest.raises(HeftError, match="was begun from another adapter"):
        train(made, resume=True)


@pytest.mark.parametrize("more", ["", ", steps: 3, batch_size: 4"])
def test_a_resumed_run_ends_as_one_that_was_never_interrupted(more, lora, recipe):
    from heft.runtime import signals

    rest = "checkpoint: {every_steps: 1}"
    whole = train(recipe(lora, more, rest, output="whole"))
    made = recipe(lora, more, rest, output="halved")
    with signals.handling(), pytest.raises(KeyboardInterrupt):
        train(made, SignalAtStep())
    resumed = train(made, resume=True)
    for adapter in ("coarse", "fine"):
        there, here = (
            load_file(each.directory / "adapter" / adapter / "adapter_model.safetensors") for each in (whole, resumed)
        )
        assert all(torch.equal(there[key], here[key]) for key in there | here)
    for name in ("base", "coarse", "fine"):
        one, other = (each.directory / "records" / f"{name}.jsonl" for each in (whole, resumed))
        assert one.read_bytes() == other.read_bytes()
    assert train(made, resume=True).stages == resumed.stages  # finished: its figures again


def test_plan_counts_nothing_for_it_and_the_stage_behind_it_as_ever(lora, recipe):
    heard = Heard()
    plan = make_plan(recipe(lora), heard, probe_seconds=0)
    coarse, fine = plan.stages
    assert (coarse.steps, coarse.trainable_parameters, coarse.flops, coarse.plain_flops) == (0, 0, 0, 0)
    assert coarse.evaluation_flops > 0
    new = make_plan(recipe(lora, ", steps: 1"), heard, probe_seconds=0)
    assert new.stages[0].trainable_parameters > 0
    assert new.stages[0].flops > 0
    assert (fine.flops, fine.steps) == (new.stages[1].flops, new.stages[1].steps)


def test_a_sweep_of_the_stage_behind_it_keeps_it(lora, recipe):
    made = recipe(lora, rest="sweep: {grid: {rank: [1, 2]}, evaluate_winner: true}")
    found = sweep(made)
    assert torch.equal(logits_in_peft(found.directory / "adapter" / "coarse"), logits_in_peft(lora))
    winner = load_recipe(found.directory / "winner.yaml", output=found.directory.parent / "winner")
    assert winner.stages["coarse"].is_frozen
    assert train(winner).stages[1].steps == 0


def test_a_sweep_of_the_stage_itself_is_refused(lora, recipe):
    fine = "fine: {method: reft, from: x, steps: 2}"
    with pytest.raises(HeftError, match="varies stage 'fine', which starts from x"):
        recipe(lora, fine=fine, rest="sweep: {grid: {learning_rate: [1e-3, 2e-3]}}")
    with pytest.raises(HeftError, match="cannot differ between configurations: configurations begin with new"):
        recipe(lora, rest="sweep: {grid: {from: [a, b]}}")


def test_verify_compare_and_report_take_such_a_run(lora, recipe, tmp_path):
    from heft.compare.comparison import compare
    from heft.compare.inputs import read_inputs
    from heft.report.page import write_report

    run = train(recipe(lora)).directory
    report = verify(run / "adapter")
    assert report.ok, [str(finding) for finding in report.findings if finding.state == "FAILED"]
    inputs = read_inputs([str(run)])
    assert {arm.name for arm in inputs.arms} >= {"base", "coarse", "fine"}
    assert compare(inputs.arms, inputs.reference, inputs.pairs).pairs
    write_report([str(run)], tmp_path / "report.html", None)
    assert str(lora) in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_the_versions_tested_are_those_of_the_format():
    assert peft.__version__.startswith("0.21.")
    assert tiny_llama().config.tie_word_embeddings is False
