"""The recipe's models: defaults that differ by method, the checks between settings, and the round trip as YAML."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from ruamel.yaml import YAML

from heft.edits.settings import ReftSettings
from heft.errors import HeftError
from heft.recipe.files import dump_recipe, load_recipe
from heft.recipe.model import ModelSettings
from heft.recipe.recipe import EvaluationSettings, JointStage, LoraSettings, LoraStage, Recipe, ReftStage
from heft.settings.files import to_yaml
from heft.tasks import TASKS

ROOT = Path(__file__).parents[2]


def recipe_with(stage: dict, **others) -> Recipe:
    """A recipe of one stage, checked as strictly as a file is."""
    data = {"name": "r", "task": {"name": "boolq"}, "stages": {"coarse": stage}} | others
    return Recipe.model_validate(data, strict=True)


def faults_of(stage: dict, **others) -> str:
    with pytest.raises(ValidationError) as caught:
        recipe_with(stage, **others)
    return str(caught.value)


@pytest.mark.parametrize("stage", [LoraStage, ReftStage, JointStage])
def test_a_stage_leaves_its_learning_rate_and_length_to_the_rows(stage):
    assert (stage().learning_rate, stage().epochs, stage().steps) == ("auto", "auto", None)


def test_a_stage_with_steps_takes_no_epochs():
    assert (LoraStage(method="lora", steps=5).epochs, LoraStage(method="lora", steps=5).steps) == (None, 5)


def test_early_stopping_takes_twenty_epochs_at_most_and_true_means_the_defaults():
    stage = LoraStage(method="lora", holdout=0.1, early_stopping=True)
    assert (stage.epochs, stage.early_stopping.patience, stage.early_stopping.min_delta) == (20.0, 2, 0.01)
    assert LoraStage(method="lora", holdout=0.1, early_stopping=True, steps=9).epochs is None


@pytest.mark.parametrize(
    ("given_settings", "complaint"),
    [
        ({"epochs": 1, "steps": 5}, "epochs or steps, not both"),
        ({"epochs": None}, "both epochs and steps are null"),
        ({"batch_size": 16, "micro_batch_size": 5}, "not a multiple"),
        ({"micro_batch_size": 32}, "not a multiple"),
        ({"decay": 0.1}, "is for schedule warmup_stable_decay, and schedule is linear"),
        ({"schedule": "warmup_stable_decay", "decay": 0.0}, "greater than 0"),
        ({"schedule": "warmup_stable_decay", "warmup": 0.5, "decay": 0.6}, "more than all steps"),
        ({"best_checkpoint": True}, "set holdout"),
        ({"early_stopping": True}, "set holdout"),
        (
            {"early_stopping": "plateau", "holdout": 0.1},
            "give true, a mapping with the keys patience",
        ),
        ({"early_stopping": True, "holdout": 0.1, "epochs": 2}, "2 epochs hold 2 validation evaluations, too few"),
        ({"early_stopping": True, "holdout": 0.1, "evaluate_every": 5, "steps": 14}, "14 steps hold 2 validation"),
        ({"evaluate_every": 10}, "set holdout"),
        ({"holdout": 1.0}, "less than 1"),
        ({"warmup": 1.5}, "less than or equal to 1"),
        ({"dora": True, "init": "pissa"}, "plain adapter"),
        ({"dora": True, "init": "pissa_niter_4"}, "plain adapter"),
        ({"dora": True, "init": "olora"}, "plain adapter"),
        ({"init": "pissa_niter_0"}, "unknown init"),
        ({"init": "gausian"}, "did you mean 'gaussian'"),
        ({"init": "orthogonal", "rank": 3}, "even ranks"),
        ({"init": "orthogonal", "rank_pattern": {"down_proj": 5}}, "even ranks"),
        ({"rank_pattern": {"down_proj": 0}}, "greater than or equal to 1"),
        ({"alpha_pattern": {"down_proj": 0.0}}, "greater than 0"),
        ({"alpha": 0}, "greater than 0"),
        ({"alpha": 1.1e9}, "less than or equal to 1000000000"),
        ({"rank": 2**20 + 1}, "less than or equal to 1048576"),
        ({"targets": []}, "at least one"),
        ({"targets": ["q_proj", "q_proj"]}, "repeat"),
        ({"layers": [1, 1]}, "repeat"),
        ({"layers": [-1]}, "greater than or equal to 0"),
        ({"rank": True}, "valid integer"),
        ({"rank": "8"}, "valid integer"),
        ({"learning_rate": "1e-4"}, "valid number"),
        ({"learning_rate": True}, "valid number"),
        ({"learning_rate": float("nan")}, "finite number"),
        ({"site": "mlp"}, "Extra inputs"),
        ({"positions": "f1+l1"}, "'all' or 'lN"),
        ({"positions": "l4", "dora": True}, "dora scales whole weights"),
        ({"positions": "l4", "init": "pissa"}, "pissa changes base weights"),
        ({"positions": "l4", "trainable_tokens": ["x"]}, "trainable_tokens change embeddings"),
    ],
)
def test_settings_of_a_stage_that_do_not_fit_are_refused(given_settings, complaint):
    assert complaint in faults_of({"method": "lora"} | given_settings)


@pytest.mark.parametrize(
    "given_settings",
    [
        {"micro_batch_size": 4},
        {"holdout": 0.1, "best_checkpoint": True, "early_stopping": {"patience": 1}, "evaluate_every": 5},
        {"dora": True, "init": "gaussian"},
        {"init": "pissa_niter_16"},
        {"init": "orthogonal", "rank": 4},
        {"alpha": 16, "learning_rate": 1, "epochs": 2},
        {"steps": 3, "epochs": None},
        {"layers": [0, 5], "targets": ["q_proj"], "exclude": ["lm_head"]},
    ],
)
def test_settings_of_a_stage_that_fit_are_kept_as_given(given_settings):
    stage = recipe_with({"method": "lora"} | given_settings).stages["coarse"]
    assert stage.model_dump(exclude_unset=True) == {"method": "lora"} | given_settings


@pytest.mark.parametrize(
    ("given_settings", "complaint"),
    [
        ({"name": "embedded:smollm3"}, "no built-in model"),
        ({"revision": "main"}, "no effect on the built-in model"),
        ({"name": "random:tiny-llama", "trust_remote_code": True}, "no effect on the built-in model"),
        ({"attention": "flash_attention_2", "dtype": "float32"}, "bfloat16 on cuda"),
        ({"attention": "flash_attention_2", "device": "cpu"}, "bfloat16 on cuda"),
        ({"attention": "flash_attention_2", "dtype": "bfloat16", "device": "cpu"}, "bfloat16 on cuda"),
    ],
)
def test_settings_of_the_model_that_do_not_fit_are_refused(given_settings, complaint):
    with pytest.raises(HeftError, match=complaint):
        ModelSettings(**given_settings)


def test_a_hub_model_may_have_a_revision_and_a_path_may_have_a_colon():
    assert ModelSettings(name="org/model", revision="v1", trust_remote_code=True).revision == "v1"
    assert ModelSettings(name="./runs/a:b").name == "./runs/a:b"


@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora"])
@pytest.mark.parametrize("joint", [False, True])
def test_a_start_that_changes_weights_is_refused_on_a_quantized_model_only(init, joint):
    stage = {"method": "joint", "lora": {"init": init}} if joint else {"method": "lora", "init": init}
    assert "unquantized weights" in faults_of(stage, model={"quantization": "4bit"})
    assert recipe_with(stage).model.quantization is None


def test_normalisation_is_refused_where_answers_are_generated():
    others = {"task": {"name": "gsm8k"}, "evaluation": {"normalize": "bytes"}}
    assert "no choices" in faults_of({"method": "lora"}, **others)
    assert recipe_with({"method": "lora"}, evaluation={"normalize": "bytes"}).evaluation.normalize == "bytes"


@pytest.mark.parametrize("name", ["", "a/b", "a\\b", "..", "a..b", ".a", "-a", "a b", "é", "a\n"])
def test_a_name_that_is_no_plain_file_name_is_refused(name):
    assert "a name is letters" in faults_of({"method": "lora"}, name=name)


@pytest.mark.parametrize("name", ["base", "Coarse", "1st", "a-b", "a.b", "", "a\n"])
def test_a_stage_name_that_could_not_name_a_directory_or_an_adapter_is_refused(name):
    assert "a stage's name" in faults_of({"method": "lora"}, stages={name: {"method": "lora"}})


def test_a_recipe_needs_a_stage():
    assert "at least 1 item" in faults_of({}, stages={})


def test_the_output_directory_is_the_one_given_or_is_named_after_the_recipe():
    assert recipe_with({"method": "lora"}).output_dir == Path("runs/r")
    assert recipe_with({"method": "lora"}, output="elsewhere/x").output_dir == Path("elsewhere/x")


def test_a_tilde_in_the_output_directory_is_the_home_as_it_is_of_rows_and_models(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert recipe_with({"method": "lora"}, output="~/runs/a").output_dir == tmp_path / "runs" / "a"


@pytest.mark.parametrize(
    ("stage", "others"),
    [({}, {"output": "a\0b"}), ({}, {"model": {"name": "a\0b"}}), ({"from": "a\0b"}, {})],
    ids=["output", "model", "from"],
)
def test_a_path_with_a_character_that_no_path_can_have_is_refused(stage, others):
    assert "has a NUL character" in faults_of({"method": "lora", **stage}, **others)


def test_stages_keep_the_order_in_which_they_are_written():
    stages = {"z": {"method": "reft"}, "a": {"method": "lora"}, "m": {"method": "joint"}}
    assert list(recipe_with({}, stages=stages).stages) == ["z", "a", "m"]


words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
tricky = st.sampled_from(
    ["no", "null", "~", "1e5", "0o17", "0x1f", ".5", "1.", "true", "- a", "a: b", "#", "", " a ", "é\n"]
)
names = st.lists(words | tricky, min_size=1, max_size=3, unique=True)
rates = st.floats(min_value=1e-12, max_value=1e12)
training = {
    "learning_rate": rates,
    "batch_size": st.integers(1, 10**6),
    "schedule": st.sampled_from(["linear", "cosine", "constant", "warmup_stable_decay"]),
    "bf16": st.booleans(),
}
lora = {
    "rank": st.integers(1, 4096),
    "alpha": st.floats(min_value=1e-12, max_value=1e9),
    "targets": st.just("all-linear") | names,
    "layers": st.just("all") | st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True),
    "rank_pattern": st.dictionaries(words | tricky, st.integers(1, 9), max_size=2),
}
reft = {"rank": st.integers(1, 64), "positions": st.sampled_from(["all", "f1", "f7+l7"]), "dropout": st.floats(0, 0.9)}


def some(method: str, fields: dict) -> st.SearchStrategy:
    return st.fixed_dictionaries({"method": st.just(method)}, optional=fields)


stages = st.one_of(
    some("lora", lora | training | {"steps": st.integers(1, 9)}),
    some("reft", reft | training | {"epochs": rates}),
    some("joint", {"lora": st.fixed_dictionaries({}, optional=lora), "reft": st.fixed_dictionaries({}, optional=reft)}),
)
recipes = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,8}", fullmatch=True),
        "task": st.sampled_from([{"name": "boolq", "passage": False}, {"name": "gsm8k"}, {"name": "whereabouts"}]),
        "stages": st.dictionaries(st.from_regex(r"s[a-z0-9_]{0,8}", fullmatch=True), stages, min_size=1, max_size=4),
    },
    optional={
        "seed": st.integers(0, 2**32 - 1),
        "output": words.filter(lambda text: "\0" not in text),
        "model": st.fixed_dictionaries({"name": st.just("a/b")}),
    },
)


@settings(deadline=None, max_examples=60)
@given(data=recipes)
def test_a_recipe_that_is_written_is_read_back_equal_and_in_order(tmp_path_factory, data):
    recipe = Recipe.model_validate(data, strict=True)
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8", newline="")
    again = load_recipe(path)
    assert again == recipe
    assert list(again.stages) == list(recipe.stages)


@given(text=st.text("ab \\\n\"'\0\x85é#:", min_size=60, max_size=200))
def test_long_text_of_any_characters_is_written_and_read_back_equal(text):
    assert YAML(typ="safe", pure=True).load(to_yaml({"key": text})) == {"key": text}


def test_a_written_recipe_holds_every_setting_of_every_group():
    stages = {"a": {"method": "lora"}, "b": {"method": "reft"}, "c": {"method": "joint"}}
    written = YAML(typ="safe", pure=True).load(dump_recipe(recipe_with({}, stages=stages)))
    groups = [
        (written, Recipe),
        (written["model"], ModelSettings),
        (written["task"], TASKS["boolq"].settings_type),
        (written["stages"]["a"], LoraStage),
        (written["stages"]["b"], ReftStage),
        (written["stages"]["c"], JointStage),
        (written["stages"]["c"]["lora"], LoraSettings),
        (written["stages"]["c"]["reft"], ReftSettings),
        (written["evaluation"], EvaluationSettings),
    ]
    for group, model in groups:
        assert set(group) == {field.alias or name for name, field in model.model_fields.items()}
    assert [next(iter(stage)) for stage in written["stages"].values()] == ["method"] * 3
    assert next(iter(written["task"])) == "name"


def test_loading_a_recipe_takes_no_torch_and_little_time():
    code = (
        "import sys, time; from heft.recipe.files import load_recipe; load_recipe(sys.argv[1]);"
        "print('torch' in sys.modules, 'transformers' in sys.modules, time.process_time())"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code, "quickstart"]
    answers = [subprocess.run(command, env=environment, capture_output=True, text=True, check=True) for _ in range(2)]
    loaded = [answer.stdout.split() for answer in answers]
    assert all(answer[:2] == ["False", "False"] for answer in loaded)
    # Processor time of the whole process; 0.3 s as measured, with room for slow machines. torch alone takes seconds.
    assert min(float(answer[2]) for answer in loaded) < 1.0


def test_seeds_of_a_stage_follow_from_the_recipes_and_its_place_unless_it_has_its_own(recipe_file):
    stages = "{a: {method: lora}, b: {method: reft}, c: {method: reft, seed: 5}}"
    recipe = load_recipe(recipe_file(stages, "seed: 10"))
    assert [recipe.stage_seed(name) for name in "abc"] == [10, 11, 5]
    assert recipe.holdout_seed == 10


def test_the_seed_behind_the_largest_one_is_the_smallest(recipe_file):
    recipe = load_recipe(recipe_file("{a: {method: lora}, b: {method: reft}}", f"seed: {2**32 - 1}"))
    assert [recipe.stage_seed(name) for name in "ab"] == [2**32 - 1, 0]
