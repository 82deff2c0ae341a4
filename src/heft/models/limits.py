"""What a base model can take, from its files, before weights are loaded: token ids, positions, and its EOS tokens."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedModel

from heft.builtin import TINY
from heft.errors import HeftError
from heft.models.load import embedding_rows, load_skeleton
from heft.models.source import source_of
from heft.recipe.model import ModelSettings
from heft.reft.sites import decoder_of

_POSITION_TABLES = ("wpe", "embed_positions", "position_embeddings", "position_embedding", "pos_emb", "positions_embed")
_OTHER_INPUTS = re.compile("vision|visual|image|audio|speech|video", re.IGNORECASE)
_SPARE_ROWS = 16
"""Rows that a table may have beyond the positions that the configuration declares."""
_EXTENDABLE = ("dynamic",)
"""Kinds of rotary scaling that extend past `max_position_embeddings`, by design."""


@dataclass(frozen=True)
class BaseLimits:
    """What a base model can take.

    Attributes:
        embeddings: rows of the input embedding; ids from there on have none. None: unknown.
        positions: tokens of a row that the model was made for; None: unknown, or any number.
        learned: whether positions beyond have no embedding either, so that they cannot be computed.
        generation_config: the model's own generation settings; None: unknown.
    """

    embeddings: int | None = None
    positions: int | None = None
    learned: bool = False
    generation_config: GenerationConfig | None = None


def base_limits(settings: ModelSettings) -> BaseLimits:
    """The limits of the model that a recipe names; unknown ones where it cannot be built without weights."""
    try:
        model = load_skeleton(settings)
    except Exception:  # a model of its own code may raise anything; loading it in earnest says what is wrong
        return BaseLimits()
    return replace(limits_of(model), generation_config=_generation_config(settings, model))


def limits_of(model: PreTrainedModel) -> BaseLimits:
    """The limits of a model that is loaded, or built without weights."""
    table = _position_table(model)
    return BaseLimits(
        embeddings=embedding_rows(model),
        positions=_declared(model) if table is None else table,
        learned=table is not None,
        generation_config=model.generation_config,
    )


def require_room(limits: BaseLimits, prompt: Sequence[int], new_tokens: int) -> None:
    """Check that a model can compute a prompt and generate so many tokens after it.

    Raises:
        HeftError: it has no embedding for a token, or too few positions.
    """
    if limits.embeddings is not None and max(prompt) >= limits.embeddings:
        raise HeftError(
            f"the prompt has the token id {max(prompt):,}, and the model has embeddings for 0 to"
            f" {limits.embeddings - 1:,}; take the tokenizer that came with the model"
        )
    needed = len(prompt) + new_tokens - 1  # the last token is never read
    if limits.learned and needed > limits.positions:
        raise HeftError(
            f"the prompt has {len(prompt):,} tokens and up to {new_tokens:,} may follow it, and the model has"
            f" {limits.positions:,} positions; shorten the prompt, or generate fewer (--max-new-tokens)"
        )


def beyond_positions(limits: BaseLimits, prompt: Sequence[int], new_tokens: int) -> str | None:
    """What to say of a prompt that a model can compute with so many new tokens, but was not made for; else None."""
    needed = len(prompt) + new_tokens - 1  # the last token is never read
    if limits.positions is None or limits.learned or needed <= limits.positions:
        return None
    return (
        f"the prompt has {len(prompt):,} tokens and up to {new_tokens:,} may follow it, and the model was made for"
        f" {limits.positions:,}; what comes beyond may make no sense"
    )


def _generation_config(settings: ModelSettings, model: PreTrainedModel) -> GenerationConfig:
    if settings.name == TINY:
        return model.generation_config
    try:
        return GenerationConfig.from_pretrained(source_of(settings.name), revision=settings.revision)
    except Exception:  # mostly there is no such file, and the configuration has what there is
        return model.generation_config


def _position_table(model: PreTrainedModel) -> int | None:
    """Rows of the table that positions of text are looked up in, less those that it begins with for other uses."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in _POSITION_TABLES and isinstance(module, nn.Embedding):
            skipped = getattr(module, "offset", 0) if module.padding_idx is None else module.padding_idx + 1
            if _is_of_text(model, name, module.num_embeddings):
                return module.num_embeddings - skipped
    for name, buffer in model.named_buffers():
        if name.rpartition(".")[2] == "embed_positions" and _is_of_text(model, name, buffer.shape[0]):
            return buffer.shape[0]
    body = decoder_of(model)
    if hasattr(body, "build_mpt_alibi_tensor"):  # MPT: a bias for each of so many distances
        return body.config.max_seq_len
    sines = getattr(body, "pos_encoding", None)  # CTRL: in no buffer
    return len(sines) if torch.is_tensor(sines) else None


def _is_of_text(model: PreTrainedModel, name: str, rows: int) -> bool:
    """Whether a table of positions is the language model's own, and not that of an image or sound encoder beside it."""
    declared = _declared(model)
    return not _OTHER_INPUTS.search(name) and (declared is None or 0 <= rows - declared <= _SPARE_ROWS)


def _declared(model: PreTrainedModel) -> int | None:
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in _EXTENDABLE:
        return None
    found = getattr(config, "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None
