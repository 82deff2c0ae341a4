"""FLOPs of a model's matrix products, each counted where it stands and with the gradients that it needs.

A product of an m×k by a k×n matrix is 2mkn FLOPs. Its backward pass is as much again for each factor that requires a
gradient: for a weight matrix of N numbers, 2N per token forward, 2N backward where the input requires one (something
below it trains), 2N where the weight itself trains. One forward pass on the meta device, which has shapes and no
numbers, shows which do, and what autograd would save for the backward pass. Products are those that torch's own counter
knows (torch.utils.flop_counter), convolutions among them, and those with vectors. Elementwise work is not counted.
"""

import inspect
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from transformers import DynamicCache

from heft.edits.arithmetic import orthonormal_rows
from heft.edits.positions import GROUPS, Positions
from heft.errors import HeftError
from heft.models.forward import logits_of
from heft.models.prefix_states import keeps_plain_keys
from heft.reft.layer import ReftLayer, layers_of
from heft.reft.sites import block_names, decoder_of
from heft.reft.tracker import tracker_of

_PRIMES = (61, 59, 53, 47, 43, 41, 37, 31, 29)
_PRIMES_OF_CHUNKS = (251, 241, 239, 233, 229, 227, 223, *_PRIMES)
"""Tokens of the pass that is looked at: the first that divides no dimension of the model, so that none is taken for
tokens, nor for the pairs of a token and an expert. They are just below the chunks of 64 or, where the config speaks of
chunks, up to 256 tokens that recurrent layers pad to."""
_ATTENDING = {"matmul": 0, "__matmul__": 0, "bmm": 0, "baddbmm": 1}
"""Functions that multiply queries with keys, and scores with values, and which argument the first factor is."""
_WITH_A_VECTOR = (torch.ops.aten.mv, torch.ops.aten.dot)
"""Products that torch does not count, of a first factor whose every number is multiplied once."""
_ADDED_TO = (torch.ops.aten.addmm, torch.ops.aten.baddbmm)
"""Products whose first argument is what they are added to."""


@dataclass(frozen=True)
class Flops:
    """FLOPs of a forward and of a backward pass."""

    forward: float = 0.0
    backward: float = 0.0

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, times: float) -> "Flops":
        return Flops(self.forward * times, self.backward * times)

    @property
    def total(self) -> float:
        """Both passes."""
        return self.forward + self.backward


@dataclass
class SavedBytes:
    """Bytes that autograd saves for the backward pass, in a batch with padding (which brings a mask to attention).

    Attributes:
        token: for each token that runs with gradients.
        pair: for each pair of such a token and one that it is compared with: every layer's copy of the mask.
        seen: for each token of the cache: keys and values, repeated for the query heads that share them.
        step: once per pass.
        edits: for each edited token, by the same keys as `ModelCosts.edits`.
    """

    token: float = 0.0
    pair: float = 0.0
    seen: float = 0.0
    step: float = 0.0
    edits: dict[tuple[Positions, str], float] = field(default_factory=dict)


@dataclass
class ModelCosts:
    """What a model with its adapters costs.

    Attributes:
        token: FLOPs for each token that goes through the body.
        pair: for each pair of a token and one that it is compared with, padding and future included, in all layers.
        column: for each position with logits.
        step: once per pass, whatever its size (orthonormal rows; factorisations are not counted).
        edits: for each token that an edit or a LoRA of some tokens acts on, by positions and group
            (heft.edits.positions).
        saved: what autograd saves for the backward pass.
        kv_bytes: a token's keys and values.
        lower: the part of `token`, `pair` and `edits` that the lowest layers have, where these are counted separately.
        copies_prefixes: whether keys and values of a prefix are copied and get gradients, which nobody needs; else
            they are read in place (heft.models.prefix_attention).
    """

    token: Flops = Flops()
    pair: Flops = Flops()
    column: Flops = Flops()
    step: Flops = Flops()
    edits: dict[tuple[Positions, str], Flops] = field(default_factory=dict)
    saved: SavedBytes = field(default_factory=SavedBytes)
    kv_bytes: int = 0
    lower: "ModelCosts | None" = None
    copies_prefixes: bool = True

    def attention(self, tokens: int, own: int, cached: int) -> Flops:
        """FLOPs of tokens that are compared with `own` columns of their pass and `cached` ones of a prefix."""
        backward = 1.0 if self.copies_prefixes else 0.5  # each of both products has a factor of the prefix
        seen = Flops(self.pair.forward, self.pair.backward * backward)
        return self.pair * (tokens * own) + seen * (tokens * cached)


