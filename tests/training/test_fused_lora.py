"""The fused LoRA function against PEFT's own layer, and against float64."""

import copy

import pytest
import torch
from peft import LoraConfig
from peft.tuners import lora
from torch import nn

import tiny
from counting import calls_of
from heft.adapters.lora import inject_quietly
from heft.training import fused_lora as module
from heft.training.fused_lora import FusedLinear, fused_lora

ROWS, IN, OUT = (3, 5), 48, 40


class Holder(nn.Module):
    """A model of one linear layer."""

    def __init__(self, bias=True):
        super().__init__()
        self.linear = nn.Linear(IN, OUT, bias=bias)

    def forward(self, x):
        return self.linear(x)


def holder(*configs, bias=True, dtype=torch.float32):
    """A frozen layer with LoRA of its own for each configuration, named a, b, …; nothing in it is zero."""
    torch.manual_seed(0)
    model = Holder(bias).to(dtype)
    for name, config in zip("abc", configs, strict=False):
        inject_quietly(model, name, LoraConfig(target_modules=["linear"], **config))
    model.linear.set_adapter(list("abc"[: len(configs)]))
    for key, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in key)
        if "lora_B" in key:
            nn.init.normal_(parameter, std=0.3)
    return model


def outcome(model, x, weights=None):
    """Output and gradients, of x and of all that trains."""
    x = x.clone().requires_grad_(True)
    y = model(x)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(2)) if weights is None else weights
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    grads = torch.autograd.grad((y * weights.to(y.dtype)).sum(), [x, *trained.values()])
    return {"y": y.detach(), "x": grads[0], **dict(zip(trained, grads[1:], strict=True))}


def x_of(dtype=torch.float32):
    return torch.randn(*ROWS, IN, generator=torch.Generator().manual_seed(1)).to(dtype)


def fused_outcome(model, *args):
    with fused_lora(model) as count:
        assert count == 1
        return outcome(model, *args)


def assert_alike(mine, theirs):
    """Within rounding of sums of at most IN · OUT float32 terms, relative to each tensor's largest."""
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        assert mine[name].dtype == value.dtype
        bound = 16 * torch.finfo(torch.float32).eps * max(1.0, value.abs().max().item())
        assert (mine[name] - value).abs().max() <= bound, name


@pytest.fixture
def calls(monkeypatch):
    """How often the fused function has run, as the length of a list."""
    return calls_of(monkeypatch, module._FusedLora, "apply")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "configs",
    [
        [{"r": 4, "lora_alpha": 12}],
        [{"r": 4, "lora_alpha": 12, "use_rslora": True}],
        [{"r": 4, "lora_alpha": 12}, {"r": 3, "lora_alpha": 1}, {"r": 1, "lora_alpha": 7, "use_rslora": True}],
        [{"r": 4, "lora_alpha": 12, "init_lora_weights": "pissa"}],
    ],
)
def test_output_and_every_gradient_are_those_of_pefts_layer(configs, bias, calls):
    model = holder(*configs, bias=bias)
    theirs = outcome(model, x_of())
    mine = fused_outcome(model, x_of())
    assert len(calls) == 1
    assert len(mine) == 2 + 2 * len(configs)
    assert_alike(mine, theirs)


@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_those_of_finite_differences_in_float64(masked):
    model = holder({"r": 2, "lora_alpha": 3}, {"r": 3, "lora_alpha": 5}).double()
    layer = model.linear
    factors = [layer.lora_A["a"].weight, layer.lora_B["a"].weight, layer.lora_A["b"].weight, layer.lora_B["b"].weight]
    mask_RN = (torch.arange(5 * 15).view(5, 15) % 3 > 0).double() if masked else None
    fixed = (layer.base_layer.weight, layer.base_layer.bias, (1.5, 0.7), mask_RN)
    function = lambda x, *given: module._FusedLora.apply(x, *fixed, *given)  # noqa: E731
    assert torch.autograd.gradcheck(function, (x_of(torch.float64).requires_grad_(True), *factors))


def test_an_adapter_that_is_frozen_gets_no_gradient_and_the_one_on_top_does(calls):
    model = holder({"r": 4, "lora_alpha": 12}, {"r": 3, "lora_alpha": 1})
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(".b." in key)
    theirs, mine = outcome(model, x_of()), fused_outcome(model, x_of())
    assert set(mine) == {"y", "x", "linear.lora_A.b.weight", "linear.lora_B.b.weight"}
    assert_alike(mine, theirs)


