"""FLOPs as counted from shapes against torch's own counter of what ran, on equal rows (so that nothing is padded)."""

import pytest
import torch

import tiny
from counting import counted
from heft.adapters.attach import attach
from heft.costs.operations import model_costs
from heft.costs.rows import lower_row, plain_row, prefix_row, span, suffix_row, upper_row
from heft.data.encode import Encoder, training_batch
from heft.recipe.recipe import JointStage, LoraStage, ReftStage
from heft.tasks.example import generation_example
from heft.training.loss import answer_loss
from heft.training.reuse.lower_layers import LowerLayerReuse, answer_loss_on_lower_layers
from heft.training.reuse.prefix import PrefixReuse, answer_loss_on_prefixes
from heft.training.reuse.stores import MemoryStore

ENCODE = Encoder(tiny.byte_tokenizer(), 256)
ROWS = ENCODE([generation_example("t", f"row {i} is twenty long:", " yes", "yes") for i in range(4)])
LORA = LoraStage(method="lora", rank=2, targets=["q_proj", "down_proj"], steps=1)


def reft(**options):
    return ReftStage(**{"method": "reft", "rank": 2, "steps": 1, "positions": "l2", "intervention": "direft"} | options)


def build(model, stages):
    for name, stage in stages.items():
        attach(model, name, stage)
    return model


def both(stages, architecture="llama", lower_layers=0):
    """The model that runs (attention as plain products, which torch counts on every device) and the costs."""
    with torch.device("meta"):
        skeleton = build(tiny.tiny_model(architecture), stages)
    model = build(tiny.tiny_model(architecture), stages)
    model.set_attn_implementation("eager")
    return model, model_costs(skeleton, lower_layers)


def batch():
    rows = training_batch(ROWS, 0)
    rows["row_ids"] = torch.arange(len(ROWS))
    return rows


def plain_step(model):
    answer_loss(model, batch()).backward()


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "qwen2", "mistral", "phi"])
def test_a_lora_step_is_counted_exactly(architecture):
    names = ["q_proj", "fc2" if architecture == "phi" else "down_proj"]
    model, costs = both({"coarse": LORA.model_copy(update={"targets": names})}, architecture)
    assert sum(plain_row(costs, row) for row in ROWS) == pytest.approx(counted(lambda: plain_step(model)), rel=1e-3)


@pytest.mark.parametrize("layers", ["all", [1]])
@pytest.mark.parametrize("positions", ["l2", "f1+l2", "all"])
def test_a_plain_reft_step_on_a_frozen_lora_is_counted(positions, layers):
    model, costs = both({"coarse": LORA, "fine": reft(positions=positions, layers=layers)})
    assert sum(plain_row(costs, row) for row in ROWS) == pytest.approx(counted(lambda: plain_step(model)), rel=1e-3)


def test_a_step_that_recomputes_its_blocks_is_counted_but_for_products_that_nothing_saves():
    model, costs = both({"coarse": LORA})
    model.train().activation_checkpointing_enable({"use_reentrant": False})
    model.disable_input_require_grads()  # as heft.training.stage does
    expected = counted(lambda: plain_step(model))
    assert sum(plain_row(costs, row, recomputes=True) for row in ROWS) == pytest.approx(expected, rel=3e-3)


@pytest.mark.parametrize("layer", [1, 2])
def test_blocks_below_the_edited_one_are_not_counted_again(layer):
    model, costs = both({"fine": reft(layers=[layer])}, lower_layers=layer)
    model.train().activation_checkpointing_enable({"use_reentrant": False})
    model.disable_input_require_grads()
    ran = counted(lambda: plain_step(model))
    block = sum(span(costs, len(row.prompt), 0, row.length, 0).forward for row in ROWS) / len(model.model.layers)
    # beyond what ran: the edited block, and the last product of each block above it, of which nothing is saved
    assert ran < sum(plain_row(costs, row, recomputes=True) for row in ROWS) < ran + 1.25 * block


def test_a_loreft_step_is_counted_within_two_percent_without_its_factorisations():
    model, costs = both({"fine": reft(intervention="loreft", positions="f1+l2", tied=False)})
    expected = counted(lambda: plain_step(model))
    assert sum(plain_row(costs, row) for row in ROWS) + costs.step.total == pytest.approx(expected, rel=0.02)


def test_a_joint_step_is_counted():
    joint = JointStage(method="joint", steps=1, reft={"rank": 2, "positions": "f1", "intervention": "noreft"})
    model, costs = both({"both": joint})
    assert sum(plain_row(costs, row) for row in ROWS) == pytest.approx(counted(lambda: plain_step(model)), rel=1e-3)


