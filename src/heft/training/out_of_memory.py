"""Training passes that run out of memory: repeated in smaller micro-batches, with the same loss and gradients."""

from collections.abc import Callable, Sequence

import torch

from heft.data.batching import select_rows
from heft.runtime.memory_errors import attempt, in_smaller_batches, no_room_for
from heft.training.snapshot import random_state, restore_random_state

Batch = dict[str, torch.Tensor]


def in_micro_batches(
    run: Callable[[Batch], torch.Tensor],
    batch: Batch,
    micro_batch_size: int,
    on_halved: Callable[[int], None],
    parameters: Sequence[torch.Tensor] = (),
) -> torch.Tensor:
    """The sum over a batch's rows, computed in micro-batches; in smaller ones whenever memory runs out.

    A failed attempt may have accumulated some gradients and has drawn random numbers. Both are restored, so that the
    result is the one of this micro-batch size from the start.

    Args:
        run: returns the sum over some rows; it may run backward too.
        batch: the rows, as from `heft.data.encode.training_batch`.
        micro_batch_size: rows that run together, to begin with.
        on_halved: called with the new micro-batch size when memory ran out.
        parameters: those that `run` adds gradients to.

    Raises:
        HeftError: memory does not suffice for a single row.
    """
    rows = len(batch["input_ids"])
    gradients = [None if p.grad is None else p.grad.clone() for p in parameters]
    random = random_state()

    def total(size: int) -> torch.Tensor:
        sums = [run(select_rows(batch, slice(start, start + size))) for start in range(0, rows, size)]
        return torch.stack(sums).sum()

    def undo() -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = None if gradient is None else gradient.clone()
        restore_random_state(random)

    no_room = no_room_for("a single row", "set gradient_checkpointing: true")
    return in_smaller_batches(total, min(rows, micro_batch_size), on_halved, no_room, undo)


def in_halves(run: Callable[[Sequence[int]], None], rows: Sequence[int]) -> None:
    """Run all rows at once, or in halves where memory does not suffice for that, and these in halves again.

    Raises:
        RuntimeError: memory does not suffice for a single row.
    """
    if len(rows) == 1:
        run(rows)
    elif attempt(lambda: run(rows)) is None:
        middle = len(rows) // 2
        in_halves(run, rows[:middle])
        in_halves(run, rows[middle:])
