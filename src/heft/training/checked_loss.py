"""Before a stage: does the loss that computes less equal the loss that computes all, in this model, on these rows?

Fast paths rest on what most models do: plain keys and values, blocks that return (B, T, d), and so on. A model may
differ in ways that nobody has thought of, so it is tried.
"""

import math
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from heft.adapters.attach import adapter_modules
from heft.data.encode import EncodedExample, training_batch
from heft.errors import HeftError
from heft.models.equality import why_unequal
from heft.models.sharding import is_sharded, sliced_like, whole
from heft.models.verdicts import NothingTold, verdict
from heft.runtime.memory_errors import attempt
from heft.training.loss import Loss, answer_loss
from heft.training.snapshot import random_state, restore_random_state

_FEW = 4
"""Rows on which it is tried whether a stage changes what is likely behind a prompt, if need be."""
_SHAKE = 0.1
"""Spread of what is added to a trained matrix of d columns, times √d: a fresh edit is the identity wherever it is."""


def why_not_fast(
    model: PreTrainedModel, fast: Loss, plain: Loss, rows: Sequence[EncodedExample], pad_id: int, about: Hashable
) -> str | None:
    """Why the fast loss is not to be used, in words; None where it and its gradient equal the plain one's.

    Tried on the shortest and the longest row (a batch's `row_ids` are indices into `rows`), with trained weights that
    are shaken meanwhile, so that edits change something. `about` names the fast loss (heft.models.verdicts).
    """
    chosen = of_unlike_length(rows)

    def decide() -> str | None:
        return _why_unlike(model, fast, plain, rows, chosen, pad_id)

    return verdict(model, (about, tuple((tuple(rows[i].prompt), tuple(rows[i].answer)) for i in chosen)), decide)


def _why_unlike(
    model: PreTrainedModel,
    fast: Loss,
    plain: Loss,
    rows: Sequence[EncodedExample],
    chosen: Sequence[int],
    pad_id: int,
) -> str | None:
    """As `why_not_fast`, tried on the chosen rows.

    Raises:
        NothingTold: there is no memory for the plain loss, which halves its batches in training only; or it is not
            finite.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    together = [_batch(model, [rows[i] for i in chosen], chosen, pad_id)]
    alone = [_batch(model, [rows[i]], [i], pad_id) for i in chosen]
    with shaken(model, trained), torch.enable_grad():
        tried = attempt(lambda: [_loss_and_gradient(model, plain, trained, batches) for batches in (alone, together)])
        if tried is None or not all(map(math.isfinite, tried[0][0] + tried[0][1])):
            raise NothingTold
        return why_unequal(lambda: _loss_and_gradient(model, fast, trained, together), *tried[0], model.dtype)


def require_an_effect(model: PreTrainedModel, name: str, rows: Sequence[EncodedExample], pad_id: int) -> None:
    """Check that the answers depend on what a stage trains, tried on short rows with shaken weights.

    With other answers than the rows' own: of those a model may be so certain that no gradient is left.

    Raises:
        HeftError: no weight that trains would get a gradient other than 0.
    """
    trained = [p for p in model.parameters() if p.requires_grad]

    def has_effect(number: int) -> bool:
        row = replace(rows[number], answer=other_answer(rows[number]))
        value = answer_loss(model, _batch(model, [row], [number], pad_id))
        return value.requires_grad and moves(gradients_of(value, model, trained))

    with shaken(model, trained), torch.enable_grad():
        found = attempt(lambda: any(map(has_effect, shortest_of(rows))))  # training halves its batches
    if found == (False,):
        raise no_effect(f"stage {name}")


def moves(gradients: Sequence[torch.Tensor | None]) -> bool:
    """Whether one of these is not 0 throughout."""
    return any(bool(whole(g.double().norm()) != 0) for g in gradients if g is not None)


def no_effect(what: str) -> HeftError:
    """The error for a stage or a configuration that changes no answer."""
    return HeftError(
        f"{what} trains nothing that the answers depend on: no weight of it gets a gradient. Choose other layers,"
        " positions or targets"
    )


def shortest_of(rows: Sequence[EncodedExample]) -> list[int]:
    """Indices of a few short rows."""
    return sorted(range(len(rows)), key=lambda i: rows[i].length)[:_FEW]


def other_answer(row: EncodedExample) -> tuple[int, ...]:
    """Ids of an answer that a model does not expect: the prompt's first token."""
    return row.prompt[:1]


@torch.no_grad()
def draws_random_numbers(model: PreTrainedModel, rows: Sequence[EncodedExample], pad_id: int) -> bool:
    """Whether the base model itself draws random numbers in training, as seen on the shortest row; adapters aside."""
    batch = _batch(model, [rows[of_unlike_length(rows)[0]]], [0], pad_id)
    was_training, before = model.training, random_state()
    model.train()
    for name in model.peft_config:
        for module in adapter_modules(model, name):
            module.eval()
    try:
        answer_loss(model, batch)
        after = random_state()
    finally:
        restore_random_state(before)
        model.train(was_training)
    return any(not torch.equal(before[key], after[key]) for key in before.keys() & {"torch", "cuda"})


def longest_of(rows: Sequence[EncodedExample]) -> int:
    """Tokens of the longest row, prompt and answer."""
    return max(row.length for row in rows)


def of_unlike_length(rows: Sequence[EncodedExample]) -> list[int]:
    """Indices of the shortest and of the longest row."""
    order = sorted(range(len(rows)), key=lambda i: rows[i].length)
    return [order[0], order[-1]] if len(order) > 1 else order


def _loss_and_gradient(model, loss: Loss, trained: Sequence[torch.Tensor], batches: Sequence[dict]) -> list[float]:
    """The loss of all batches, and the norm of its gradient."""
    total = sum(loss(model, batch) for batch in batches)
    norms = [whole(g.double().norm()) for g in gradients_of(total, model, trained) if g is not None]
    return [total.item(), torch.stack(norms).norm().item()]


def gradients_of(
    loss: torch.Tensor, model: torch.nn.Module, parameters: Sequence[torch.Tensor]
) -> list[torch.Tensor | None]:
    """Gradients of a loss, None where it does not depend on a parameter; those of slices are slices."""
    if not is_sharded(model):  # a slice's gradient is sent to it in a backward pass only
        return list(torch.autograd.grad(loss, parameters, allow_unused=True))
    loss.backward()
    found = [parameter.grad for parameter in parameters]
    for parameter in parameters:
        parameter.grad = None
    return found


def _batch(model: PreTrainedModel, rows: list[EncodedExample], numbers: list[int], pad_id: int) -> dict:
    batch = training_batch(rows, pad_id) | {"row_ids": torch.tensor(numbers)}
    return {key: value.to(model.device) for key, value in batch.items()}


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def shaken(model: PreTrainedModel, trained: Sequence[torch.nn.Parameter]) -> Iterator[None]:
    """Inside, trained weights are others, the same at every call; afterwards they are what they were, to the bit."""
    before = [p.detach().clone() for p in trained]
    numbers = torch.Generator().manual_seed(0)
    with _evaluating(model):
        try:
            with torch.no_grad():
                for parameter in trained:
                    noise = torch.randn(parameter.shape, generator=numbers) * _SHAKE * parameter.shape[-1] ** -0.5
                    parameter.add_(sliced_like(noise.to(parameter.device, parameter.dtype), parameter))
            yield
        finally:
            with torch.no_grad():
                for parameter, values in zip(trained, before, strict=True):
                    parameter.copy_(values)
