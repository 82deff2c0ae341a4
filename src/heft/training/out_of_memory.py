"""What is done when a device's memory runs out: the same work in passes of fewer rows."""

from collections.abc import Callable, Sequence

import torch
from accelerate.utils.memory import clear_device_cache

from heft.data.batching import select_rows
from heft.errors import HeftError
from heft.runtime.memory_errors import is_out_of_memory
from heft.training.snapshot import random_state, restore_random_state


def in_micro_batches(
    run: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    batch: dict[str, torch.Tensor],
    pieces: int,
    halved: Callable[[int], None],
    undo: Callable[[], None] = lambda: None,
) -> tuple[torch.Tensor, int]:
    """A sum over a batch's rows in pieces, in more of them whenever memory runs out.

    Args:
        run: gives the sum over some rows.
        batch: the rows.
        pieces: to begin with.
        halved: is told the rows of a pass whenever it is halved.
        undo: takes back what a failed attempt may have left.

    Returns:
        The sum, and how many pieces it took.

    Raises:
        HeftError: memory does not suffice for a single row.
    """
    rows = len(batch["input_ids"])
    while True:
        size = -(-rows // pieces)
        try:
            parts = [run(select_rows(batch, slice(at, at + size))) for at in range(0, rows, size)]
            return torch.stack(parts).sum(), pieces
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        undo()  # here, where nothing holds on to the failed attempt
        if size == 1:
            raise HeftError(
                "the device's memory does not suffice for a single row; lower task.max_length, set"
                " gradient_checkpointing: true, or quantise the base model (model.quantization: 4bit)"
            )
        clear_device_cache()
        pieces = -(-rows // (size // 2))
        halved(size // 2)


def backward_in_micro_batches(
    step: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    batch: dict[str, torch.Tensor],
    parameters: Sequence[torch.Tensor],
    pieces: int,
    halved: Callable[[int], None],
) -> tuple[torch.Tensor, int]:
    """`in_micro_batches` for a forward and backward pass, whose loss is a sum over rows: the pieces' gradients add up.

    An attempt that fails may have left a part of its gradients, and has drawn random numbers. Both are put back to what
    they were before it, so that the step is the one it would have been in so many pieces from the start.

    Args:
        step: forward and backward pass over rows; gives their part of the loss.
        batch, pieces, halved: see `in_micro_batches`.
        parameters: that train.
    """
    gradients = [None if p.grad is None else p.grad.clone() for p in parameters]
    random = random_state()

    def undo() -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = None if gradient is None else gradient.clone()
        restore_random_state(random)

    return in_micro_batches(step, batch, pieces, halved, undo)


def in_halves(run: Callable[[Sequence[int]], None], rows: Sequence[int]) -> None:
    """Run all rows at once, or in halves where memory does not suffice for that, and these in halves again.

    Raises:
        RuntimeError: memory does not suffice for a single row.
    """
    try:
        run(rows)
        return
    except RuntimeError as error:
        if len(rows) == 1 or not is_out_of_memory(error):
            raise
    clear_device_cache()  # here, where nothing holds on to the failed attempt
    middle = len(rows) // 2
    in_halves(run, rows[:middle])
    in_halves(run, rows[middle:])
