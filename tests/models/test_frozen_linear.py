"""Frozen products in oneDNN: what torch's own layers give, to rounding, and only where that is meant."""

import pytest
import torch
from torch import nn

import tiny
from heft.adapters.attach import adapter_parameters, attach
from heft.evaluation.evaluator import evaluate
from heft.models import frozen_linear
from heft.models.frozen_linear import FrozenLinear, frozen_layers_in_onednn, is_faster_in_onednn
from heft.models.load import load_base
from heft.recipe.files import load_recipe
from heft.recipe.recipe import EvaluationSettings, LoraStage
from heft.training.fused_lora import fused_lora
from tolerance import ROUNDING

has_onednn = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
needs_onednn = pytest.mark.skipif(not has_onednn, reason="torch has no oneDNN here")


@pytest.fixture
def always(monkeypatch):
    """oneDNN for products of any size, on any processor; a list of the rows that it multiplied."""
    rows, right = [], frozen_linear.product
    monkeypatch.setattr(frozen_linear, "onednn_is_faster", lambda: True)
    monkeypatch.setattr(frozen_linear, "LEAST_PRODUCTS", 0)

    def product(x, weight, bias=None):
        rows.append(x.numel() // x.shape[-1])
        return right(x, weight, bias)

    for module in ("models.frozen_linear", "training.fused_lora"):
        monkeypatch.setattr(f"heft.{module}.product", product)
    return rows


def close(found, expected):
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=ROUNDING * max(1.0, expected.abs().max().item()))


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(5,), (2, 7), (3, 1, 4)])
def test_outputs_and_input_gradients_are_those_of_float64(shape, bias, always):
    torch.manual_seed(0)
    layer = nn.Linear(48, 32, bias=bias).requires_grad_(False)
    x = torch.randn(*shape, 48, requires_grad=True)
    weights = torch.randn(*shape, 32)
    with frozen_layers_in_onednn(layer) as count:
        assert count == 1
        found = layer(x)
        (grad,) = torch.autograd.grad((found * weights).sum(), x)
    expected = x.double() @ layer.weight.double().t() + (layer.bias.double() if bias else 0)
    close(found, expected.detach())
    close(grad, weights.double() @ layer.weight.double())
    assert len(always) == 2
    assert type(layer) is nn.Linear


@needs_onednn
def test_what_it_gives_may_be_altered_in_place(always):
    layer = nn.Linear(8, 8).requires_grad_(False)
    x = torch.randn(3, 8, requires_grad=True)
    with frozen_layers_in_onednn(layer):
        layer(x).add_(1.0).sum().backward()
    close(x.grad, layer.weight.double().sum(0).expand(3, -1))


@needs_onednn
@pytest.mark.parametrize("what", ["trained", "autocast", "bfloat16", "float64"])
def test_a_layer_that_trains_autocast_and_other_dtypes_are_torchs(what, always):
    layer = nn.Linear(8, 8).requires_grad_(what == "trained")
    x = torch.randn(3, 8)
    if what in ("bfloat16", "float64"):
        layer, x = layer.to(getattr(torch, what)), x.to(getattr(torch, what))
    with frozen_layers_in_onednn(layer), torch.autocast("cpu", torch.bfloat16, enabled=what == "autocast"):
        layer(x)
    assert always == []


@needs_onednn
def test_lora_on_a_frozen_layer_multiplies_by_its_weights_in_onednn_and_gives_what_peft_gives(always):
    model = tiny.tiny_model()
    attach(model, "coarse", LoraStage(method="lora", rank=2, steps=1))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in adapter_parameters(model, ["coarse"]).values():
            parameter.add_(0.1 * torch.randn_like(parameter))
    ids = torch.tensor([[5, 6, 7, 8]])

    def loss_and_gradients():
        model.zero_grad()
        loss = model(ids, labels=ids).loss
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in adapter_parameters(model, ["coarse"]).values())]

    expected = loss_and_gradients()
    assert always == []
    with fused_lora(model), frozen_layers_in_onednn(model):
        found = loss_and_gradients()
    assert len(always) > 3 * 7 + 3 * 5  # seven layers in each of three blocks, forward and, above the first, backward
    for a, b in zip(found, expected, strict=True):
        close(a, b.double())


def test_small_products_and_processors_where_mkl_is_fast_are_left_alone(monkeypatch):
    layer, x = nn.Linear(2048, 2048), torch.randn(1024, 2048)
    monkeypatch.setattr(frozen_linear, "onednn_is_faster", lambda: True)
    assert is_faster_in_onednn(x, layer.weight)
    assert not is_faster_in_onednn(x[:, :8], layer.weight[:8, :8])
    monkeypatch.setattr(frozen_linear, "onednn_is_faster", lambda: False)
    assert not is_faster_in_onednn(x, layer.weight)
    with frozen_layers_in_onednn(layer) as count:
        assert count == 0
        assert not isinstance(layer, FrozenLinear)


@pytest.mark.parametrize(("vendor", "is_intel"), [("GenuineIntel", True), ("AuthenticAMD", False)])
def test_the_maker_of_the_processor_is_read_where_the_system_says_it(vendor, is_intel, monkeypatch):
    monkeypatch.setattr(frozen_linear, "_lines", lambda path: ["processor : 0", f"vendor_id\t: {vendor}"])
    assert frozen_linear._is_intel() == is_intel
    monkeypatch.setattr(frozen_linear, "_lines", lambda path: [])
    monkeypatch.setattr(frozen_linear.platform, "processor", lambda: f"Family 6 Model 85, {vendor}")
    assert frozen_linear._is_intel() == is_intel


@needs_onednn
@pytest.mark.parametrize("fused", [True, False])
def test_an_evaluation_multiplies_in_onednn_where_its_setting_says_so_and_scores_the_same(fused, always):
    recipe = load_recipe("debug")
    base = load_base(recipe.model)
    task = recipe.task.model_copy(update={"eval_size": 4})
    settings = [EvaluationSettings(fused=each) for each in (False, fused)]
    plain, found = (evaluate(base.model, base.tokenizer, task, each).records for each in settings)
    assert bool(always) == fused
    for a, b in zip(plain, found, strict=True):
        assert b.log_likelihoods == pytest.approx(a.log_likelihoods, rel=1e-5)
