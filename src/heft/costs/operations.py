"""FLOPs of a model's matrix products, each counted where it stands and with the gradients that it needs.

A product of an m×k by a k×n matrix is 2mkn FLOPs. Its backward pass is as much again for each factor that requires a
gradient: for a weight matrix of N numbers, 2N a token forward, 2N backward where the input requires one (something
below it trains), 2N where the weight itself trains. One forward pass on the meta device, which has shapes and no
numbers, shows which do, and what autograd would keep for the backward pass. Elementwise work is not counted.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import DynamicCache

from heft.reft.layer import ReftLayer
from heft.reft.orthonormal import orthonormal_rows
from heft.reft.settings import Positions
from heft.reft.sites import block_names

TOKENS = 61
"""Tokens of the pass that is looked at; a prime, so that no dimension of a model is mistaken for it."""
_PRODUCTS = {"linear": 0, "addmm": 1, "matmul": 0, "__matmul__": 0, "bmm": 0, "mm": 0}
"""Functions that multiply matrices, and which argument's last dimension is summed over."""


@dataclass(frozen=True)
class Work:
    """FLOPs of a forward and of a backward pass."""

    forward: float = 0.0
    backward: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, times: float) -> "Work":
        return Work(self.forward * times, self.backward * times)

    @property
    def total(self) -> float:
        """Both passes."""
        return self.forward + self.backward


@dataclass
class Kept:
    """Bytes that autograd keeps for the backward pass, in a batch with padding (which brings a mask to attention).

    Attributes:
        token: for each token that runs with gradients.
        pair: for each pair of such a token and one that it is compared with: every layer's copy of the mask.
        seen: for each token of the cache: keys and values, repeated for the query heads that share them.
        step: once a pass.
        edits: for each edited token, by the same keys as `Costs.edits`.
    """

    token: float = 0.0
    pair: float = 0.0
    seen: float = 0.0
    step: float = 0.0
    edits: dict[tuple[Positions, str], float] = field(default_factory=dict)


@dataclass
class Costs:
    """What a model with its adapters costs.

    Attributes:
        token: FLOPs for each token that goes through the body.
        pair: for each pair of a token and one that it is compared with, padding and future included, in all layers.
        column: for each position with logits.
        step: once a pass, whatever its size (orthonormal rows; factorisations are not counted).
        edits: for each edited token, by adapter positions and part ("shared", "first", "last").
        kept: what the backward pass needs.
        kv_bytes: a token's keys and values.
        lower: the part of `token`, `pair` and `edits` that the lowest layers have, where these are counted apart.
    """

    token: Work = Work()
    pair: Work = Work()
    column: Work = Work()
    step: Work = Work()
    edits: dict[tuple[Positions, str], Work] = field(default_factory=dict)
    kept: Kept = field(default_factory=Kept)
    kv_bytes: int = 0
    lower: "Costs | None" = None


