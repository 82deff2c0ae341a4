"""Bytes of activations against what autograd keeps on real tensors."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import tiny
from heft.adapters.attach import attach
from heft.costs.amounts import ModelCosts, SavedBytes
from heft.costs.memory import Batch, edited_of, pass_bytes, stage_bytes, weight_bytes
from heft.costs.operations import model_costs
from heft.costs.processes import Processes
from heft.costs.shapes import Shape
from heft.costs.stage import StageCosts
from heft.data.encode import EncodedExample, Encoder, training_batch
from heft.edits.positions import Positions
from heft.recipe.recipe import LoraStage, ReftStage
from heft.tasks.example import generation_example
from heft.training.loss import answer_loss
from heft.training.reuse.facts import ReuseFacts
from heft.training.reuse.plan import LOWER_LAYERS, PREFIXES, ReusePlan, nothing
from heft.training.reuse.prefix import PrefixReuse, answer_loss_on_prefixes
from heft.training.reuse.stores import MemoryStore

TEXTS = [("One that is sixty long, more or less, and has an end:", " yes"), ("A shorter one:", " no")]
ROWS = Encoder(tiny.byte_tokenizer(), 256)([generation_example("t", p, a, a) for p, a in TEXTS])
LORA = LoraStage(method="lora", rank=2, steps=1)
LONGEST, WIDTH = len(ROWS[0].prompt), len(ROWS[0].prompt) + len(ROWS[0].answer)
COLUMNS = 2 * len(ROWS[0].answer)
META = torch.device("meta")  # where nothing is added for a CPU's heap


def reft(**options):
    return ReftStage(**{"method": "reft", "rank": 2, "steps": 1, "positions": "l2"} | options)


def model_and_costs(architecture, stage):
    def build():
        model = tiny.tiny_model(architecture)
        attach(model, "stage", stage)
        return model

    with torch.device("meta"):
        costs = model_costs(build())
    return build(), costs


def kept_bytes(model, run):
    """What autograd keeps of a loss, without weights and without the logits, which the estimate counts apart."""
    known = [p.untyped_storage() for p in (*model.parameters(), *model.buffers())]
    addresses, total = {storage._cdata for storage in known}, 0

    def keep(tensor):
        nonlocal total
        storage = tensor.untyped_storage()
        if storage._cdata not in addresses and model.config.vocab_size not in tensor.shape:
            known.append(storage)
            addresses.add(storage._cdata)
            total += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        run()
    return total


def estimate(model, costs, batch):
    return pass_bytes(costs, batch, model.config, META) - 3 * 4 * batch.columns * model.config.vocab_size


@pytest.mark.parametrize("stage", [LORA, reft(), reft(positions="all"), reft(layers=[1], positions="f1+l2")])
@pytest.mark.parametrize("architecture", ["llama", "mistral", "phi", "qwen2"])
def test_activations_of_a_plain_pass_are_estimated_within_a_tenth(architecture, stage):
    model, costs = model_and_costs(architecture, stage)
    real = kept_bytes(model, lambda: answer_loss(model, training_batch(ROWS, 0)))
    batch = Batch(2, WIDTH, 0, COLUMNS, edited_of(costs, 2, LONGEST, 0, WIDTH))
    assert estimate(model, costs, batch) == pytest.approx(real, rel=0.1)


def test_a_pass_behind_prefixes_keeps_their_keys_once_for_every_head_of_the_query():
    model, costs = model_and_costs("llama", reft())
    batch = training_batch(ROWS, 0) | {"row_ids": torch.arange(2)}
    reuse = PrefixReuse(model, ROWS, 2, 0, MemoryStore())
    real = kept_bytes(model, lambda: answer_loss_on_prefixes(model, batch, reuse))
    width = len(ROWS[0].answer) + 2
    seen = Batch(2, width, WIDTH - width, COLUMNS, edited_of(costs, 2, LONGEST, WIDTH - width, WIDTH))
    model_cache = costs.kv_bytes * 2 * seen.cached
    assert estimate(model, costs, seen) - model_cache == pytest.approx(real, rel=0.15)


def test_a_pass_that_reads_prefixes_in_place_keeps_probabilities_and_no_keys_of_theirs():
    model, costs = model_and_costs("llama", reft())
    costs.copies_prefixes = False
    batch = training_batch(ROWS, 0) | {"row_ids": torch.arange(2)}
    reuse = PrefixReuse(model, ROWS, 2, 0, MemoryStore(), in_place=True)
    real = kept_bytes(model, lambda: answer_loss_on_prefixes(model, batch, reuse))
    width = len(ROWS[0].answer) + 2
    seen = Batch(2, width, WIDTH - width, COLUMNS, edited_of(costs, 2, LONGEST, WIDTH - width, WIDTH))
    estimated = estimate(model, costs, seen) - costs.kv_bytes * 2 * seen.cached
    assert real < estimated < 1.35 * real  # for its own tokens it keeps less than the attention that was looked at


def test_checkpointed_blocks_keep_one_layer_and_the_states_between_layers():
    model, costs = model_and_costs("llama", LORA)
    batch = Batch(4, 50, 0, 0)
    whole, states = pass_bytes(costs, batch, model.config, META), 32 * 4
    assert pass_bytes(costs, batch, model.config, META, states) == pytest.approx(whole / 3 + 3 * states * 4 * 50)


TEXT = SimpleNamespace(num_hidden_layers=3, vocab_size=10, num_attention_heads=2)
EDITED = (Positions(last=2), "shared")
CPU = torch.device("cpu")
HEAP = 1.5


def in_numbers(kv_bytes=8, copies_prefixes=True):
    """Costs each of which can be told from the others in a sum."""
    saved = SavedBytes(token=100, pair=7, seen=30, step=6, edits={EDITED: 1000})
    return ModelCosts(edits={EDITED: None}, saved=saved, kv_bytes=kv_bytes, copies_prefixes=copies_prefixes)


@pytest.mark.parametrize(
    ("costs", "device", "expected"),
    [
        (in_numbers(), META, 100 * 6 + 7 * 6 * 7 + 6 + 1000 * 5 + 12 * 9 * 10 + 30 * 8 + 8 * 8),
        (in_numbers(), CPU, HEAP * (100 * 6 + 7 * 6 * 7 + 6 + 1000 * 5) + 12 * 9 * 10 + 30 * 8 + 8 * 8),
        # in place: no copies of keys, and each head's probabilities in every layer
        (in_numbers(copies_prefixes=False), META,
         100 * 6 + 7 * 6 * 3 + 6 + 1000 * 5 + 12 * 9 * 10 + 4 * (2 * 3) * 6 * 7 + 8 * 8),
        (in_numbers(kv_bytes=8000), META, 4 * 8000 * 8),  # before the pass, while prefixes are made ready
    ],
)  # fmt: skip
def test_a_pass_takes_what_its_parts_add_up_to(costs, device, expected):
    batch = Batch(rows=2, width=3, cached=4, columns=9, edited={EDITED: 5})
    assert pass_bytes(costs, batch, TEXT, device) == expected


def row_of(prompt, answer):
    return EncodedExample(None, (5,) * prompt, (), (5,) * answer, 0)


def work_on(lengths, reuse=None, costs=None, **settings):
    stage = LoraStage(**{"method": "lora", "rank": 2, "steps": 1, "batch_size": 2} | settings)
    shape = Shape(costs or in_numbers(), None, 51, ReuseFacts(None, None, False, state_bytes=16))
    return StageCosts(stage, shape, [row_of(*each) for each in lengths], [], reuse or nothing("not asked for"))


def plain(rows, width, columns, heap):
    """Bytes of a pass over whole rows, each with two edited tokens."""
    tokens = rows * width
    return heap * (100 * tokens + 7 * tokens * width + 6 + 1000 * 2 * rows) + 12 * columns * 10


SHORT = [(3, 1), (10, 2), (6, 3)]
TRAINED = 51 * (4 + 4 + 8)  # weights, gradients and AdamW's two states


@pytest.mark.parametrize(
    ("work", "device", "expected"),
    [
        (work_on(SHORT), META, TRAINED + plain(2, 12, 2 * 3, 1)),
        (work_on(SHORT), CPU, TRAINED + plain(2, 12, 2 * 3, HEAP)),
        (work_on(SHORT, optimizer="sgd"), META, 51 * 8 + plain(2, 12, 2 * 3, 1)),
        (work_on(SHORT, micro_batch_size=1), META, TRAINED + plain(1, 12, 2, 1)),
        # on a CPU rows of unlike length are passes of their own, which all wait for the backward pass
        (work_on([(20, 3), (300, 1)]), CPU, TRAINED + plain(1, 301, 1, HEAP) + plain(1, 23, 3, HEAP)),
        (work_on([(20, 3), (300, 1)]), META, TRAINED + plain(2, 301, 2 * 3, 1)),
        (work_on(SHORT, gradient_checkpointing=True), META,
         TRAINED + (plain(2, 12, 0, 1)) / 3 + 16 * 3 * 2 * 12 + 12 * 6 * 10),
        (work_on(SHORT, ReusePlan(LOWER_LAYERS, 1, bytes=777, store="memory")), META,
         TRAINED + plain(2, 12, 2 * 3, 1) + 2 * 16 * 2 * 12 + 777),
        (work_on(SHORT, ReusePlan(LOWER_LAYERS, 1, bytes=777, store="disk")), META,
         TRAINED + plain(2, 12, 2 * 3, 1) + 2 * 16 * 2 * 12),
        # prefixes: of the longer row's 12 tokens the last 2 + 3 run, and 7 are in the cache
        (work_on(SHORT, ReusePlan(PREFIXES, 2, bytes=777, store="memory")), META,
         TRAINED + 100 * 10 + 7 * 10 * 12 + 6 + 1000 * 4 + 12 * 6 * 10 + 30 * 14 + 8 * 14 + 777),
    ],
)  # fmt: skip
def test_a_stage_takes_what_its_longest_rows_and_its_weights_add_up_to(work, device, expected):
    assert stage_bytes(work, TEXT, device) == pytest.approx(expected, abs=1)


def test_a_process_of_a_sharded_model_trains_its_share_on_its_part_of_a_batch_in_one_pass():
    work = work_on([(20, 3), (300, 1), (9, 1), (8, 1)], batch_size=4)
    expected = 26 * (4 + 4 + 8) + plain(2, 301, 2 * 3, HEAP)
    assert stage_bytes(work, TEXT, CPU, Processes(2, is_sharded=True)) == pytest.approx(expected, abs=1)


def test_what_is_kept_is_in_main_memory_also_where_a_graphics_card_trains():
    kept, none = (ReusePlan(LOWER_LAYERS, 1, bytes=size, store="memory") for size in (777, 0))
    cuda = torch.device("cuda")
    assert stage_bytes(work_on(SHORT, kept), TEXT, cuda) == stage_bytes(work_on(SHORT, none), TEXT, cuda)


@pytest.mark.parametrize(("quantization", "size"), [(None, 4), ("8bit", 1), ("4bit", 0.5)])
def test_quantization_packs_the_linear_weights_of_the_blocks_and_nothing_else(quantization, size):
    model = tiny.tiny_model()
    linears = [module for module in model.model.layers.modules() if isinstance(module, nn.Linear)]
    packed = sum(module.weight.numel() for module in linears)
    expected = size * packed + 4 * (model.num_parameters() - packed)
    assert weight_bytes(model, quantization) == expected
