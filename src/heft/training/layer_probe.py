"""Which layers and tokens an edit could move the loss at: gradients of zero edits, in one pass forward and back.

An edit that adds b = 0 to the hidden states stands behind every block and on every token. Its gradient says how far the
loss falls, to first order, for a small step of each edit alone; all of them come from one backward pass, since an edit
of zero changes nothing that the others see. The b of an identity LoReFT edit gets the same gradient times its R.

What it cannot say: how far the loss falls in more than a first step, what an edit that depends on the hidden state
finds beyond a constant, what several layers do together, and what an edit of another site (attention, MLP) would do.
docs/log.md has how well it foretold sweeps over single layers. The gradient of W, where an edit is Wh + b, foretold
nothing: it grows with the length of hidden states, which grows with depth.

Shapes: B rows, T tokens, d hidden size, G groups of tokens, L layers.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from heft.data.batching import batches_of_like_length, pass_tokens
from heft.data.encode import EncodedExample, training_batch
from heft.data.padding import padding_matters
from heft.edits.positions import Positions
from heft.reft.layout import TokenLayout, number_tokens
from heft.reft.sites import block_names
from heft.reft.streams import Streams
from heft.runtime.memory_errors import in_smaller_batches, no_room_for
from heft.training.loss import answer_loss

LAST = (1, 4, 8, 16)
"""Where groups of the prompt's last tokens end, counted from its end."""
FIRST = 4
"""Tokens of the group at the prompt's start."""
GROUPS = ("l1", "l2–4", "l5–8", "l9–16", "f1–4", "rest", "answer")
"""Every token is in one of these: of the prompt those that end it, counted from its end, and of the others the first
four and the rest."""
ROWS = 64
"""Rows of a probe, where nobody says how many."""


@dataclass(frozen=True)
class LayerProbe:
    """What gradients of zero edits say, in nats per answer token and unit of b.

    Lists have an entry for each layer; in it, one for each group of `GROUPS` where they are about groups, and else one
    for an edit of all `positions` together.

    Attributes:
        rows: how many were looked at.
        positions: of the edits by which layers are compared, as in a recipe.
        tokens: how many tokens of these rows each group has.
        edited: length of the mean over rows of the gradient, what an optimizer would see.
        edited_rows: mean over rows of the length of each row's own gradient.
        groups, groups_rows: likewise, by groups.
    """

    rows: int
    positions: str
    tokens: list[int]
    edited: list[float]
    edited_rows: list[float]
    groups: list[list[float]]
    groups_rows: list[list[float]]

    @property
    def layer_shares(self) -> list[float]:
        """Each layer's part of the sum of `edited`."""
        return _shares(self.edited)

    @property
    def agreement(self) -> list[float]:
        """How far the rows ask for the same b in a layer: 1 where all do, about 1/√rows where none agree."""
        return [a / b if b else 0.0 for a, b in zip(self.edited, self.edited_rows, strict=True)]

    @property
    def shares(self) -> list[list[float]]:
        """Each layer's and group's part of the sum of `groups`."""
        flat = iter(_shares([value for values in self.groups for value in values]))
        return [[next(flat) for _ in values] for values in self.groups]

    @property
    def group_shares(self) -> list[float]:
        """Each group's part of the sum of `groups`."""
        return [sum(column) for column in zip(*self.shares, strict=True)]

    @property
    def order(self) -> list[int]:
        """Layers, the one with the largest `edited` first."""
        return sorted(range(len(self.edited)), key=lambda layer: -self.edited[layer])

    def to_dict(self) -> dict:
        """For JSON: the attributes, the names of the groups and what follows from them."""
        follows = {"layer_shares": self.layer_shares, "agreement": self.agreement, "group_shares": self.group_shares}
        return {"group_names": list(GROUPS), **asdict(self), **follows, "order": self.order}


def _shares(values: Sequence[float]) -> list[float]:
    total = sum(values)
    return [value / total if total else 0.0 for value in values]


def sampled(rows: Sequence[EncodedExample], number: int, seed: int) -> list[EncodedExample]:
    """So many rows at random, the same for a seed; all where there are no more."""
    return list(rows) if len(rows) <= number else random.Random(seed).sample(list(rows), number)


