"""Attention that reads cached prefixes where they lie, through transformers' `AttentionInterface`.

transformers' own way with a cache puts a prefix's keys and values and those of the tokens that run into one tensor,
repeats them for grouped queries and computes their gradients. A step on cached prefixes has few tokens and long
prefixes, so all that takes more time than its products. Here queries are grouped by the key-value head that they share,
scores of prefix and tokens stand side by side under one softmax, and a prefix gets no copy and no gradient.

A cache of `reading_cache` tells models how many columns it has, so that they make their masks as ever, and gives their
layers back the keys and values that they put in. These carry the prefix of their layer to the attention function.

Shapes: B rows, H key-value heads, G queries of each, T tokens, S prefix columns, D and E sizes of keys and values.
Products are of N = B·H matrices side by side, with Q = G·T queries each. A block of b rows of a prefix, n columns of it
at the right end, has keys (b·H, D, n) and values (b·H, E, n).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, DynamicLayer
from transformers.masking_utils import sdpa_mask

from heft.models.forward import attention_of

NAME = "heft_prefix"
"""Of the implementation, as `model.set_attn_implementation` takes it."""
_PREFIX = "_heft_prefix"
"""Attribute of keys and values: the prefix before them."""


@dataclass(frozen=True)
class Block:
    """A prefix of adjacent rows of a batch in one layer.

    Attributes:
        first: its first matrix among the batch's N.
        keys: (b·H, D, n).
        values: (b·H, E, n).
    """

    first: int
    keys: torch.Tensor
    values: torch.Tensor

    def part(self, tensor_NQX: torch.Tensor) -> torch.Tensor:
        """What a tensor (N, …) has for the block's rows."""
        return tensor_NQX.narrow(0, self.first, len(self.keys))

    def columns(self, scores_NQX: torch.Tensor, columns: int) -> torch.Tensor:
        """What scores (N, Q, S + T) or the like have for the block: (b·H, Q, n). `columns` is S."""
        width = self.keys.shape[2]
        return self.part(scores_NQX).narrow(2, columns - width, width)


@dataclass(frozen=True)
class LayerPrefix:
    """The prefixes of a batch in one layer.

    Attributes:
        blocks: in the order of rows; a row without a block has no prefix.
        columns: S.
        memory: what has to live as long as the blocks are read.
    """

    blocks: Sequence[Block]
    columns: int
    memory: object = None


class PrefixLayer(DynamicLayer):
    """A cache's layer that nothing is appended to: a pass gets its own keys and values back, with their prefix."""

    def __init__(self, prefix: LayerPrefix):
        super().__init__()
        self.prefix = prefix

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs):
        """Attach the prefix to these keys and values."""
        setattr(key_states, _PREFIX, self.prefix)
        setattr(value_states, _PREFIX, self.prefix)
        return key_states, value_states

    def get_seq_length(self) -> int:
        """Columns of the prefix."""
        return self.prefix.columns


def reading_cache(prefixes: Sequence[LayerPrefix]) -> Cache:
    """A cache of each layer's prefix, for a pass under `reads_prefix`."""
    return Cache(layers=[PrefixLayer(prefix) for prefix in prefixes])


@contextmanager
def reads_prefix(model: PreTrainedModel) -> Iterator[None]:
    """Inside, the model's attention reads the prefix of a `reading_cache`; afterwards it is what it was.

    Raises:
        ValueError: the model's class does not let its attention be exchanged.
    """
    if model not in _EXCHANGED:
        _EXCHANGED[model] = _exchanged(model)
    before = [(config, config._attn_implementation) for config, _ in _EXCHANGED[model]]
    try:
        _set(_EXCHANGED[model])
        yield
    finally:
        _set(before)


_EXCHANGED: WeakKeyDictionary[PreTrainedModel, list[tuple[PreTrainedConfig, str]]] = WeakKeyDictionary()
"""Configurations of models whose attention was exchanged once, each with what it says then. transformers finds them in
a walk of all modules, which in every step of a small model takes as long as some of its layers."""


def _exchanged(model: PreTrainedModel) -> list[tuple[PreTrainedConfig, str]]:
    """What the configurations of a model and of those within it say once it reads prefixes; it is left as it was."""
    models = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    configs = {id(config): config for part in models for config in _with_inner(part.config)}
    before = [(config, config._attn_implementation) for config in configs.values()]
    try:
        model.set_attn_implementation(NAME)
        if attention_of(model) != NAME:
            raise ValueError(f"the attention of {type(model).__name__} cannot be exchanged")
        return [(config, config._attn_implementation) for config in configs.values()]
    finally:
        _set(before)


