"""Errors that say that a device's memory ran out."""

import torch
from accelerate.utils.memory import should_reduce_batch_size

_FURTHER_WORDS = ("CUDA out of memory", "CUDA error: out of memory", "STATUS_ALLOC_FAILED")
"""Of messages that accelerate does not know: those of the driver and of cuBLAS, cuDNN and their like."""


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error says that memory did not suffice, which fewer rows may mend."""
    if isinstance(error, torch.OutOfMemoryError) or should_reduce_batch_size(error):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _FURTHER_WORDS)
