"""FLOPs as counted from shapes against torch's own counter of what ran, on equal rows (so that nothing is padded)."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import tiny
from heft.data import Encoder, training_batch
from heft.evaluation.likelihood import choice_log_likelihoods
from heft.plan.counting import evaluation_flops, evaluation_passes, plain_row, prefix_row, suffix_row
from heft.plan.operations import costs_of
from heft.recipe import JointStage, LoraStage, ReftStage
from heft.stages import attach
from heft.tasks.base import choice_example, generation_example
from heft.training.loss import answer_loss, answer_loss_on_prefixes
from heft.training.prefix import PrefixReuse
from heft.training.stores import MemoryStore

ENCODE = Encoder(tiny.byte_tokenizer(), 256)
ROWS = ENCODE([generation_example("t", f"row {i} is twenty long:", " yes", "yes") for i in range(4)])
CHOICES = ENCODE([choice_example("t", f"{'ab' * 20}\n{i}?", ("no", "yes it is"), 0, group="one") for i in range(4)])
LORA = LoraStage(method="lora", rank=2, targets=["q_proj", "down_proj"], steps=1)


def reft(**options):
    return ReftStage(**{"method": "reft", "rank": 2, "steps": 1, "positions": "l2", "intervention": "direft"} | options)


def build(model, stages):
    for name, stage in stages.items():
        attach(model, name, stage)
    return model


def both(stages, architecture="llama"):
    """The model that runs (attention as plain products, which torch counts on every device) and the costs."""
    with torch.device("meta"):
        skeleton = build(tiny.tiny_model(architecture), stages)
    model = build(tiny.tiny_model(architecture), stages)
    model.set_attn_implementation("eager")
    return model, costs_of(skeleton)


def batch():
    rows = training_batch(ROWS, 0)
    rows["row_ids"] = torch.arange(len(ROWS))
    return rows


def counted(work):
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def plain_step(model, edits):
    answer_loss(model, batch(), edits).backward()


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "qwen2", "mistral", "phi"])
def test_a_lora_step_is_counted_exactly(architecture):
    names = ["q_proj", "fc2" if architecture == "phi" else "down_proj"]
    model, costs = both({"coarse": LORA.model_copy(update={"targets": names})}, architecture)
    assert sum(plain_row(costs, row) for row in ROWS) == pytest.approx(
        counted(lambda: plain_step(model, False)), rel=1e-3
    )


@pytest.mark.parametrize("layers", ["all", [1]])
@pytest.mark.parametrize("positions", ["l2", "f1+l2", "all"])
def test_a_plain_reft_step_on_a_frozen_lora_is_counted(positions, layers):
    model, costs = both({"coarse": LORA, "fine": reft(positions=positions, layers=layers)})
    assert sum(plain_row(costs, row) for row in ROWS) == pytest.approx(
        counted(lambda: plain_step(model, True)), rel=1e-3
    )


def test_a_loreft_step_is_counted_within_two_percent_without_its_factorisations():
    model, costs = both({"fine": reft(intervention="loreft", positions="f1+l2", tied=False)})
    expected = counted(lambda: plain_step(model, True))
    assert sum(plain_row(costs, row) for row in ROWS) + costs.step.total == pytest.approx(expected, rel=0.02)


def test_a_joint_step_is_counted():
    joint = JointStage(method="joint", steps=1, reft={"rank": 2, "positions": "f1", "intervention": "noreft"})
    model, costs = both({"both": joint})
    assert sum(plain_row(costs, row) for row in ROWS) == pytest.approx(
        counted(lambda: plain_step(model, True)), rel=1e-3
    )


def test_a_step_on_prefixes_is_counted_with_and_without_computing_them():
    model, costs = both({"coarse": LORA, "fine": reft()})
    reuse = PrefixReuse(model, ROWS, 2, 0, MemoryStore())
    first = counted(lambda: answer_loss_on_prefixes(model, batch(), reuse).backward())
    later = counted(lambda: answer_loss_on_prefixes(model, batch(), reuse).backward())
    suffixes, prefixes = sum(suffix_row(costs, r, 2) for r in ROWS), sum(prefix_row(costs, r, 2) for r in ROWS)
    assert suffixes == pytest.approx(later, rel=1e-3)
    assert suffixes + prefixes == pytest.approx(first, rel=1e-3)
    assert suffixes < sum(plain_row(costs, row) for row in ROWS) / 2


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_an_evaluation_is_counted(batch_size):
    model, costs = both({"coarse": LORA, "fine": reft()})
    passes = evaluation_passes(CHOICES, batch_size, 2, share_prefix=True)
    ran = counted(lambda: choice_log_likelihoods(model, CHOICES, batch_size=batch_size, pad_id=0))
    assert evaluation_flops(costs, CHOICES, passes) == pytest.approx(ran, rel=1e-2)


def test_backward_stops_below_the_first_edited_layer():
    _, low = both({"fine": reft(layers=[0])})
    _, high = both({"fine": reft(layers=[2])})
    assert high.token.forward == low.token.forward
    assert high.token.backward == 0  # the edit of the last layer is followed by the norm and the head only
    assert low.token.backward == pytest.approx(low.token.forward * 2 / 3, rel=1e-2)


def test_keys_and_values_are_counted_in_bytes():
    _, costs = both({"fine": reft()})
    assert costs.kv_bytes == 2 * 3 * 2 * 8 * 4  # keys and values, layers, heads, head size, float32