def test_only_active_adapters_count(calls):
    model = holder({"r": 4, "lora_alpha": 12}, {"r": 3, "lora_alpha": 1})
    model.linear.set_adapter(["b"])
    x = x_of()
    expected = model(x)
    with fused_lora(model):
        assert torch.allclose(model(x), expected, rtol=1e-5, atol=1e-5)
    assert calls


def test_no_input_gradient_is_computed_where_nothing_below_trains(monkeypatch):
    model = holder({"r": 4, "lora_alpha": 12})
    multiplied = []
    right = module.input_gradient
    monkeypatch.setattr(module, "input_gradient", lambda *args: multiplied.append(1) or right(*args))
    with fused_lora(model):
        model(x_of()).sum().backward()
        assert not multiplied
        model(x_of().requires_grad_(True)).sum().backward()
    assert multiplied


def with_hook(model):
    model.linear.base_layer.register_forward_hook(lambda module, args, output: output * 2)


def with_a_forward_of_its_own(model):
    base = model.linear.base_layer
    base.forward = lambda x: 2 * nn.Linear.forward(base, x)


def merged(model):
    model.linear.merge()


def off(model):
    model.linear.enable_adapters(False)


def unfrozen(model):
    model.linear.base_layer.weight.requires_grad_(True)


def with_a_bias_that_trains(model):
    model.linear.base_layer.bias.requires_grad_(True)


def with_packed_weights(model):
    base = model.linear.base_layer
    base.weight = type("Packed", (nn.Parameter,), {})(base.weight.data, requires_grad=False)


def with_a_hook_within(model):
    model.linear.lora_A["a"].register_forward_hook(lambda module, args, output: output * 2)


def with_factors_in_float64(model):
    model.linear.lora_A.double()
    model.linear.lora_B.double()


def over_a_base_in_half(model):
    model.linear.base_layer.half()


@pytest.mark.parametrize(
    ("config", "change"),
    [
        ({"use_dora": True}, None),
        ({"lora_dropout": 0.5}, None),
        ({"lora_bias": True}, None),
        ({}, with_hook),
        ({}, with_a_forward_of_its_own),
        ({}, nn.Module.half),
        ({}, merged),
        ({}, off),
        ({}, unfrozen),
        ({}, with_a_bias_that_trains),
        ({}, with_packed_weights),
        ({}, with_a_hook_within),
        ({}, with_factors_in_float64),
        ({}, over_a_base_in_half),
    ],
)
def test_what_it_is_not_made_for_goes_pefts_way_to_the_bit(config, change, calls):
    model = holder({"r": 4, "lora_alpha": 12, **config})
    if change is not None:
        change(model)
    results = []
    for enabled in (False, True):
        torch.manual_seed(5)
        with fused_lora(model, enabled):
            results.append(model(x_of(model.linear.base_layer.weight.dtype)))
    assert torch.equal(*results)
    assert not calls


def test_dropout_counts_in_training_mode_only(calls):
    model = holder({"r": 4, "lora_alpha": 12, "lora_dropout": 0.5}).eval()
    assert_alike(fused_outcome(model, x_of()), outcome(model, x_of()))
    assert len(calls) == 1


def test_rows_with_adapters_of_their_own_go_pefts_way(calls):
    model = holder({"r": 4, "lora_alpha": 12}, {"r": 3, "lora_alpha": 1})
    names = ["a", "b", "__base__"]
    expected = model.linear(x_of(), adapter_names=names)
    with fused_lora(model):
        assert torch.equal(model.linear(x_of(), adapter_names=names), expected)
    assert not calls


def test_conv1d_is_left_to_peft():
    model = tiny.tiny_model("gpt2")
    inject_quietly(model, "a", LoraConfig(target_modules=["c_attn"], r=2, fan_in_fan_out=True))
    with fused_lora(model) as count:
        assert count == 0


def lora_model():
    model = tiny.tiny_model("llama")
    inject_quietly(model, "a", LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=4))
    for key, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in key)
        if "lora_B" in key:
            nn.init.normal_(parameter, std=0.1)
    return model