def costs_of(model: nn.Module, lower_layers: int = 0) -> Costs:
    """Count a model on the meta device, with adapters attached and what trains marked (see heft.costs.skeleton).

    Args:
        model: the skeleton; it cannot run afterwards.
        lower_layers: this many of the lowest layers are also counted apart.
    """
    recorder = _Recorder(model, lower_layers)
    hidden = model.config.get_text_config().hidden_size
    inputs = torch.zeros(1, TOKENS, hidden, device="meta", dtype=model.dtype)
    call = {"inputs_embeds": inputs, "logits_to_keep": 1}
    if any(isinstance(module, ReftLayer) for module in model.modules()):
        call["prompt_lengths"] = torch.full((1,), TOKENS, device="meta")
    cache = DynamicCache()
    with torch.enable_grad(), recorder, torch.autograd.graph.saved_tensors_hooks(recorder.keep, _never_unpacked):
        model(**call, past_key_values=cache, use_cache=True)
    recorder.remove()
    layers = [layer for layer in cache.layers if getattr(layer, "keys", None) is not None]
    tensors = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
    recorder.costs.kv_bytes = sum(t.numel() // t.shape[2] * t.element_size() for t in tensors)
    return recorder.costs


def _is_of_pairs(tensor: torch.Tensor) -> bool:
    """Whether it has a number for each pair of tokens."""
    return tensor.shape.count(TOKENS) > 1


def _never_unpacked(kept: None) -> torch.Tensor:
    """No backward pass follows, so autograd gets nothing to keep: an operation with its own output is never freed."""
    raise AssertionError("a skeleton has no backward pass")


class _Recorder(TorchFunctionMode):
    """Adds up the products of one forward pass, by what their number depends on."""

    def __init__(self, model: nn.Module, lower_layers: int):
        super().__init__()
        self.costs = Costs(lower=Costs() if lower_layers else None)
        self._scope: Hashable = None
        self._edited: Hashable = None
        self._in_lower = False
        self._known = [p.untyped_storage() for p in (*model.parameters(), *model.buffers())]  # alive: addresses differ
        self._addresses = {storage._cdata for storage in self._known}
        config = model.config.get_text_config()
        self._key_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        head = model.get_output_embeddings()
        self._handles = [
            head.register_forward_pre_hook(lambda module, args: self._enter("column")),
            head.register_forward_hook(lambda module, args, output: self._enter(None)),
        ]
        for name in block_names(model)[:lower_layers]:
            block = model.get_submodule(name)
            self._handles += [
                block.register_forward_pre_hook(lambda module, args: self._descend(True)),
                # before the edit of the block's output, which runs where the block itself is skipped
                block.register_forward_hook(lambda module, args, output: self._descend(False), prepend=True),
            ]
        for layer in model.modules():
            if isinstance(layer, ReftLayer):
                self._follow(layer)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def keep(self, tensor: torch.Tensor) -> None:
        """Count a tensor that autograd saves, once, unless it is a weight."""
        storage, kept = tensor.untyped_storage(), self.costs.kept
        if storage._cdata in self._addresses:
            return
        self._known.append(storage)
        self._addresses.add(storage._cdata)
        if _is_of_pairs(tensor):
            kept.pair += storage.nbytes() / TOKENS**2
        elif TOKENS in tensor.shape:
            kept.token += storage.nbytes() / TOKENS
        elif self._edited is not None and tensor.dim() == 2 and len(tensor) == 1:
            kept.edits[self._edited] = kept.edits.get(self._edited, 0.0) + storage.nbytes()
        else:
            kept.step += storage.nbytes()

    def _descend(self, into: bool) -> None:
        self._in_lower = into

    def _enter(self, scope: Hashable) -> None:
        self._scope = scope

    def _follow(self, layer: ReftLayer) -> None:
        """Let every unit edit one token, and tell its products from others."""
        layer.tracker.rows = lambda *args: torch.zeros(1, dtype=torch.long, device="meta")
        for part in ("shared", "first", "last"):
            for name, unit in getattr(layer, f"reft_{part}").items():
                unit.forward = partial(self._edit, unit, (layer.positions[name], part))

    def _edit(self, unit, key, hidden_ND: torch.Tensor, rows_RD: torch.Tensor | None = None) -> torch.Tensor:
        """As `Intervention.forward`, without its autocast, which the meta device does not have."""
        if rows_RD is None and unit.rotation is not None:
            rows_RD = orthonormal_rows(unit.rotation)
        self._enter(key)
        self._edited = key
        difference, basis = unit._edit(hidden_ND.float(), rows_RD)
        delta = (difference.expand(len(hidden_ND), -1) @ basis).to(hidden_ND.dtype)
        self._enter(None)
        return delta

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name == "scaled_dot_product_attention":
            return self._attention(function, args, kwargs or {})
        output = function(*args, **(kwargs or {}))
        if name in _PRODUCTS:
            factors = [*args, *(kwargs or {}).values()][_PRODUCTS[name] : _PRODUCTS[name] + 2]
            flops = 2.0 * output.numel() * factors[0].shape[-1]
            work = Work(flops, flops * sum(factor.requires_grad for factor in factors))
            if _is_of_pairs(output) or _is_of_pairs(factors[0]):  # attention in plain products
                self._add_pairs(work * (1 / TOKENS**2))
                self._keep_repeated(*factors)
            else:
                self._add(work, output)
        return output

    def _add_pairs(self, work: Work) -> None:
        for costs in (self.costs, self.costs.lower) if self._in_lower else (self.costs,):
            costs.pair += work

    def _keep_repeated(self, mine: torch.Tensor, others: torch.Tensor) -> None:
        """Count the keys or values of cached tokens too, where they are repeated for the heads that share them."""
        if mine.requires_grad and others.dim() == 4 and others.shape[1] > self._key_heads:
            self.costs.kept.seen += others.numel() * others.element_size() / TOKENS

    def _add(self, work: Work, output: torch.Tensor) -> None:
        for costs in (self.costs, self.costs.lower) if self._in_lower else (self.costs,):
            if self._scope == "column":
                costs.column += work
            elif self._scope is not None:
                costs.edits[self._scope] = costs.edits.get(self._scope, Work()) + work
            elif TOKENS in output.shape:
                costs.token += work * (1 / TOKENS)
            else:
                costs.step += work

    def _attention(self, function, args, kwargs):
        query, key, value = args[:3]
        with torch.autograd.graph.saved_tensors_hooks(lambda saved: None, _never_unpacked):
            output = function(*args, **kwargs)
        if output.requires_grad:
            self._keep_attention(query, key, value, output)
        scores, mixed = 2.0 * query.shape[1] * query.shape[3], 2.0 * query.shape[1] * value.shape[3]
        on_scores = query.requires_grad or key.requires_grad
        backward = scores * (query.requires_grad + key.requires_grad) + mixed * (on_scores + value.requires_grad)
        self._add_pairs(Work(scores + mixed, backward))
        return output

    def _keep_attention(self, query, key, value, output) -> None:
        """Count what a fused kernel keeps: its factors, its output and a mask in their type, and not the scores.

        With a mask, keys and values are repeated for the heads of the query that share them.
        """
        kept, heads, size = self.costs.kept, query.shape[1], query.element_size()
        self.keep(query)
        self.keep(output)
        kept.pair += size
        if heads > self._key_heads:
            repeated = heads * (key.shape[3] + value.shape[3]) * size
            kept.token += repeated
            kept.seen += repeated
        else:
            self.keep(key)
            self.keep(value)