@pytest.mark.parametrize(("layers", "site"), [("all", "block"), ([1], "block"), ([1, 2], "attention"), ([2], "mlp")])
def test_a_step_on_prefixes_is_counted_with_and_without_computing_them(layers, site):
    model, costs = both({"coarse": LORA, "fine": reft(layers=layers, site=site)})
    reuse = PrefixReuse(model, ROWS, 2, 0, MemoryStore())
    first = counted(lambda: answer_loss_on_prefixes(model, batch(), reuse).backward())
    later = counted(lambda: answer_loss_on_prefixes(model, batch(), reuse).backward())
    suffixes, prefixes = sum(suffix_row(costs, r, 2) for r in ROWS), sum(prefix_row(costs, r, 2) for r in ROWS)
    assert suffixes == pytest.approx(later, rel=1e-3)
    assert suffixes + prefixes == pytest.approx(first, rel=1e-3)
    assert suffixes < sum(plain_row(costs, row) for row in ROWS) / 2


@pytest.mark.parametrize(("layers", "site"), [([1], "block"), ([1, 2], "attention"), ([2], "mlp")])
@pytest.mark.parametrize("positions", ["all", "f1+l2", "l2"])
@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_a_step_on_lower_layers_is_counted_with_and_without_computing_them(architecture, positions, layers, site):
    stages = {"coarse": LORA, "fine": reft(positions=positions, layers=layers, site=site)}
    model, costs = both(stages, architecture, lower_layers=layers[0])
    reuse = LowerLayerReuse(model, ROWS, layers[0], 0, MemoryStore())
    first = counted(lambda: answer_loss_on_lower_layers(model, batch(), reuse).backward())
    later = counted(lambda: answer_loss_on_lower_layers(model, batch(), reuse).backward())
    upper, lower = sum(upper_row(costs, row) for row in ROWS), sum(lower_row(costs, row) for row in ROWS)
    assert upper == pytest.approx(later, rel=1e-3)
    assert upper + lower == pytest.approx(first, rel=1e-3)
    assert upper + lower == pytest.approx(sum(plain_row(costs, row) for row in ROWS))


def test_edits_of_an_earlier_stage_are_left_out_below_where_their_block_is_skipped():
    """They stand in the attention here; an edit of a skipped block's own output still runs."""
    stages = {"earlier": reft(site="attention", positions="all"), "fine": reft(positions="all", layers=[2])}
    model, costs = both(stages, lower_layers=2)
    reuse = LowerLayerReuse(model, ROWS, 2, 0, MemoryStore())
    answer_loss_on_lower_layers(model, batch(), reuse)
    later = counted(lambda: answer_loss_on_lower_layers(model, batch(), reuse).backward())
    assert sum(upper_row(costs, row) for row in ROWS) == pytest.approx(later, rel=1e-3)


@pytest.mark.parametrize("layers", ["all", [1, 2]])
@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_a_step_of_a_lora_of_last_positions_is_counted_plain_and_on_prefixes(architecture, layers):
    """With edits of its tokens frozen below it; PEFT's own layers compute the update for its tokens alone."""
    lora = LORA.model_copy(update={"positions": "l3+", "layers": layers})
    model, costs = both({"earlier": reft(positions="l2+"), "coarse": lora}, architecture)
    assert sum(plain_row(costs, row) for row in ROWS) == pytest.approx(counted(lambda: plain_step(model)), rel=1e-3)
    reuse = PrefixReuse(model, ROWS, 3, 0, MemoryStore())
    first = counted(lambda: answer_loss_on_prefixes(model, batch(), reuse).backward())
    later = counted(lambda: answer_loss_on_prefixes(model, batch(), reuse).backward())
    suffixes, prefixes = sum(suffix_row(costs, r, 3) for r in ROWS), sum(prefix_row(costs, r, 3) for r in ROWS)
    assert suffixes == pytest.approx(later, rel=1e-3)
    assert suffixes + prefixes == pytest.approx(first, rel=1e-3)


def test_backward_stops_below_the_first_edited_layer():
    _, low = both({"fine": reft(layers=[0])})
    _, high = both({"fine": reft(layers=[2])})
    assert high.token.forward == low.token.forward
    assert high.token.backward == 0  # the edit of the last layer is followed by the norm and the head only
    assert low.token.backward == pytest.approx(low.token.forward * 2 / 3, rel=1e-2)


def test_keys_and_values_are_counted_in_bytes():
    _, costs = both({"fine": reft()})
    assert costs.kv_bytes == 2 * 3 * 2 * 8 * 4  # keys and values, layers, heads, head size, float32
