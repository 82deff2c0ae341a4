"""What is done when a device's memory runs out: the same work in smaller batches."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from heft.errors import HeftError

_FURTHER_WORDS = ("CUDA out of memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
"""Of messages that accelerate does not know: those of the driver and of cuBLAS, cuDNN and their like."""

_Result = TypeVar("_Result")


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory did not suffice, which smaller batches may mend."""
    if isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _FURTHER_WORDS)


def attempt(run: Callable[[], _Result]) -> tuple[_Result] | None:
    """What `run` returns, in a tuple; None where memory ran out, which is then free of what the attempt allocated."""
    try:
        return (run(),)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    clear_device_cache()  # here, where the error's traceback holds on to nothing
    return None


def in_smaller_batches(
    run: Callable[[int], _Result],
    batch_size: int,
    on_halved: Callable[[int], None],
    no_room: HeftError,
    undo: Callable[[], None] = lambda: None,
) -> _Result:
    """Run with this batch size, and again with half of it whenever memory runs out.

    Args:
        run: called with a batch size; called again, it begins from the start.
        batch_size: to begin with.
        on_halved: called with the new batch size each time.
        no_room: raised when memory does not suffice for a batch of one.
        undo: called after a failed attempt, to restore what that has changed.
    """
    while (result := attempt(partial(run, batch_size))) is None:
        undo()
        if batch_size == 1:
            raise no_room
        batch_size //= 2
        on_halved(batch_size)
    return result[0]


def no_room_for(what: str, *ways_out: str) -> HeftError:
    """The error of memory that does not suffice for `what`, the smallest batch; `ways_out` are further advice."""
    advice = ["lower task.max_length", *ways_out]
    return HeftError(
        f"the device's memory does not suffice for {what}; {', '.join(advice)}, or quantize the base model"
        " (model.quantization: 4bit)"
    )