class Uncountable(HeftError):
    """A model that does not run on the meta device."""


def model_costs(model: nn.Module, lower_layers: int = 0) -> ModelCosts:
    """Count a model on the meta device, with adapters attached and what trains marked (see heft.costs.skeleton).

    It cannot run afterwards. `lower_layers` of the lowest layers are also counted separately.

    Raises:
        Uncountable: the model does not run without weights.
    """
    tokens, faults = _tokens_unlike(model), []
    for keeps, by_embeddings in product((True, False), repeat=2):
        recorder = _Recorder(model, lower_layers, tokens)
        try:
            cache = _run(model, recorder, tokens, by_embeddings, keeps)
        except Exception as error:  # a model that runs with weights need not run without: it may raise anything
            faults.append(f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
            continue
        finally:
            recorder.remove()
        recorder.costs.kv_bytes = _bytes_per_token(cache)
        return recorder.costs
    raise Uncountable(faults[1])


def _run(model: nn.Module, recorder: "_Recorder", tokens: int, by_embeddings: bool, keeps: bool) -> DynamicCache:
    """One forward pass under the recorder; the cache that it filled, if it `keeps` one and takes one of this kind."""
    config = model.config.get_text_config()
    cache = DynamicCache() if keeps_plain_keys(model) else DynamicCache(config=config)
    takes_cache = keeps and "past_key_values" in inspect.signature(decoder_of(model).forward).parameters
    call: dict = {"past_key_values": cache, "use_cache": True} if takes_cache else {"use_cache": False}
    if by_embeddings:
        size = model.get_input_embeddings().weight.shape[1]
        call["inputs_embeds"] = torch.zeros(1, tokens, size, device="meta", dtype=model.dtype)
    else:
        call["input_ids"] = torch.zeros(1, tokens, device="meta", dtype=torch.long)
    call["prompt_lengths"] = torch.full((1,), tokens, device="meta")
    counted = torch.autograd.graph.saved_tensors_hooks(recorder.save, _never_unpacked)
    without_autocast = patch.object(torch, "autocast", lambda *args, **kwargs: nullcontext())  # meta tensors have none
    recorder.follows(call.get("inputs_embeds", call.get("input_ids")))
    with without_autocast, torch.enable_grad(), recorder, recorder.products, counted:
        logits_of(model, 1, **call)
    return cache


def _bytes_per_token(cache: DynamicCache) -> int:
    layers = [layer for layer in cache.layers if getattr(layer, "keys", None) is not None]
    tensors = [tensor for layer in layers for tensor in (layer.keys, layer.values)]
    return sum(t.numel() // t.shape[2] * t.element_size() for t in tensors)


def _tokens_unlike(model: nn.Module) -> int:
    sizes = {size for p in model.parameters() for size in p.shape}
    has_chunks = any("chunk_size" in key for key in model.config.get_text_config().to_dict())
    primes = _PRIMES_OF_CHUNKS if has_chunks else _PRIMES
    return next((prime for prime in primes if not any(size % prime == 0 for size in sizes)), primes[0])


def _never_unpacked(saved: None) -> torch.Tensor:
    """No backward pass follows, so nothing is saved for it: an operation with its own output is never freed."""
    raise AssertionError("a skeleton has no backward pass")


class _Products(TorchDispatchMode):
    """Hears of every operation on tensors: its FLOPs if it is a product, what it reads, factors first, and gives."""

    def __init__(self, heard: Callable[[float | None, list[torch.Tensor], list[torch.Tensor]], None]):
        super().__init__()
        self._heard = heard

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        output = function(*args, **kwargs)
        operation = function.overloadpacket
        tensors = list(_tensors_in((*args, *kwargs.values())))
        if operation in _WITH_A_VECTOR:
            flops = 2.0 * tensors[0].numel()
        else:
            formula = flop_registry.get(operation)
            flops = None if formula is None else float(formula(*args, **kwargs, out_val=output))
        if operation in _ADDED_TO:
            tensors = [*tensors[1:], tensors[0]]
        self._heard(flops, tensors, list(_tensors_in((output,))))
        return output


def _tensors_in(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    """Tensors among an operation's arguments or outputs, and in their lists."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors_in(value)


class _Recorder(TorchFunctionMode):
    """Adds up the products of one forward pass, by what their number depends on."""

    def __init__(self, model: nn.Module, lower_layers: int, tokens: int):
        super().__init__()
        self._tokens = tokens
        experts = {tuple(p.shape[1:]) for p in model.parameters() if p.dim() == 3}
        self._expert_shapes = experts | {shape[::-1] for shape in experts}
        self.costs = ModelCosts(lower=ModelCosts() if lower_layers else None)
        self._scope: Hashable = None
        self._edited: Hashable = None
        self._in_lower = False
        self._is_fused = False
        self._known = [p.untyped_storage() for p in (*model.parameters(), *model.buffers())]  # alive: addresses differ
        self._addresses = {storage._cdata for storage in self._known}
        config = model.config.get_text_config()
        heads = getattr(config, "num_attention_heads", None)
        self._key_heads = getattr(config, "num_key_value_heads", None) or heads
        self.products = _Products(self._product)
        self._of_rows: dict[int, torch.UntypedStorage] = {}  # alive, as above
        self._handles = [decoder_of(model).register_forward_hook(self._setting(_scope="column"))]
        for name in block_names(model)[:lower_layers] if lower_layers else ():
            block = model.get_submodule(name)
            self._handles += [
                block.register_forward_pre_hook(self._setting(_in_lower=True)),
                # before the edit of the block's output, which runs where the block itself is skipped
                block.register_forward_hook(self._setting(_in_lower=False), prepend=True),
            ]
        for layer in layers_of(model).values():
            self._follow(layer)
        tracker = tracker_of(model)
        if tracker is not None:  # every edit and every update of positions sees one token
            tracker.edited_indices = lambda *args: torch.zeros(1, dtype=torch.long, device="meta")
            for branch in tracker.branches:
                branch.forward = partial(self._update, branch, branch.forward)

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    def save(self, tensor: torch.Tensor) -> None:
        """Count a tensor that autograd saves, once, unless it is a weight or the weights of tokens' experts."""
        storage, saved = tensor.untyped_storage(), self.costs.saved
        if storage._cdata in self._addresses or tuple(tensor.shape[1:]) in self._expert_shapes:
            return
        self._known.append(storage)
        self._addresses.add(storage._cdata)
        if self._is_of_pairs(tensor):
            saved.pair += storage.nbytes() / self._tokens**2
        elif self._is_by_token(tensor):
            saved.token += storage.nbytes() / self._tokens
        elif self._edited is not None and tensor.dim() == 2 and len(tensor) == 1:
            saved.edits[self._edited] = saved.edits.get(self._edited, 0.0) + storage.nbytes()
        elif storage._cdata in self._of_rows and self._scope != "column":  # a chunk, or one token of a loop over all
            saved.token += storage.nbytes() / self._tokens
        else:
            saved.step += storage.nbytes()

    def follows(self, rows: torch.Tensor) -> None:
        """Know what is computed from these rows, from what is computed from weights alone."""
        self._of_rows[rows.untyped_storage()._cdata] = rows.untyped_storage()

    def _is_of_pairs(self, tensor: torch.Tensor) -> bool:
        """Whether it has a number for each pair of tokens."""
        return sum(map(self._is_of_tokens, tensor.shape)) > 1

    def _is_by_token(self, tensor: torch.Tensor) -> bool:
        return any(map(self._is_of_tokens, tensor.shape))

    def _is_of_tokens(self, size: int) -> bool:
        """Whether a dimension has one place for each token, or some."""
        return size > 0 and size % self._tokens == 0

    def _setting(self, **state: Any) -> Callable[..., None]:
        """A hook that sets attributes of this recorder."""
        return lambda *arguments: self.__dict__.update(state)

    @property
    def _counting(self) -> tuple[ModelCosts, ...]:
        """What products are added to now."""
        return (self.costs, self.costs.lower) if self._in_lower else (self.costs,)

    def _follow(self, layer: ReftLayer) -> None:
        """Tell the products of every unit from others."""
        for group in GROUPS:
            for name, unit in getattr(layer, f"reft_{group}").items():
                unit.forward = partial(self._edit, unit, (layer.positions[name], group))

    def _edit(self, unit, key, hidden_ND: torch.Tensor, rows_RD: torch.Tensor | None = None) -> torch.Tensor:
        """The intervention's own forward pass, its products counted as the edit's."""
        if rows_RD is None and unit.rotation is not None:
            rows_RD = orthonormal_rows(unit.raw_rows())
        outside, self._scope, self._edited = self._scope, key, key
        delta = type(unit).forward(unit, hidden_ND, rows_RD)
        self._scope = outside
        return delta

    def _update(self, branch, forward: Callable, *args, **kwargs) -> torch.Tensor:
        """The update of LoRA with positions, its products counted as its own."""
        key = (branch.positions, "shared")
        outside, self._scope, self._edited = self._scope, key, key
        updated = forward(*args, **kwargs)
        self._scope = outside
        return updated

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        if name == "scaled_dot_product_attention":
            return self._attention(function, args, kwargs or {})
        if name == "__bool__" and args[0].is_meta:
            return False  # what a model asks of its numbers: whether it has padding, whether a row is very long
        output = function(*args, **(kwargs or {}))
        if name in _ATTENDING:
            factors = [*args, *(kwargs or {}).values()][_ATTENDING[name] : _ATTENDING[name] + 2]
            if self._is_of_pairs(output) or self._is_of_pairs(factors[0]):
                self._save_repeated(*factors)
        return output

    def _product(self, flops: float | None, tensors: list[torch.Tensor], outputs: list[torch.Tensor]) -> None:
        """An operation on tensors, with its FLOPs if it is a product, whose factors are then its first two."""
        is_of_rows = any(tensor.untyped_storage()._cdata in self._of_rows for tensor in tensors)
        if is_of_rows:
            self._of_rows |= {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in outputs}
        if flops is None or self._is_fused:
            return
        work = Flops(flops, flops * sum(factor.requires_grad for factor in tensors[:2]))
        if self._is_of_pairs(outputs[0]) or self._is_of_pairs(tensors[0]):  # attention in plain products
            self._add_pairs(work * (1 / self._tokens**2))
        else:
            self._add(work, outputs[0], is_of_rows)

    def _add_pairs(self, work: Flops) -> None:
        for costs in self._counting:
            costs.pair += work

    def _save_repeated(self, mine: torch.Tensor, others: torch.Tensor) -> None:
        """Count the keys or values of cached tokens too, where they are repeated for the heads that share them."""
        if mine.requires_grad and others.dim() == 4 and others.shape[1] > self._key_heads:
            self.costs.saved.seen += others.numel() * others.element_size() / self._tokens

    def _add(self, work: Flops, output: torch.Tensor, is_of_rows: bool) -> None:
        for costs in self._counting:
            if not is_of_rows and not self._is_by_token(output):
                costs.step += work
            elif isinstance(self._scope, tuple):
                costs.edits[self._scope] = costs.edits.get(self._scope, Flops()) + work
            elif self._scope == "column" and not self._is_by_token(output):
                costs.column += work
            else:  # also chunks of tokens, and one token of a loop over all
                costs.token += work * (1 / self._tokens)

    def _attention(self, function, args, kwargs):
        query, key, value = args[:3]
        self._is_fused = True
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: None, _never_unpacked):
            output = function(*args, **kwargs)
        self._is_fused = False
        pairs = 2.0 * output[..., 0].numel() * key.shape[-2]
        scores, mixed = pairs * query.shape[-1], pairs * value.shape[-1]
        on_scores = query.requires_grad or key.requires_grad
        backward = scores * (query.requires_grad + key.requires_grad) + mixed * (on_scores + value.requires_grad)
        work = Flops(scores + mixed, backward)
        if self._is_of_tokens(query.shape[-2]) and self._is_of_tokens(key.shape[-2]):
            self._add_pairs(work * (1 / self._tokens**2))
            if output.requires_grad:
                self._save_attention(query, key, value, output)
        else:  # over something else, such as the layers below
            self._add(work, output, is_of_rows=True)
            if output.requires_grad:
                for tensor in (query, key, value, output):
                    self.save(tensor)
        return output

    def _save_attention(self, query, key, value, output) -> None:
        """Count what a fused kernel saves: its factors, its output and a mask in their type, and not the scores.

        With a mask, keys and values are repeated for the heads of the query that share them.
        """
        saved, heads, size = self.costs.saved, query.shape[1], query.element_size()
        self.save(query)
        self.save(output)
        saved.pair += size
        if heads > (self._key_heads or heads):
            repeated = heads * (key.shape[3] + value.shape[3]) * size
            saved.token += repeated
            saved.seen += repeated
        else:
            self.save(key)
            self.save(value)
