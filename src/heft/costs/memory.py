"""Peak memory of training: what is sure (weights, adapters, optimiser, what reuse keeps) and what is estimated.

Estimated: activations, from what autograd would keep of one token on the meta device, times the longest rows; logits as
three float32 copies. Not counted: libraries, workspaces of kernels, an accelerator's slack.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from heft.costs.operations import Costs
from heft.costs.rows import edited_tokens
from heft.costs.stage import Reuse, StageCosts
from heft.data.batching import batches_of_like_length, pass_tokens
from heft.data.encode import EncodedExample
from heft.settings.reft import Positions

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

_OPTIMIZER_STATES = {"adamw": 2, "adafactor": 0, "sgd": 0}
_QUANTIZED_BYTES = {"8bit": 1.0, "4bit": 0.5}
_COPIES_OF_PREFIXES = 4
"""Of a batch's keys and values, while they are made ready: computed, padded, stacked, in the model's cache."""

_HEAP_OF_ACTIVATIONS = 1.5
"""What the C library's heap takes for activations on a CPU, where freed temporaries leave holes between those that are
kept; measured 1.31 (ReFT) and 1.66 (LoRA), see docs/plan.md."""


def weight_bytes(model: "PreTrainedModel", quantization: str | None) -> int:
    """Bytes of a model's parameters; quantised ones are the linear weights inside the blocks."""
    shared = {id(p): (name, p) for name, p in model.named_parameters()}
    small = _QUANTIZED_BYTES.get(quantization or "")
    total = 0.0
    for name, p in shared.values():
        packed = small is not None and p.dim() == 2 and any(part.isdigit() for part in name.split("."))
        total += p.numel() * (small if packed else p.element_size())
    return round(total)


def trained_bytes(numbers: int, optimizer: str) -> int:
    """Bytes of that many float32 weights, their gradients and optimiser states."""
    return 4 * numbers * (2 + _OPTIMIZER_STATES[optimizer])


@dataclass(frozen=True)
class Batch:
    """The largest pass with gradients.

    Attributes:
        rows: sequences.
        width: tokens of each that run.
        cached: tokens of each that the cache stands for.
        columns: places with logits, of all rows.
        edited: tokens that are edited, of all rows, by adapter positions and part.
    """

    rows: int
    width: int
    cached: int
    columns: int
    edited: Mapping[tuple[Positions, str], int] = field(default_factory=dict)


def pass_bytes(
    costs: Costs, batch: Batch, text: "PreTrainedConfig", device: torch.device, checkpointed_bytes: int = 0
) -> int:
    """Bytes of activations, logits and keys and values of a pass with gradients and of what comes before it.

    Args:
        costs: of the model in training.
        batch: the pass.
        text: the model's config.
        device: where it runs.
        checkpointed_bytes: of a token's hidden state, where blocks run again in the backward pass; else 0.
    """
    kept, tokens = costs.kept, batch.rows * batch.width
    body = kept.token * tokens + kept.pair * tokens * (batch.width + batch.cached) + kept.step
    body += sum(size * batch.edited.get(key, 0) for key, size in kept.edits.items())
    if checkpointed_bytes:
        body = body / text.num_hidden_layers + checkpointed_bytes * text.num_hidden_layers * tokens
    if device.type == "cpu":
        body *= _HEAP_OF_ACTIVATIONS
    body += kept.seen * batch.rows * batch.cached + 3 * 4 * batch.columns * text.vocab_size
    prefixes = costs.kv_bytes * batch.rows * batch.cached
    return round(max(prefixes + body, _COPIES_OF_PREFIXES * prefixes))


def stage_bytes(work: StageCosts, text: "PreTrainedConfig", device: torch.device) -> int:
    """Bytes that training a stage takes at its peak, beside the base model's weights.

    Args:
        work: the stage.
        text: the model's config.
        device: where it runs; a CPU takes a batch in parts (heft.training.parts), which all wait for the backward pass.
    """
    stage, shape, reuse = work.stage, work.shape, work.reuse
    longest = sorted(work.rows, key=lambda row: -len(row.prompt) - len(row.answer))
    longest = longest[: stage.micro_batch_size or stage.batch_size]
    needed = trained_bytes(shape.trainable_parameters, stage.optimizer)
    if reuse.kind == "prefixes":
        width = reuse.start + max(len(row.answer) for row in longest)
        needed += pass_bytes(shape.costs, _batch(shape.costs, longest, width), text, device)
    else:
        checkpointed = shape.state_bytes if stage.gradient_checkpointing else 0
        lengths = [len(row.prompt) + len(row.answer) for row in longest]
        for part in batches_of_like_length(lengths, len(longest), pass_tokens(device, trains=True)):
            batch = _batch(shape.costs, [longest[i] for i in part], None)
            needed += pass_bytes(shape.costs, batch, text, device, checkpointed)
            if reuse.kind == "lower layers":
                needed += 2 * shape.state_bytes * batch.rows * batch.width  # padded, and stacked
    return needed + store_bytes(reuse, device)


def store_bytes(reuse: Reuse, device: torch.device) -> int:
    """Bytes of what is kept beside the model; a graphics card's memory is not where it is kept."""
    return reuse.bytes if reuse.store == "memory" and device.type != "cuda" else 0


def _batch(costs: Costs, rows: Sequence[EncodedExample], width: int | None) -> Batch:
    """A pass over rows, the longest first: their last `width` tokens, or all where it is None."""
    prompt, total = len(rows[0].prompt), len(rows[0].prompt) + len(rows[0].answer)
    width = total if width is None else min(width, total)
    columns = len(rows) * max(len(row.answer) for row in rows)
    edited = edited_of(costs, len(rows), prompt, total - width, total)
    return Batch(len(rows), width, total - width, columns, edited)


def edited_of(costs: Costs, rows: int, prompt: int, start: int, end: int) -> dict[tuple[Positions, str], int]:
    """How many of the tokens `start` to `end` of `rows` equal rows are edited, by adapter positions and part."""
    return {
        (positions, part): rows * edited_tokens(positions, part, prompt, start, end) for positions, part in costs.edits
    }
