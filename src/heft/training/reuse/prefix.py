"""Prefix reuse: tokens before the first edited one are computed without gradients, once for all epochs where they fit.

In a decoder no token sees a later one. If a stage edits the last N prompt tokens only, everything before them has the
frozen model's activations in every layer, whatever the edits are. So those tokens run once, without gradients, and
their keys and values stand for them afterwards; only the last N tokens and the answer run with gradients. Logits and
gradients are those of the plain path.

Shapes: B rows, S prefix tokens, W numbers a token keeps (see prefix_states). A row's states are one (S, W) matrix.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F
from transformers import DynamicCache

from heft.adapters.attach import adapter_parameters
from heft.data.encode import EncodedExample, left_pad
from heft.models.prefix_states import LayerStates, keeps_plain_keys, packed, unpacked
from heft.reft.sites import decoder_of
from heft.settings.reft import parse_positions
from heft.training.reuse.activation_cache import ROWS_A_PASS, CachedActivations
from heft.training.reuse.stores import Store

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_RATES = re.compile("dropout|pdrop$|jitter")
_HEADS = ("classifier_dropout", "summary_first_dropout")
"""Dropout of heads that a causal language model does not have."""


def reach(model: "PreTrainedModel") -> int | None:
    """How many tokens from a prompt's end the trained edits reach back; None where prefix reuse does not apply.

    It applies where all that trains edits last positions only (`lN`), and where a prefix can stand for its tokens:
    the model keeps plain keys and values, has no dropout of its own, and is not recomputed in the backward pass.
    """
    if not trains_reft_alone(model) or has_dropout(model) or not keeps_plain_keys(model):
        return None
    positions = [parse_positions(config.positions) for config in _trained_configs(model)]
    if any(p.every or p.first for p in positions):
        return None
    return max(p.last for p in positions)


def trains_reft_alone(model: "PreTrainedModel") -> bool:
    """Whether all that trains are edits of hidden states."""
    trained = _trained_configs(model)
    return bool(trained) and all(config.peft_type.value == "REFT" for config in trained)


def _trained_configs(model: "PreTrainedModel") -> list:
    return [
        config
        for name, config in model.peft_config.items()
        if any(p.requires_grad for p in adapter_parameters(model, [name]).values())
    ]


def has_dropout(model: "PreTrainedModel") -> bool:
    """Whether the base model itself draws random numbers in training: drops anything out, or jitters its routers."""
    config = model.config.get_text_config().to_dict()
    return any(value for key, value in config.items() if key not in _HEADS and _RATES.search(key))


@dataclass(frozen=True)
class PrefixReuse(CachedActivations):
    """The prefixes of a stage's training rows.

    Attributes:
        model: with the stage's adapters attached.
        examples: the training rows; a batch's `row_ids` are indices into them.
        reach: edited tokens from the prompt's end.
        pad_id: id of the padding token.
        store: keeps keys and values for later epochs, or nothing.
        rows_a_pass: most rows that are computed together to be kept.
        parts: what the columns of a row's states are, known once a prefix was computed.
    """

    model: "PreTrainedModel"
    examples: Sequence[EncodedExample]
    reach: int
    pad_id: int
    store: Store
    rows_a_pass: int = ROWS_A_PASS
    parts: list[LayerStates] = field(default_factory=list)

    def kept_length(self, row: int) -> int:
        """Tokens of a row before the first edited one."""
        return len(self.examples[row].prompt) - self.reach

    def cache(self, rows: Sequence[int], lengths: Sequence[int]) -> DynamicCache:
        """Keys and values of the first `lengths` tokens of each row, aligned at the right; the rest is zeros.

        Args:
            rows: indices of the batch's rows.
            lengths: tokens taken of each, at most its `kept_length`.
        """
        kept = self.states_of(rows)
        columns = max(lengths)
        device = self.model.device
        padded = [
            F.pad(kept[row][:n].to(device, non_blocking=True), (0, 0, columns - n, 0)) if n else None
            for row, n in zip(rows, lengths, strict=True)
        ]
        blank = torch.zeros_like(next(tensor for tensor in padded if tensor is not None))
        return unpacked(torch.stack([blank if tensor is None else tensor for tensor in padded]), self.parts)

    @torch.no_grad()
    def compute_together(self, rows: Sequence[int]) -> dict[int, torch.Tensor]:
        examples = [self.examples[row] for row in rows]
        inputs = left_pad([example.prompt[: -self.reach] for example in examples], self.pad_id)
        inputs = {key: value.to(self.model.device) for key, value in inputs.items()}
        lengths = torch.tensor([len(example.prompt) for example in examples], device=self.model.device)
        cache = DynamicCache()
        decoder_of(self.model)(**inputs, prompt_lengths=lengths, past_key_values=cache, use_cache=True)
        states_BSW, self.parts[:] = packed(cache)
        columns = states_BSW.shape[1]
        return {row: states_BSW[i, columns - self.kept_length(row) :] for i, row in enumerate(rows)}


def measure_bytes_per_token(reuse: PrefixReuse) -> int:
    """Bytes of keys and values of one token, read off a short row."""
    row = min(
        (row for row in range(len(reuse.examples)) if reuse.kept_length(row)), key=reuse.kept_length, default=None
    )
    if row is None:
        return 0
    tensor = reuse.compute_together([row])[row]
    return tensor.shape[1] * tensor.element_size()
