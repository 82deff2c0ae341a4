"""The probe of layers against real identity edits, one layer and one row at a time."""

import json
from dataclasses import replace

import pytest
import torch
from peft import inject_adapter_in_model

from heft.data.encode import Encoder, training_batch
from heft.edits.positions import parse_positions
from heft.errors import HeftError
from heft.models.load import load_base
from heft.recipe.files import load_recipe
from heft.reft import ReftConfig, orthonormal_rows
from heft.tasks import load_examples
from heft.training import layer_probe
from heft.training.layer_probe import FIRST, GROUPS, LayerProbe, probe_layers, sampled
from heft.training.loss import answer_loss

PAD = 0


@pytest.fixture
def base_and_rows(recipe_file):
    recipe = load_recipe(recipe_file("{fine: {method: reft, positions: f2+l3, steps: 1}}"))
    base = load_base(recipe.model)
    return base, Encoder.of(base.tokenizer, recipe.task)(load_examples(recipe.task, "train"))[:5]


def gradients_of_an_edit(rows, layer, positions):
    """Gradient of b for each row: of one LoReFT identity edit of full rank, whose R keeps lengths."""
    base = load_base(load_recipe("debug").model)
    size = base.model.config.hidden_size
    config = ReftConfig(intervention="loreft", rank=size, layers=[layer], positions=positions)
    inject_adapter_in_model(config, base.model, adapter_name="edit")
    base.model.eval()
    (bias,) = [p for name, p in base.model.named_parameters() if name.endswith(".edit.bias")]
    losses = [answer_loss(base.model, training_batch([row], PAD)) / len(row.answer) for row in rows]
    rotation = next(p for name, p in base.model.named_parameters() if name.endswith(".edit.rotation"))
    return torch.stack([torch.autograd.grad(loss, bias)[0] for loss in losses]) @ orthonormal_rows(rotation.detach())


@pytest.mark.parametrize("positions", ["f2+l3", "l1", "all"])
def test_each_layer_has_the_gradient_of_an_identity_edit_there(base_and_rows, positions):
    base, rows = base_and_rows
    probe = probe_layers(base.model, rows, PAD, parse_positions(positions))
    assert (len(probe.edited), probe.rows, probe.positions) == (4, 5, positions)
    for layer in range(4):
        of_rows = gradients_of_an_edit(rows, layer, positions)
        assert probe.edited[layer] == pytest.approx(of_rows.mean(0).norm().item(), rel=1e-4)
        assert probe.edited_rows[layer] == pytest.approx(of_rows.norm(dim=1).mean().item(), rel=1e-4)


def test_groups_are_the_edits_of_their_tokens_alone(base_and_rows):
    base, rows = base_and_rows
    probe = probe_layers(base.model, rows, PAD, parse_positions("all"))
    for group, positions in (("l1", "l1"), ("f1–4", f"f{FIRST}")):
        alone = probe_layers(base.model, rows, PAD, parse_positions(positions))
        assert [values[GROUPS.index(group)] for values in probe.groups] == pytest.approx(alone.edited)
        assert [values[GROUPS.index(group)] for values in probe.groups_rows] == pytest.approx(alone.edited_rows)


def test_a_row_that_comes_twice_counts_twice_and_agrees_with_itself(base_and_rows):
    base, rows = base_and_rows
    once, twice = (probe_layers(base.model, rows[:1] * n, PAD, parse_positions("l2")) for n in (1, 2))
    assert twice.edited == pytest.approx(once.edited, rel=1e-5)
    assert twice.agreement == pytest.approx([1.0] * 4, rel=1e-5)


def test_every_token_is_in_one_group_however_short_the_prompt(base_and_rows):
    base, rows = base_and_rows
    rows = [replace(rows[0], prompt=rows[0].prompt[:length]) for length in (1, 3, 9, 18, 40)]
    probe = probe_layers(base.model, rows, PAD, parse_positions("l1"))
    assert sum(probe.tokens) == sum(row.length for row in rows)
    counts = dict(zip(GROUPS, probe.tokens, strict=True))
    assert (counts["l1"], counts["l2–4"], counts["f1–4"]) == (5, 3 * 3 + 2, 4 + 2)
    assert counts["answer"] == 5 * len(rows[0].answer)


