"""A saved config is the config, and each of its options does something (mistakes 4 and 9 of others)."""

from dataclasses import fields

import pytest
import torch
from peft import PeftConfig, PeftModel

from heft.edits.settings import ReftSettings
from heft.reft import ReftConfig
from reft.support import logits, reft_layers, reft_parameters, token_ids, with_reft
from tiny import tiny_model

CHANGED = {
    "intervention": "noreft",
    "rank": 3,
    "layers": [0, -1],
    "site": "mlp",
    "positions": "f2+l3",
    "tied": False,
    "activation": "gelu",
    "dropout": 0.25,
}
OPTIONS = sorted(ReftSettings.model_fields)


def own_fields() -> list[str]:
    return sorted({f.name for f in fields(ReftConfig)} - {f.name for f in fields(PeftConfig)})


def test_the_config_has_the_settings_and_their_defaults_and_peft_s_whole_modules():
    assert own_fields() == sorted([*OPTIONS, "modules_to_save"])
    config = ReftConfig()
    assert {name: getattr(config, name) for name in OPTIONS} == ReftSettings().model_dump()


def test_all_faults_are_named_at_once():
    with pytest.raises(ValueError, match="rank") as error:
        ReftConfig(rank=0, positions="x7", dropout=2.0)
    assert all(name in str(error.value) for name in ("rank", "positions", "dropout"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": "4"},
        {"rank": 4.0},
        {"tied": "no"},
        {"layers": [True]},
        {"layers": 3},
        {"layers": None},
        {"dropout": "0.1"},
    ],
)
def test_a_value_of_another_kind_is_refused_and_never_quietly_kept(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ReftConfig(**wrong)


def test_every_option_survives_saving_and_loading(tmp_path):
    assert all(CHANGED[name] != ReftSettings.model_fields[name].default for name in OPTIONS)
    ReftConfig(task_type="CAUSAL_LM", **CHANGED).save_pretrained(tmp_path)
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, ReftConfig)
    assert {name: getattr(loaded, name) for name in OPTIONS} == CHANGED


def test_mistake_4_activation_bias_dropout_and_dtype_are_not_lost_on_reload(tmp_path):
    model = with_reft(**(CHANGED | {"activation": "tanh"}))
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path)
    for before, after in zip(reft_layers(model), reft_layers(loaded), strict=True):
        for part in ("reft_first", "reft_last"):
            one, two = getattr(before, part)["default"], getattr(after, part)["default"]
            assert type(one) is type(two)
            assert one.activation is two.activation is torch.tanh
            assert one.dropout.p == two.dropout.p == 0.25
            assert two.bias.abs().sum() > 0
            assert {p.dtype for p in two.parameters()} == {torch.float32}
    assert torch.equal(logits(model, token_ids(2, 9)), logits(loaded, token_ids(2, 9)))


BASE = {"intervention": "loreft", "rank": 2, "layers": "all", "positions": "f1+l1"}
PAIRS = {
    "intervention": [{"intervention": name} for name in ("loreft", "noreft", "direft", "consreft", "lobireft")],
    "rank": [{"rank": 1}, {"rank": 2}],
    "layers": [{"layers": "all"}, {"layers": [0]}, {"layers": [-1]}],
    "site": [{"site": "block"}, {"site": "attention"}, {"site": "mlp"}],
    "positions": [{"positions": p} for p in ("f1", "l1", "f1+l1", "f2+l1", "all")],
    "tied": [{"tied": True}, {"tied": False}],
    "activation": [{"activation": a} for a in (None, "relu", "gelu", "silu", "tanh", "sigmoid")],
    "dropout": [{"dropout": 0.0}, {"dropout": 0.5}],
}


@pytest.mark.parametrize("option", OPTIONS)
def test_mistake_9_every_option_changes_the_output_or_the_gradient(option):
    ids, results = token_ids(2, 9), []
    for settings in PAIRS[option]:
        model = with_reft(**(BASE | settings)).train()
        torch.manual_seed(3)
        loss = model(input_ids=ids, prompt_lengths=[9, 9]).logits.square().mean()
        loss.backward()
        gradients = [p.grad for p in reft_parameters(model).values()]
        assert all(g is not None and g.abs().sum() > 0 for g in gradients)
        results.append(loss.item())
    assert len({round(result, 6) for result in results}) == len(results)


@pytest.mark.parametrize(("layers", "message"), [([7], r"layers \[7\] do not exist"), ([0, -3], "name a layer twice")])
def test_layers_that_the_model_does_not_have_are_refused_and_leave_it_untouched(layers, message):
    model = tiny_model()
    with pytest.raises(ValueError, match=message):
        with_reft(model, layers=layers)
    assert not reft_layers(model)
    assert "generate" not in vars(model)


def test_a_rank_above_the_hidden_size_is_refused():
    with pytest.raises(ValueError, match="rank 33 is above the model's hidden size, 32"):
        with_reft(rank=33)
