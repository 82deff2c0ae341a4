"""Which layers and tokens an edit could move the loss at: gradients of zero edits, in one pass forward and back.

An identity edit, h + Wh + b with W = 0 and b = 0, stands behind every block and on every token. Its gradient says how
far the loss falls, to first order, for a small step of each edit alone; all of them come from one backward pass, since
an edit of zero changes nothing that the others see. An identity LoReFT edit of rank r gets the same gradient times its
R, whose rows are a random r of d directions: (r/d)½ of the norm, on average, in every layer alike.

What it cannot say: how far the loss falls in more than a first step, what several layers do together, and what an edit
of another site (attention, MLP) would do.

Shapes: B rows, T tokens, d hidden size, G groups of tokens, L layers.
"""

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

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
GROUPS = ("last 1", "last 2–4", "last 5–8", "last 9–16", "first 4", "between", "answer")
"""Every token is in one of these; in a short prompt the last ones are taken first."""
ROWS = 64
"""Rows of a probe, where nobody says how many."""


@dataclass(frozen=True)
class LayerProbe:
    """What gradients of zero edits say.

    Norms are means over rows, so that no single row decides, in nats per answer token and unit of an edit's weights.

    Attributes:
        rows: how many were looked at.
        layers: how many blocks the model has.
        norms: of each layer (L) and group of `GROUPS` (G), the gradient of W and b.
        positions: of the edits that `edited` is about, as in a recipe.
        edited: of each layer, the gradient of one edit's W and b on all of these positions.
        tokens: how many tokens each group has in these rows.
    """

    rows: int
    layers: int
    norms: list[list[float]]
    positions: str
    edited: list[float]
    tokens: list[int] = field(default_factory=list)

    @property
    def layer_shares(self) -> list[float]:
        """Each layer's part of the sum of `edited` over layers."""
        return _shares(self.edited)

    @property
    def group_shares(self) -> list[float]:
        """Each group's part of the sum of `norms` over layers and groups."""
        return _shares([sum(column) for column in zip(*self.norms, strict=True)])

    @property
    def order(self) -> list[int]:
        """Layers, the one with the largest gradient first."""
        return sorted(range(self.layers), key=lambda layer: -self.edited[layer])


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
    total, count = None, torch.zeros(len(GROUPS), dtype=torch.long)
    with _as_used(model):
        equal = padding_matters(model, pad_id, max(lengths))
        batches = batches_of_like_length(lengths, batch_size, pass_tokens(model.device, trains=True), equal)
        for batch in batches:
            norms_LG, tokens_G = _in_parts(model, [rows[i] for i in batch], pad_id, positions)
            total = norms_LG if total is None else total + norms_LG
            count += tokens_G
    mean_LG = total / len(rows)
    return LayerProbe(
        rows=len(rows),
        layers=len(mean_LG),
        norms=mean_LG[:, :-1].tolist(),
        positions=str(positions),
        edited=mean_LG[:, -1].tolist(),
        tokens=count.tolist(),
    )


def _in_parts(
    model: PreTrainedModel, rows: Sequence[EncodedExample], pad_id: int, positions: Positions
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums over some rows, which run together, or apart where memory does not suffice."""

    def total(size: int) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [_pass(model, rows[at : at + size], pad_id, positions) for at in range(0, len(rows), size)]
        norms, tokens = zip(*parts, strict=True)
        return torch.stack(norms).sum(0), torch.stack(tokens).sum(0)

    no_room = no_room_for("a single row", "use a smaller model, or shorter rows (task.max_length)")
    return in_smaller_batches(total, len(rows), lambda size: None, no_room, lambda: None)


def _pass(
    model: PreTrainedModel, rows: Sequence[EncodedExample], pad_id: int, positions: Positions
) -> tuple[torch.Tensor, torch.Tensor]:
    """Sums over rows of norms (L, G + 1), the last column of all edited tokens together; tokens of each group (G,)."""
    batch = {key: value.to(model.device) for key, value in training_batch(rows, pad_id).items()}
    layout = TokenLayout(number_tokens(batch["attention_mask"].bool()), batch["prompt_lengths"])
    groups_GBT = torch.stack([*_groups(layout), positions.edits(layout.index_BT, layout.prompt_BT, "shared")])
    answers_B = torch.tensor([float(len(row.answer)) for row in rows], device=model.device)
    with torch.enable_grad(), _zero_edits(model, layout) as edits:
        loss = answer_loss(model, batch)
        gradients = torch.autograd.grad(loss, [zero for _, zero in edits])
    norms_LG = torch.stack(
        [
            (edit_norms(gradient, hidden, groups_GBT) / answers_B).sum(1).double().cpu()
            for (hidden, _), gradient in zip(edits, gradients, strict=True)
        ]
    )
    return norms_LG, groups_GBT[:-1].sum((1, 2)).cpu()


def edit_norms(gradient: torch.Tensor, hidden: torch.Tensor, groups_GBT: torch.Tensor) -> torch.Tensor:
    """‖Σ_t g_t [h_t, 1]ᵀ‖ over a group's tokens t: the norm of the gradient of W and b of one edit Wh + b of these.

    It is computed from products between tokens, (g_s·g_t)(h_s·h_t + 1), since W itself has d × d numbers.

    Args:
        gradient: (B, T·s, d) of the loss with respect to the hidden states, s of a token where it has several.
        hidden: likewise, the hidden states.
        groups_GBT: which tokens are in a group; may overlap.

    Returns:
        (G, B), float32.
    """
    streams = gradient.shape[1] // groups_GBT.shape[2]
    member_GBT = groups_GBT.float().repeat_interleave(streams, dim=2)
    gradient, hidden = gradient.float(), hidden.float()
    products_BTT = (gradient @ gradient.mT) * (hidden @ hidden.mT + 1)
    squared_GB = torch.einsum("gbs,bst,gbt->gb", member_GBT, products_BTT, member_GBT)
    return squared_GB.clamp(min=0).sqrt()


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
def _zero_edits(model: PreTrainedModel, layout: TokenLayout) -> Iterator[list[tuple[torch.Tensor, torch.Tensor]]]:
    """Behind every block a zero is added to the hidden states of all tokens; filled by a pass run inside.

    The list has of each block, in order, the hidden states and the zeros, both (B, T·s, d).
    """
    streams, edits = Streams.of(model.config), []

    def add_zero(module: nn.Module, args: tuple, output):
        hidden = output[0] if isinstance(output, tuple | list) else output
        batch, tokens = layout.index_BT.shape
        places = streams.places(hidden.shape, batch, tokens)
        index_N = places.of(torch.arange(batch * tokens, device=hidden.device))
        flat_MD = hidden.reshape(-1, streams.width)
        before = flat_MD[index_N].view(batch, -1, streams.width)
        zero = torch.zeros_like(before, requires_grad=True)
        edits.append((before.detach(), zero))
        edited = flat_MD.index_add(0, index_N, zero.view(-1, streams.width)).view_as(hidden)
        return type(output)([edited, *output[1:]]) if isinstance(output, tuple | list) else edited

    handles = [model.get_submodule(name).register_forward_hook(add_zero) for name in block_names(model)]
    try:
        yield edits
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
