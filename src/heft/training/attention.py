"""Attention while a stage trains: where one implementation is slow or wrong backward, another of the same.

On a GPU, torch's scaled_dot_product_attention may take cuDNN's kernel, whose backward pass gives NaN for some lengths
with a mask (pytorch/pytorch#196678; on an H100 with torch 2.11 BoolQ's step 48 met it). Its other kernels do not.

On a CPU it is slow in bfloat16, above all backward, while plain products run in the processor's bfloat16 units: for 24
rows of 41 tokens a layer of SmolLM2 took 27.6 ms forward and backward, eager 3.9 ms; for 8 of 160, 35 and 13 ms; for 2
of 512, 48 and 29 ms; for 1 of 1,536, 161 and 281 ms (one core of an EPYC with AVX512-BF16). In float32 the two are
alike. eager stores the scores of every pair of tokens, so it is used for short rows only.

Passes on cached prefixes have an attention of their own (heft.models.prefix_attention), wherever it computes the same.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from heft.data.encode import EncodedExample
from heft.models.forward import attention_of
from heft.training.checked_loss import longest_of

LONGEST_EAGER = 512
"""Tokens of the longest row up to which eager attention is used."""
SOUND_BACKWARD = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
"""The kernels that scaled_dot_product_attention may choose from while a stage trains on a GPU."""


@contextmanager
def attention_for_training(model: PreTrainedModel, asked: str, rows: Sequence[EncodedExample]) -> Iterator[None]:
    """Meanwhile the model uses the faster of two attention implementations that compute the same; afterwards its own.

    `asked` is model.attention of the recipe, where anything but "auto" stays as chosen.
    """
    if not trains_eager(model, model.device, asked, rows):
        with sdpa_kernel(SOUND_BACKWARD) if model.device.type == "cuda" else nullcontext():
            yield
        return
    before = attention_of(model)
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def trains_eager(model: PreTrainedModel, device: torch.device, asked: str, rows: Sequence[EncodedExample]) -> bool:
    """Whether eager attention replaces sdpa while a model, or one like this skeleton, trains on a device."""
    return attention_of(model) == "sdpa" and is_slow_in_sdpa(device, model.dtype, asked, rows)


def is_slow_in_sdpa(device: torch.device, dtype: torch.dtype, asked: str, rows: Sequence[EncodedExample]) -> bool:
    """Whether a model with sdpa trains faster with eager attention, and may have it."""
    is_slow = device.type == "cpu" and dtype == torch.bfloat16
    return asked == "auto" and is_slow and longest_of(rows) <= LONGEST_EAGER


def reads_in_place(model: PreTrainedModel, asked: str) -> bool:
    """Whether cached prefixes are read where they lie (heft.models.prefix_attention) while a model trains."""
    return asked == "auto" and attention_of(model) in ("sdpa", "eager")