def trained_gradients(model, ids):
    model.zero_grad()
    loss = model(input_ids=ids, labels=ids).loss
    loss.backward()
    return {"loss": loss.detach()} | {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_whole_models_loss_and_gradients_are_pefts(checkpointing, calls):
    model = lora_model()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    ids = torch.randint(3, 250, (2, 12), generator=torch.Generator().manual_seed(0))
    theirs = trained_gradients(model, ids)
    with fused_lora(model):
        mine = trained_gradients(model, ids)
    assert len(calls) == 21 * (2 if checkpointing else 1)
    assert_alike(mine, theirs)


def test_afterwards_the_model_is_pefts_again_also_after_an_error():
    model = lora_model()
    layers = [m for m in model.modules() if isinstance(m, lora.LoraLayer)]
    before = [dict(vars(layer)) for layer in layers]
    state = {key: value.clone() for key, value in model.state_dict().items()}
    meanwhile = []

    def fail():
        with fused_lora(model):
            meanwhile.extend(map(type, layers))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert meanwhile == [FusedLinear] * 21
    assert all(type(layer) is lora.Linear for layer in layers)
    assert [dict(vars(layer)) for layer in layers] == before
    after = model.state_dict()
    assert after.keys() == state.keys()
    assert all(torch.equal(after[key], value) for key, value in state.items())


def test_a_copy_made_meanwhile_computes_the_same():
    model = lora_model()
    ids = torch.arange(3, 13)[None]
    with fused_lora(model):
        assert torch.equal(copy.deepcopy(model)(ids).logits, model(ids).logits)


def exact(model, x):
    """The same layer and inputs in float64, in PEFT's way."""
    return outcome(copy.deepcopy(model).double(), x.double())


def error(found, reference):
    """Root mean square error of each tensor, relative to the reference's."""
    return {
        name: ((value.double() - reference[name]).pow(2).mean() / reference[name].pow(2).mean()).sqrt().item()
        for name, value in found.items()
    }


def test_in_bfloat16_no_error_against_float64_is_far_above_pefts(calls):
    model = holder({"r": 4, "lora_alpha": 12}, dtype=torch.bfloat16)
    assert model.linear.lora_A["a"].weight.dtype == torch.float32
    x = x_of(torch.bfloat16)
    reference = exact(model, x)
    theirs, mine = error(outcome(model, x), reference), error(fused_outcome(model, x), reference)
    assert len(calls) == 1
    unit = torch.finfo(torch.bfloat16).eps / 2  # each rounding to bfloat16 moves a number by at most so much of it
    for name in reference:
        assert mine[name] <= max(2 * theirs[name], 2 * unit), name


def test_gradients_of_adapters_stay_float32_over_a_bfloat16_base():
    found = fused_outcome(holder({"r": 4, "lora_alpha": 12}, dtype=torch.bfloat16), x_of(torch.bfloat16))
    assert {name: value.dtype for name, value in found.items()} == {
        "y": torch.bfloat16,
        "x": torch.bfloat16,
        "linear.lora_A.a.weight": torch.float32,
        "linear.lora_B.a.weight": torch.float32,
    }


def test_under_autocast_it_computes_in_autocasts_dtype_as_peft_does(calls):
    model = holder({"r": 4, "lora_alpha": 12})
    reference = outcome(copy.deepcopy(model).double(), x_of(torch.float64))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        theirs = error(outcome(model, x_of()), reference)
        found = fused_outcome(model, x_of())
    assert len(calls) == 1
    assert found["y"].dtype == torch.bfloat16
    assert found["x"].dtype == torch.float32
    mine = error(found, reference)
    assert all(mine[name] <= max(2 * theirs[name], torch.finfo(torch.bfloat16).eps) for name in mine)


def test_it_compiles_into_one_graph_and_computes_the_same():
    model = holder({"r": 4, "lora_alpha": 12})
    with fused_lora(model):
        explained = torch._dynamo.explain(model)(x_of())
    assert explained.graph_break_count == 0


def test_what_it_gives_may_be_altered_in_place_as_what_a_layer_gives():
    """Llama 4 adds its experts to the output of a linear layer in place."""
    model = holder({"r": 4, "lora_alpha": 12})

    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return self.inner(x).mul_(2.0)

    expected = {key: (2 * value) for key, value in outcome(model, x_of()).items()}
    with fused_lora(model):
        found = outcome(InPlace(), x_of())
    for name, value in expected.items():
        assert torch.allclose(found[name if name in found else f"inner.{name}"], value, atol=1e-4), name