def probe_layers(
    model: PreTrainedModel,
    rows: Sequence[EncodedExample],
    pad_id: int,
    positions: Positions,
    batch_size: int = 8,
) -> LayerProbe:
    """Run the rows forward and backward once, with a zero edit behind every block.

    The model's adapters take part as they are; no parameter gets a gradient, and nothing of the model is changed.

    Args:
        model: a causal language model, perhaps with adapters.
        rows: with answers.
        pad_id: of the tokenizer.
        positions: of the edits by which layers are compared.
        batch_size: rows of a pass; fewer where memory runs out.

    Raises:
        HeftError: memory does not suffice for a single row.
        ValueError: the model has no blocks whose hidden states could be edited.
    """
    lengths = [row.length for row in rows]
    with _as_used(model):
        equal = padding_matters(model, pad_id, max(lengths))
        batches = batches_of_like_length(lengths, batch_size, pass_tokens(model.device, trains=True), equal)
        parts = [_in_parts(model, [rows[i] for i in batch], pad_id, positions) for batch in batches]
    total = _sum(parts)
    common_LG, by_row_LG = total.gradients_LGD.norm(dim=2) / len(rows), total.norms_LG / len(rows)
    return LayerProbe(
        rows=len(rows),
        positions=str(positions),
        tokens=total.tokens_G.tolist(),
        edited=common_LG[:, -1].tolist(),
        edited_rows=by_row_LG[:, -1].tolist(),
        groups=common_LG[:, :-1].tolist(),
        groups_rows=by_row_LG[:, :-1].tolist(),
    )


class _Sums(NamedTuple):
    """Over rows, of the gradients of b and of their lengths; the last group is that of all edited tokens together."""

    gradients_LGD: torch.Tensor
    norms_LG: torch.Tensor
    tokens_G: torch.Tensor


def _sum(parts: Sequence[_Sums]) -> _Sums:
    return _Sums(*(torch.stack(tensors).sum(0) for tensors in zip(*parts, strict=True)))


def _in_parts(model: PreTrainedModel, rows: Sequence[EncodedExample], pad_id: int, positions: Positions) -> _Sums:
    """Sums over some rows, which run together, or apart where memory does not suffice."""

    def total(size: int) -> _Sums:
        return _sum([_pass(model, rows[at : at + size], pad_id, positions) for at in range(0, len(rows), size)])

    return in_smaller_batches(total, len(rows), lambda size: None, no_room_for("a single row"))


def _pass(model: PreTrainedModel, rows: Sequence[EncodedExample], pad_id: int, positions: Positions) -> _Sums:
    """One pass forward and back over some rows."""
    batch = {key: value.to(model.device) for key, value in training_batch(rows, pad_id).items()}
    layout = TokenLayout(number_tokens(batch["attention_mask"].bool()), batch["prompt_lengths"])
    groups = _groups(layout)
    groups_GBT = torch.stack([*groups, positions.edits(layout.index_BT, layout.prompt_BT, "shared")]).float()
    answers_B = torch.tensor([float(len(row.answer)) for row in rows], device=model.device)
    with torch.enable_grad(), _zero_edits(model, layout) as zeros:
        gradients = torch.autograd.grad(answer_loss(model, batch), zeros)
    found_LGBD = torch.stack(  # a row's loss is the mean over its answer's tokens
        [torch.einsum("gbt,btd->gbd", groups_GBT, each.float()) / answers_B[:, None] for each in gradients]
    )
    return _Sums(
        found_LGBD.sum(2).cpu().double(),
        found_LGBD.norm(dim=3).sum(2).cpu().double(),
        torch.stack(groups).sum((1, 2)).cpu(),
    )


def _groups(layout: TokenLayout) -> list[torch.Tensor]:
    """Bool (B, T) for each of `GROUPS`."""
    index_BT, prompt_B1 = layout.index_BT, layout.prompt_BT
    real, before = index_BT >= 0, prompt_B1 - index_BT  # 1 for the prompt's last token
    prompt, groups, start = real & (before >= 1), [], 0
    for end in LAST:
        groups.append(prompt & (before > start) & (before <= end))
        start = end
    others = prompt & (before > start)
    first = others & (index_BT < FIRST)
    return [*groups, first, others & ~first, real & (before < 1)]


@contextmanager
def _zero_edits(model: PreTrainedModel, layout: TokenLayout) -> Iterator[list[torch.Tensor]]:
    """Behind every block a zero is added to each token's hidden states; the list is filled by a pass run inside.

    It has the zeros (B, T, d) of each block, in order. Where a token has several hidden states, its zero is added to
    each of them, as an edit is.
    """
    streams, zeros = Streams.of(model.config), []
    batch, tokens = layout.index_BT.shape

    def add_zero(module: nn.Module, args: tuple, output):
        hidden = output[0] if isinstance(output, tuple | list) else output
        places = streams.places(hidden.shape, batch, tokens)
        index_N = places.of(torch.arange(batch * tokens, device=hidden.device))
        zeros.append(hidden.new_zeros(batch, tokens, streams.width, requires_grad=True))
        added = zeros[-1].view(-1, streams.width).repeat_interleave(len(index_N) // (batch * tokens), dim=0)
        edited = hidden.reshape(-1, streams.width).index_add(0, index_N, added).view_as(hidden)
        return type(output)([edited, *output[1:]]) if isinstance(output, tuple | list) else edited

    handles = [model.get_submodule(name).register_forward_hook(add_zero) for name in block_names(model)]
    try:
        yield zeros
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _as_used(model: PreTrainedModel) -> Iterator[None]:
    """In evaluation mode, so without dropout; afterwards every module is in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
