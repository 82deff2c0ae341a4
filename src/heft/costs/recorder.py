"""Hears of every operation of a forward pass on the meta device: adds up products by what their number depends on.

Products are those that torch's own counter knows (torch.utils.flop_counter), convolutions among them, and those with
vectors.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from heft.costs.amounts import Flops, ModelCosts
from heft.edits.arithmetic import orthonormal_rows
from heft.edits.positions import GROUPS
from heft.reft.layer import ReftLayer, layers_of
from heft.reft.sites import block_names, decoder_of
from heft.reft.tracker import tracker_of

_ATTENDING = {"matmul": 0, "__matmul__": 0, "bmm": 0, "baddbmm": 1}
"""Functions that multiply queries with keys, and scores with values, and which argument the first factor is."""
_WITH_A_VECTOR = (torch.ops.aten.mv, torch.ops.aten.dot)
"""Products that torch does not count, of a first factor whose every number is multiplied once."""
_ADDED_TO = (torch.ops.aten.addmm, torch.ops.aten.baddbmm)
"""Products whose first argument is what they are added to."""


def never_unpacked(saved: None) -> torch.Tensor:
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


class Recorder(TorchFunctionMode):
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
        with torch.autograd.graph.saved_tensors_hooks(lambda tensor: None, never_unpacked):
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
