"""What of a model no training changes, so that it can be computed once: read off the model, or off its skeleton."""

import inspect
import re
from collections.abc import Iterable
from dataclasses import dataclass

from transformers import PreTrainedModel

from heft.adapters.attach import trained_adapters
from heft.models.prefix_states import keeps_plain_keys
from heft.reft.sites import block_names
from heft.reft.streams import Streams

_RATES = re.compile("dropout|pdrop$|jitter")
_HEADS = ("classifier_dropout", "summary_first_dropout")
"""Dropout of heads that a causal language model does not have."""


@dataclass(frozen=True)
class ReuseFacts:
    """What a model allows while a stage trains.

    Attributes:
        edited_suffix: how many tokens from a prompt's end the trained adapters reach back, where a prefix can stand for
            the tokens before them; else None.
        first_edited_layer: the lowest layer that trains, where the layers below it can be skipped; else None.
        has_dropout: whether the base itself draws random numbers in training.
        state_bytes: of one token's hidden state.
    """

    edited_suffix: int | None
    first_edited_layer: int | None
    has_dropout: bool
    state_bytes: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> "ReuseFacts":
        """Look at a model with a stage's adapters attached and marked as trainable; a skeleton does."""
        state_bytes = model.config.get_text_config().hidden_size * model.dtype.itemsize
        return cls(edited_suffix(model), first_edited_layer(model), has_dropout(model), state_bytes)


def edited_suffix(model: PreTrainedModel) -> int | None:
    """How many tokens from a prompt's end the trained adapters reach back; None where prefix reuse does not apply.

    It applies where all that trains acts on last positions and later tokens only (`lN`, `lN+`), and where a prefix can
    stand for its tokens: the model caches plain keys and values, and has no dropout of its own.
    """
    if has_dropout(model) or not keeps_plain_keys(model):
        return None
    return farthest(model, trained_adapters(model))


def farthest(model: PreTrainedModel, names: Iterable[str]) -> int | None:
    """How many tokens from a prompt's end these adapters reach back; None where one acts on a prompt's first tokens."""
    positions = [getattr(model.peft_config[name], "edited_positions", None) for name in names]
    reaches = [None if each is None else each.reach_back() for each in positions]
    return None if not reaches or None in reaches else max(reaches)


def first_edited_layer(model: PreTrainedModel) -> int | None:
    """The lowest layer that trains, if reuse applies and there are layers below it; None otherwise.

    It does not apply where something trains before the layers (embeddings of tokens), and where a layer passes on more
    than one hidden state per token: several streams, a router's state, or keys and values that higher layers share.
    Nor does it where the layers cannot be told, or do not return (B, T, d): LoRA trains such a model, ReFT does not.
    """
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    trains_tokens = any(getattr(config, "trainable_token_indices", None) for config in _trained_configs(model))
    blocks = _blocks_of_one_state(model)
    if not trained or trains_tokens or has_dropout(model) or blocks is None:
        return None
    head = model.get_output_embeddings()
    of_head = {f"{name}." for name, module in model.named_modules() if module is head}
    numbers = [
        next((number for number, block in enumerate(blocks) if name.startswith(f"{block}.")), None)
        for name in trained
        if not name.startswith(tuple(of_head))
    ]
    return None if None in numbers else min(numbers, default=0) or None


def has_dropout(model: PreTrainedModel) -> bool:
    """Whether the base model itself draws random numbers in training: drops anything out, or jitters its routers."""
    config = model.config.get_text_config().to_dict()
    return any(value for key, value in config.items() if key not in _HEADS and _RATES.search(key))


def _trained_configs(model: PreTrainedModel) -> list:
    return [model.peft_config[name] for name in trained_adapters(model)]


def _blocks_of_one_state(model: PreTrainedModel) -> list[str] | None:
    """Names of the blocks, where each hands on one hidden state per token to the next and nothing else; else None."""
    config = model.config.get_text_config()
    try:
        streams, blocks = Streams.of(config), block_names(model)
    except ValueError:  # they are in no one list, or return (T, B, d)
        return None
    takes = inspect.signature(type(model.get_submodule(blocks[0])).forward).parameters
    carries = any(name.startswith("prev_") for name in takes)  # Zaya
    shares = bool(getattr(config, "num_kv_shared_layers", 0))
    return None if streams.active is not None or streams.inner > 1 or shares or carries else blocks
