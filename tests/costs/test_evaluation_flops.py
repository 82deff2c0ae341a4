"""FLOPs of an evaluation against torch's own counter."""

import pytest
import torch

import tiny
from counting import counted
from heft.adapters.attach import attach
from heft.costs.evaluation import evaluation_flops, evaluation_passes
from heft.costs.operations import model_costs
from heft.data.batching import pass_tokens
from heft.data.encode import Encoder
from heft.evaluation.likelihood import choice_log_likelihoods
from heft.recipe.recipe import LoraStage, ReftStage
from heft.tasks.base import choice_example

ONE_TEXT = [choice_example("t", f"{'ab' * 20}\n{i}?", ("no", "yes it is"), 0, group="one") for i in range(4)]
ALONE = [choice_example("t", "ab" * length, (" no", " yes"), 0) for length in (3, 40, 42)]
CHOICES = Encoder(tiny.byte_tokenizer(), 256)(ONE_TEXT + ALONE)


def staged():
    model = tiny.tiny_model()
    attach(model, "coarse", LoraStage(method="lora", rank=2, targets=["q_proj", "down_proj"], steps=1))
    attach(model, "fine", ReftStage(method="reft", rank=2, steps=1, positions="l2", intervention="direft"))
    return model


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_an_evaluation_is_counted(batch_size):
    with torch.device("meta"):
        costs = model_costs(staged())
    model = staged()
    model.set_attn_implementation("eager")  # plain products, which torch counts on every device
    cost = pass_tokens(model.device, trains=False)
    passes = evaluation_passes(CHOICES, batch_size, 2, share_prefix=True, tokens_of_a_pass=cost)
    ran = counted(lambda: choice_log_likelihoods(model, CHOICES, batch_size=batch_size, pad_id=0))
    assert evaluation_flops(costs, CHOICES, passes) == pytest.approx(ran, rel=1e-2)
