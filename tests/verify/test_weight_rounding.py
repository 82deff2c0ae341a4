"""What rounding of weights does to logits is measured; a merge that is wrong is still found by it."""

import pytest
import torch
from peft.tuners.lora import Linear, LoraLayer

import tiny
from heft.adapters.attach import attach
from heft.recipe.recipe import LoraStage
from heft.verify.logits import Rounding
from heft.verify.weight_rounding import _rounded_otherwise, bound_of_rounding, moved_by_rounding

IDS = torch.arange(3, 43)[None]


def adapted(dtype=torch.bfloat16):
    model = tiny.tiny_model("llama").to(dtype)
    attach(model, "coarse", LoraStage(method="lora", rank=4, steps=1))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    return model.eval()


def logits_of(model):
    with torch.no_grad():
        return lambda: model(input_ids=IDS).logits.float()


def merge(model, times=1.0):
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            layer.scaling = {name: times * value for name, value in layer.scaling.items()}
            Linear.merge(layer)
    return model


def test_weights_move_as_far_as_rounding_moves_them_and_zeros_stay():
    exact = torch.randn(400, 400, generator=torch.Generator().manual_seed(1))
    rounded = exact.bfloat16()
    moved = _rounded_otherwise(rounded, torch.Generator().manual_seed(2))
    of_rounding = (rounded.float() - exact).std().item()
    of_moves = (moved.float() - rounded.float()).std().item()
    assert of_moves == pytest.approx(of_rounding, rel=0.05)
    zeros = torch.zeros(100, 100, dtype=torch.bfloat16)
    assert torch.equal(_rounded_otherwise(zeros, torch.Generator().manual_seed(2)), zeros)


def test_the_weights_are_put_back_and_logits_move():
    model = adapted()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert moved_by_rounding(model, logits_of(model)) > 0
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(("times", "passes"), [(1.0, True), (1.5, False), (0.0, False)])
def test_rounding_explains_a_right_merge_and_no_wrong_one(times, passes):
    """With no tolerance but the measured one, as if the usual one were too strict."""
    model = adapted()
    expected = logits_of(model)()
    merge(model, times)
    difference = (logits_of(model)() - expected).abs().max().item()
    bound, why = bound_of_rounding(model, Rounding(1e-9, 1.0, "sums"), difference, logits_of(model))
    assert (difference <= bound) == passes
    assert "rounded otherwise at random" in why


def test_nothing_is_measured_where_the_usual_tolerance_will_do_or_nothing_is_rounded():
    def never():
        raise AssertionError

    usual = Rounding(0.05, 10.0, "sums")
    assert bound_of_rounding(adapted(), usual, 0.9, never)[0] == 1.0
    assert bound_of_rounding(adapted(torch.float32), usual, 7.0, never) == (0.5, "sums")
