"""Whether a model's prefix can be cached, and the cache: each layer's keys and values.

Shapes: B rows, S prefix tokens, W numbers per token in all layers together. Heads and their sizes may differ from
layer to layer, and between keys and values, so a row's states are one (W, S) matrix.
"""

import inspect

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from heft.reft.sites import decoder_of

_PLAIN_KINDS = {"full_attention", "sliding_attention"}
_TURNED_BY_COLUMN = ("roformer",)
"""Rotary models that turn keys by their column, in which they then have to stay."""
_PLAIN_LAYERS = (DynamicLayer, DynamicSlidingWindowLayer)


def keeps_plain_keys(model: PreTrainedModel) -> bool:
    """Whether keys and values of a row's first tokens can stand for these tokens, whatever comes after them.

    Not so where a layer caches something else (recurrent states, convolutions, an index), where the model takes no
    `past_key_values` or puts tokens of its own before a row, or where rotary positions are scaled by the length of the
    input.
    """
    config = model.config.get_text_config()
    if getattr(config, "prompt_length", 0) or config.model_type in _TURNED_BY_COLUMN:
        return False  # CPM-Ant: tokens of its own stand before each row
    if getattr(model, "_is_stateful", False) or not set(getattr(config, "layer_types", None) or ()) <= _PLAIN_KINDS:
        return False
    if "past_key_values" not in inspect.signature(decoder_of(model).forward).parameters:
        return False
    if scaled_beyond(model) is not None:
        return False
    return all(type(layer) in _PLAIN_LAYERS for layer in DynamicCache(config=config).layers)


def scaled_beyond(model: PreTrainedModel) -> int | None:
    """Tokens beyond which rotary positions of a batch are scaled by the length of its longest row; None for never."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = rope.values() if all(isinstance(each, dict) for each in rope.values()) else [rope]
    scaled = [kind for kind in kinds if kind.get("rope_type") in ("dynamic", "longrope")]
    if not scaled:
        return None
    whole = getattr(config, "original_max_position_embeddings", None) or config.max_position_embeddings
    return min(kind.get("original_max_position_embeddings") or whole for kind in scaled)


def packed(cache: DynamicCache) -> tuple[torch.Tensor, list[tuple[int, int]]]:
    """All keys and values of a cache as (B, W, S), and what its rows are: keys of layer 0, its values, and so on.

    Of each the number of heads and their size. Columns are tokens, so that a layer's numbers are adjacent in memory.
    """
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    parts = [(tensor.shape[1], tensor.shape[3]) for tensor in tensors]
    return torch.cat([tensor.mT.flatten(1, 2) for tensor in tensors], dim=1), parts


def unpacked(states_BWS: torch.Tensor, parts: list[tuple[int, int]]) -> DynamicCache:
    """A cache that holds what `packed` gave."""
    tensors = [tensor.mT for tensor in layers_of_states(states_BWS, parts)]
    cache = DynamicCache()
    for layer in range(len(tensors) // 2):
        cache.update(tensors[2 * layer], tensors[2 * layer + 1], layer)
    return cache


def layers_of_states(states_BWS: torch.Tensor, parts: list[tuple[int, int]]) -> list[torch.Tensor]:
    """Views (B, H, D, S) of what `packed` gave: keys of layer 0, its values, and so on."""
    cut = states_BWS.split([heads * size for heads, size in parts], dim=1)
    return [tensor.unflatten(1, part) for tensor, part in zip(cut, parts, strict=True)]
