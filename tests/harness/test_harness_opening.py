"""What HeftLM is given: options that go together, and those that would change nothing."""

import pytest
import torch

import heft
from heft.builtin import TINY, byte_tokenizer, tiny_llama
from heft.errors import HeftError
from heft.harness.model import HeftLM
from heft.harness.opening import AUTO_BATCH_SIZE


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": "coarse", "base": "other"}, "base=other and stages=coarse goes with a run or an adapter directory"),
        ({"batch_size": 3, "max_batch_size": 5}, "max_batch_size 5 goes with batch_size=auto"),
        ({"batch_size": "many"}, "evaluation.batch_size"),
        ({"device": "gpu"}, "model.device: expected one of auto, cpu, cuda, mps"),
        ({"settings": ["evaluation.nothing=1"]}, "evaluation.nothing"),
    ],
)
def test_options_of_a_base_model_that_do_not_fit_are_named(options, message):
    with pytest.raises(HeftError, match=message):
        HeftLM(TINY, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokenizer": None}, "needs its tokenizer"),
        ({"device": "cpu", "stages": "fine"}, "device=cpu, stages=fine has no meaning for a model that is loaded"),
        ({"settings": ["model.dtype=float32"]}, "model.dtype=… has no meaning for a model that is loaded"),
    ],
)
def test_options_of_a_loaded_model_that_would_change_nothing_are_named(options, message):
    with pytest.raises(HeftError, match=message):
        HeftLM(tiny_llama().eval(), **({"tokenizer": byte_tokenizer()} | options))


def test_settings_are_one_text_where_they_come_from_a_command_line():
    arguments = f"pretrained={TINY},settings=evaluation.share_prefix=false model.dtype=bfloat16"
    lm = HeftLM.create_from_arg_string(arguments, {"batch_size": 2, "max_batch_size": None, "device": None})
    assert (lm._opened.evaluation.share_prefix, lm.model.dtype) == (False, torch.bfloat16)


def test_a_model_in_training_mode_is_refused():
    with pytest.raises(HeftError, match="in training mode, in which dropout acts"):
        HeftLM(tiny_llama().train(), byte_tokenizer())


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(HeftError, match="runs in one process; start it without torchrun"):
        HeftLM(TINY)


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        ({}, 16),
        ({"batch_size": 3}, 3),
        ({"batch_size": "auto"}, AUTO_BATCH_SIZE),
        ({"batch_size": "auto:2", "max_batch_size": 5}, 5),
    ],
)
def test_the_batch_size_is_the_one_asked_for_or_that_of_training(given, rows):
    assert HeftLM(TINY, **given).batch_size == rows


def test_a_runs_stages_are_on_as_asked_and_its_settings_are_those_of_training(recipe_file, tmp_path):
    stages = "{coarse: {method: lora, rank: 2, steps: 2}, fine: {method: reft, rank: 2, positions: l2, steps: 2}}"
    recipe = recipe_file(stages, "evaluation: {batch_size: 7}")
    heft.train(recipe, output=tmp_path / "run")
    lm = HeftLM(str(tmp_path / "run"))
    assert lm.batch_size == 7
    assert lm.get_model_info()["adapters"] == ["coarse", "fine"]
    assert HeftLM(str(tmp_path / "run"), stages="coarse").get_model_info()["adapters"] == ["coarse"]
    assert HeftLM(str(tmp_path / "run"), stages="coarse+fine", batch_size=2).batch_size == 2
    with pytest.raises(HeftError, match="has no stage 'finer'; did you mean 'fine'"):
        HeftLM(str(tmp_path / "run"), stages="finer")
