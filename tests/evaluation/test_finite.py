"""NaN weights and rotations of less than full rank end an evaluation with an error for people."""

import math

import pytest
import torch

import heft
from heft.adapters.attach import attach
from heft.builtin import TINY
from heft.data.encode import Encoder
from heft.errors import HeftError
from heft.evaluation.finite import require_finite
from heft.evaluation.generation import generate_texts
from heft.models.load import load_base
from heft.recipe.model import ModelSettings
from heft.recipe.recipe import LoraStage, ReftStage
from heft.reft.layer import ReftLayer
from heft.tasks import load_examples
from heft.tasks.whereabouts import WhereaboutsSettings

TASK = WhereaboutsSettings(train_size=1, eval_size=6)


def adapted(stage):
    base = load_base(ModelSettings(name=TINY, device="cpu"))
    attach(base.model, "fine", stage)
    return base.model.eval(), base.tokenizer


@pytest.fixture
def with_nan():
    model, tokenizer = adapted(LoraStage(method="lora", rank=2))
    for name, value in model.named_parameters():
        if "lora_B" in name:
            value.data.fill_(torch.nan)
    return model, tokenizer


@pytest.fixture(params=[0.0, 1.0], ids=["zero", "dependent"])
def degenerate(request):
    model, tokenizer = adapted(ReftStage(method="reft", rank=2, positions="l2"))
    layer = next(module for module in model.modules() if isinstance(module, ReftLayer))
    layer.reft_last["fine"].rotation.data.fill_(request.param)
    return model, tokenizer


def test_log_likelihoods_that_are_no_numbers_are_an_error_with_ids_and_no_accuracy(with_nan):
    ids = [example.id for example in load_examples(TASK, "eval")]
    with pytest.raises(HeftError) as caught:
        heft.evaluate(*with_nan, TASK)
    assert str(caught.value).startswith("6 of 6 rows have a choice whose log-likelihood is nan (ids ")
    assert f"(ids {', '.join(ids[:3])} and 3 more)" in str(caught.value)
    assert "train the stage again with a lower learning_rate" in str(caught.value)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_one_score_that_is_not_finite_is_enough_and_its_row_is_named(score):
    tokenizer = load_base(ModelSettings(name=TINY, device="cpu")).tokenizer
    examples = Encoder(tokenizer, 256)(load_examples(TASK, "eval"))[:2]
    require_finite(examples, [[-1.0, -2.0], [-3.0, -1e30]])
    with pytest.raises(HeftError, match=rf"1 of 2 rows .* is {score} .*\(ids {examples[1].example.id}\)"):
        require_finite(examples, [[-1.0, -2.0], [-3.0, score]])


def test_texts_are_not_generated_from_logits_that_are_no_numbers(with_nan):
    model, tokenizer = with_nan
    with pytest.raises(HeftError, match="logits are NaN or infinite in 2 of the 2 texts"):
        generate_texts(model, tokenizer, [[5, 6], [7, 8]], batch_size=2, max_new_tokens=3)


def test_a_rotation_of_less_than_full_rank_is_named_in_evaluation_and_in_generation(degenerate):
    model, tokenizer = degenerate
    told = "rotation has less than full rank, .*: fine at model.layers.0. There is no edit"
    with pytest.raises(HeftError, match=told):
        heft.evaluate(model, tokenizer, TASK)
    with pytest.raises(HeftError, match=told):
        generate_texts(model, tokenizer, [[5, 6]], batch_size=1, max_new_tokens=3)


def test_what_else_has_no_factors_is_no_fault_of_an_adapter(monkeypatch):
    model, tokenizer = adapted(ReftStage(method="reft", rank=2, positions="l2"))

    def fail(*args, **kwargs):
        raise torch.linalg.LinAlgError("of the model's own")

    monkeypatch.setattr(model, "forward", fail)
    with pytest.raises(torch.linalg.LinAlgError, match="of the model's own"):
        heft.evaluate(model, tokenizer, TASK)