def test_the_result_does_not_depend_on_batches_or_on_the_order_of_rows(base_and_rows):
    base, rows = base_and_rows
    together = probe_layers(base.model, rows, PAD, parse_positions("l2"), batch_size=5)
    alone = probe_layers(base.model, rows[::-1], PAD, parse_positions("l2"), batch_size=1)
    torch.testing.assert_close(torch.tensor(together.groups), torch.tensor(alone.groups), rtol=1e-4, atol=1e-9)


def test_an_edit_behind_the_last_block_acts_on_the_token_that_predicts_only(base_and_rows):
    base, rows = base_and_rows
    probe = probe_layers(base.model, rows, PAD, parse_positions("l1"))
    values = dict(zip(GROUPS, probe.groups_rows[-1], strict=True))
    assert values.pop("l1") > 0
    assert values.pop("answer") > 0  # its later tokens are predicted from the ones before
    assert set(values.values()) == {0.0}


def test_the_model_is_left_as_it_was(base_and_rows):
    base, rows = base_and_rows
    base.model.train()
    base.model.model.layers[1].eval()
    base.model.requires_grad_(True)
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    probe_layers(base.model, rows, PAD, parse_positions("l2"))
    assert base.model.training
    assert not base.model.model.layers[1].training
    assert all(parameter.grad is None for parameter in base.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in base.model.state_dict().items())
    assert not any(module._forward_hooks for module in base.model.modules())


def test_where_memory_runs_out_fewer_rows_run_at_once(base_and_rows, monkeypatch):
    base, rows = base_and_rows
    expected, run, seen = probe_layers(base.model, rows, PAD, parse_positions("l2")), layer_probe._pass, []

    def short_of_memory(model, some, *args):
        seen.append(len(some))
        if len(some) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run(model, some, *args)

    monkeypatch.setattr(layer_probe, "_pass", short_of_memory)
    found = probe_layers(base.model, rows, PAD, parse_positions("l2"))
    assert found.edited == pytest.approx(expected.edited, rel=1e-4)
    assert max(seen) > 1
    monkeypatch.setattr(layer_probe, "_pass", lambda *args: (_ for _ in ()).throw(torch.OutOfMemoryError("")))
    with pytest.raises(HeftError, match="memory does not suffice for a single row"):
        probe_layers(base.model, rows, PAD, parse_positions("l2"))


def test_shares_add_up_and_order_goes_by_the_edited_tokens():
    edited, by_row = [1.0, 3.0, 0.0], [2.0, 3.0, 0.0]
    groups = [[1.0, 1.0], [0.0, 2.0], [4.0, 0.0]]
    probe = LayerProbe(2, "l1", [2, 2], edited, by_row, groups, groups)
    assert probe.layer_shares == [0.25, 0.75, 0.0]
    assert probe.agreement == [0.5, 1.0, 0.0]
    assert probe.shares == [[0.125, 0.125], [0.0, 0.25], [0.5, 0.0]]
    assert probe.group_shares == [0.625, 0.375]
    assert probe.order == [1, 0, 2]
    assert LayerProbe(1, "l1", [1], [0.0], [0.0], [[0.0]], [[0.0]]).layer_shares == [0.0]
    assert json.loads(json.dumps(probe.to_dict()))["order"] == [1, 0, 2]


def test_a_sample_is_the_same_for_a_seed_and_takes_no_row_twice(base_and_rows):
    rows = base_and_rows[1]
    assert sampled(rows, 3, 1) == sampled(rows, 3, 1)
    assert len({id(row) for row in sampled(rows, 4, 0)}) == 4
    assert sampled(rows, 9, 0) == rows
