"""Peak memory of training: what is known (weights, adapters, optimizer, cached activations) and what is estimated.

Estimated: activations, from what autograd would save of one token on the meta device, times the longest rows; logits as
three float32 copies. Not counted: libraries, workspaces of kernels, an accelerator's slack.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from heft.costs.amounts import ModelCosts
from heft.costs.processes import Processes
from heft.costs.stage import StageCosts
from heft.data.batching import batches_of_like_length, pass_tokens
from heft.data.encode import EncodedExample
from heft.edits.positions import Positions
from heft.training.optimizers import OPTIMIZERS
from heft.training.reuse.plan import LOWER_LAYERS, PREFIXES, ReusePlan

_QUANTIZED_BYTES = {"8bit": 1.0, "4bit": 0.5}
_COPIES_OF_PREFIXES = 4
"""Of a batch's keys and values, while they are made ready: computed, padded, stacked, in the model's cache."""

_HEAP_OF_ACTIVATIONS = 1.5
"""What the C library's heap takes for activations on a CPU, where freed temporaries leave holes between those that are
saved; measured 1.31 (ReFT) and 1.66 (LoRA), see docs/plan.md."""


def weight_bytes(model: PreTrainedModel, quantization: str | None) -> int:
    """Bytes of a model's parameters; quantised ones are the linear weights inside the blocks."""
    small = _QUANTIZED_BYTES.get(quantization or "")
    total = 0.0
    for name, p in model.named_parameters():
        packed = small is not None and p.dim() == 2 and any(part.isdigit() for part in name.split("."))
        total += p.numel() * (small if packed else p.element_size())
    return round(total)


def trained_bytes(numbers: int, optimizer: str) -> int:
    """Bytes of that many float32 weights, their gradients and optimizer states."""
    return numbers * (4 + 4 + OPTIMIZERS[optimizer].state_bytes)


@dataclass(frozen=True)
class Batch:
    """The largest pass with gradients.

    Attributes:
        rows: sequences.
        width: tokens of each that run.
        cached: tokens of each that the cache stands for.
        columns: places with logits, of all rows.
        edited: tokens that are edited, of all rows, by adapter positions and group.
    """

    rows: int
    width: int
    cached: int
    columns: int
    edited: Mapping[tuple[Positions, str], int] = field(default_factory=dict)


def pass_bytes(
    costs: ModelCosts, batch: Batch, text: PreTrainedConfig, device: torch.device, checkpointed_bytes: int = 0
) -> int:
    """Bytes of activations, logits and keys and values of a pass with gradients and of what comes before it.

    `checkpointed_bytes` are those of a token's hidden state where blocks run again in the backward pass; else 0.
    """
    saved, tokens = costs.saved, batch.rows * batch.width
    pairs = batch.width + (batch.cached if costs.copies_prefixes else 0)
    body = saved.token * tokens + saved.pair * tokens * pairs + saved.step
    body += sum(size * batch.edited.get(key, 0) for key, size in saved.edits.items())
    if checkpointed_bytes:
        body = body / text.num_hidden_layers + checkpointed_bytes * text.num_hidden_layers * tokens
    if device.type == "cpu":
        body *= _HEAP_OF_ACTIVATIONS
    body += 3 * 4 * batch.columns * text.vocab_size
    if costs.copies_prefixes:
        body += saved.seen * batch.rows * batch.cached
    elif batch.cached:  # each head's probabilities in float32
        heads = getattr(text, "num_attention_heads", 1) * text.num_hidden_layers
        body += 4 * heads * tokens * (batch.width + batch.cached)
    prefixes = costs.kv_bytes * batch.rows * batch.cached
    return round(max(prefixes + body, _COPIES_OF_PREFIXES * prefixes))


def stage_bytes(
    work: StageCosts, text: PreTrainedConfig, device: torch.device, processes: Processes | None = None
) -> int:
    """Bytes that training a stage takes at its peak in each process, beside the base model's weights.

    A CPU takes a batch in parts (heft.training.loss), which all wait for the backward pass; not of a sharded model.
    """
    processes = processes or Processes()
    stage, shape, reuse = work.stage, work.shape, work.reuse
    longest = sorted(work.rows, key=lambda row: -row.length)
    longest = longest[: processes.rows(stage, len(longest))]
    needed = trained_bytes(processes.share(shape.trainable_parameters), stage.optimizer)
    if reuse.kind == PREFIXES:
        width = reuse.start + max(len(row.answer) for row in longest)
        needed += pass_bytes(shape.costs, _batch(shape.costs, longest, width), text, device)
    else:
        checkpointed = shape.reuse.state_bytes if stage.gradient_checkpointing else 0
        lengths = [row.length for row in longest]
        cost = None if processes.is_sharded else pass_tokens(device, trains=True)
        for part in batches_of_like_length(lengths, len(longest), cost):
            batch = _batch(shape.costs, [longest[i] for i in part], None)
            needed += pass_bytes(shape.costs, batch, text, device, checkpointed)
            if reuse.kind == LOWER_LAYERS:
                needed += 2 * shape.reuse.state_bytes * batch.rows * batch.width  # padded, and stacked
    return needed + store_bytes(reuse, device)


def store_bytes(reuse: ReusePlan, device: torch.device) -> int:
    """Bytes of what is cached beside the model, which is never in a graphics card's memory."""
    return reuse.bytes if reuse.store == "memory" and device.type != "cuda" else 0


def _batch(costs: ModelCosts, rows: Sequence[EncodedExample], width: int | None) -> Batch:
    """A pass over rows, the longest first: their last `width` tokens, or all where it is None."""
    prompt, total = len(rows[0].prompt), rows[0].length
    width = total if width is None else min(width, total)
    columns = len(rows) * max(len(row.answer) for row in rows)
    edited = edited_of(costs, len(rows), prompt, total - width, total)
    return Batch(len(rows), width, total - width, columns, edited)


def edited_of(costs: ModelCosts, rows: int, prompt: int, start: int, end: int) -> dict[tuple[Positions, str], int]:
    """How many of the tokens `start` to `end` of `rows` equal rows are edited, by adapter positions and group."""
    return {(each, group): rows * each.count(prompt, start, end, group) for each, group in costs.edits}
