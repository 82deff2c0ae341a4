"""A base that draws random numbers in training reuses nothing: what is computed once would be one draw for all."""

import pytest
import torch
from test_checked_loss import fast_and_plain
from test_prefix import REFT, ROWS

import tiny
from heft.adapters.attach import attach
from heft.recipe.recipe import LoraStage, ReftStage
from heft.training.checked_loss import draws_random_numbers
from heft.training.reuse.facts import edited_suffix, has_dropout


def noisy(model):
    """Its first MLP adds noise in training, which no setting of the model tells."""
    inner = model.model.layers[0].mlp
    inner.register_forward_hook(
        lambda module, args, output: output + 0.1 * torch.randn_like(output) if module.training else output
    )
    return model


def test_a_base_that_draws_is_seen_and_reuse_is_off(tmp_path):
    model = noisy(tiny.tiny_model())
    attach(model, "fine", ReftStage(**REFT, positions="l2"))
    reuses, heard = fast_and_plain(model, tmp_path)
    assert not reuses
    assert "the base model draws random numbers in training" in heard[0]


@pytest.mark.parametrize("trains", [False, True])
def test_seeing_that_a_base_draws_leaves_its_mode_and_random_numbers_as_they_were(trains):
    model = noisy(tiny.tiny_model())
    attach(model, "fine", ReftStage(**REFT, positions="l2"))
    model.train(trains)
    torch.manual_seed(3)
    assert draws_random_numbers(model, ROWS, 0)
    drawn = torch.rand(2)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(2))
    assert {module.training for module in model.modules()} == {trains}


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_an_adapters_own_dropout_is_not_the_bases(architecture):
    model = tiny.tiny_model(architecture)
    attach(model, "coarse", LoraStage(method="lora", rank=2, steps=1, dropout=0.5))
    torch.manual_seed(3)
    assert not draws_random_numbers(model, ROWS, 0)
    drawn = torch.rand(2)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(2))


def test_a_routers_jitter_counts_as_dropout():
    model = tiny.tiny_model()
    attach(model, "fine", ReftStage(**REFT, positions="l2"))
    assert not has_dropout(model)
    assert edited_suffix(model) == 2
    model.config.router_jitter_noise = 0.01
    assert has_dropout(model)
    assert edited_suffix(model) is None