def _with_inner(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    yield config
    for key in config.sub_configs:
        if (inner := getattr(config, key, None)) is not None:
            yield from _with_inner(inner)


def _set(implementations: Sequence[tuple[PreTrainedConfig, str]]) -> None:
    """Outer configurations come first: setting one sets those within it too."""
    for config, implementation in implementations:
        config._attn_implementation = implementation


def prefix_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Attention (B, T, G·H, E) of a layer's tokens to their prefix and to themselves; see transformers'
    `AttentionInterface` for what is passed.

    Args:
        query: (B, G·H, T, D).
        key: (B, H, T, D), as it came back from the cache.
        value: (B, H, T, E), likewise.
        attention_mask: (B or 1, 1 or G·H, T, S + T): bool, or what is added to scores.
        softcap: scores are softcap · tanh(score / softcap).
        s_aux: (G·H,) scores of a sink that each head may attend to for nothing.

    Raises:
        ValueError: the call has something that this function does not compute; nothing is ever left out.
    """
    prefix = getattr(key, _PREFIX, None)
    if prefix is None or getattr(value, _PREFIX, None) is not prefix:
        raise ValueError(f"{type(module).__name__} changes keys or values between the cache and its attention")
    if dropout or position_bias is not None or attention_mask is None:
        raise ValueError(f"{type(module).__name__} attends with dropout, a bias by position or without a mask")
    if attention_mask.shape[-1] != prefix.columns + key.shape[2]:
        raise ValueError(
            f"{type(module).__name__} masks {attention_mask.shape[-1]} columns; its cache has"
            f" {prefix.columns} and {key.shape[2]} are computed"
        )
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    with torch.autocast(query.device.type, enabled=False):  # it says itself what is computed in which dtype
        attended = _ReadPrefix.apply(query, key, value, attention_mask, prefix, scaling, softcap, s_aux)
    return attended, None


def _whole_mask(*args, **kwargs) -> torch.Tensor:
    """sdpa's mask, made in any case: sdpa leaves out one that its kernel implies."""
    return sdpa_mask(*args, **kwargs | {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})


AttentionInterface.register(NAME, prefix_attention)
AttentionMaskInterface.register(NAME, _whole_mask)


class _ReadPrefix(torch.autograd.Function):
    """softmax(QKᵀ · scaling + mask) V over prefix and tokens, with gradients for the tokens' Q, K and V."""

    @staticmethod
    def forward(ctx, query, key, value, mask, prefix: LayerPrefix, scaling, softcap, sink):
        rows, heads, tokens, size = key.shape
        dtype = prefix.blocks[0].keys.dtype  # under autocast the tokens' are rounded, a prefix is not
        query_NQD = (query.to(dtype) * scaling).reshape(rows * heads, -1, size)
        key_NTD, value_NTE = (tensor.to(dtype).flatten(0, 1) for tensor in (key, value))
        scores = _scores(query_NQD, key_NTD, prefix)
        capped = None
        if softcap is not None:
            capped = scores.div_(softcap).tanh_()
            scores = capped * softcap
        probs = _softmax(scores.view(*query.shape[:3], -1), mask, sink).to(dtype).view_as(scores)
        out = torch.bmm(probs[..., prefix.columns :], value_NTE)
        for block in prefix.blocks:
            block.part(out).baddbmm_(block.columns(probs, prefix.columns), block.values.mT)
        ctx.save_for_backward(query_NQD, key_NTD, value_NTE, probs, capped)
        ctx.prefix, ctx.scaling = prefix, scaling
        ctx.shapes, ctx.dtypes = (query.shape, key.shape, value.shape), (query.dtype, key.dtype, value.dtype)
        return out.view(rows, -1, tokens, out.shape[-1]).transpose(1, 2).to(query.dtype).contiguous()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_BTNE):
        query, key, value, probs, capped = ctx.saved_tensors
        blocks, columns = ctx.prefix.blocks, ctx.prefix.columns
        grad_NQE = grad_BTNE.to(probs.dtype).transpose(1, 2).reshape(*query.shape[:2], -1)
        grad_value = torch.bmm(probs[..., columns:].mT, grad_NQE)
        grad_probs = torch.zeros_like(probs)
        grad_probs[..., columns:] = torch.bmm(grad_NQE, value.mT)
        for block in blocks:
            block.columns(grad_probs, columns).copy_(torch.bmm(block.part(grad_NQE), block.values))
        grad_scores = torch._softmax_backward_data(grad_probs, probs, -1, probs.dtype)
        if capped is not None:
            grad_scores = grad_scores * (1 - capped.square())
        own = grad_scores[..., columns:]
        grad_key, grad_query = torch.bmm(own.mT, query), torch.bmm(own, key)
        for block in blocks:
            block.part(grad_query).baddbmm_(block.columns(grad_scores, columns), block.keys.mT)
        found = zip((grad_query.mul_(ctx.scaling), grad_key, grad_value), ctx.shapes, ctx.dtypes, strict=True)
        return (*(grad.view(shape).to(dtype) for grad, shape, dtype in found), None, None, None, None, None)


def _scores(query_NQD: torch.Tensor, key_NTD: torch.Tensor, prefix: LayerPrefix) -> torch.Tensor:
    """(N, Q, S + T); where a row has no prefix, anything finite."""
    columns = prefix.columns
    scores = query_NQD.new_zeros(*query_NQD.shape[:2], columns + key_NTD.shape[1])
    scores[..., columns:] = torch.bmm(query_NQD, key_NTD.mT)
    for block in prefix.blocks:
        block.columns(scores, columns).copy_(torch.bmm(block.part(query_NQD), block.keys))
    return scores


def _softmax(by_head: torch.Tensor, mask: torch.Tensor, sink: torch.Tensor | None) -> torch.Tensor:
    """Probabilities (B, G·H, T, S + T), in at least float32, of what the mask lets through; scores are altered.

    A query that sees nothing, which is padding, sees all alike, as in eager attention.
    """
    if mask.dtype == torch.bool:
        by_head.masked_fill_(~mask, torch.finfo(by_head.dtype).min)
    else:
        by_head += mask
    dtype = torch.promote_types(by_head.dtype, torch.float32)
    if sink is None:
        return torch.softmax(by_head, -1, dtype=dtype)
    sinks = sink.view(1, -1, 1, 1).expand(len(by_head), -1, by_head.shape[2], 1).to(by_head.dtype)
    return torch.softmax(torch.cat([by_head, sinks], -1), -1, dtype=dtype)[..., :-1].contiguous()
