"""Bytes of activations against what autograd keeps on real tensors."""

import pytest
import torch

import tiny
from heft.adapters.attach import attach
from heft.costs.memory import Batch, edited_of, pass_bytes
from heft.costs.operations import model_costs
from heft.data.encode import Encoder, training_batch
from heft.recipe.recipe import LoraStage, ReftStage
from heft.tasks.example import generation_example
from heft.training.loss import answer_loss
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
