"""Answers that are generated: greedy, up to the task's stop strings."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from heft.batching import batches_of_like_length
from heft.data import left_pad

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@torch.inference_mode()
def generate_texts(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Sequence[int]],
    *,
    batch_size: int,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    on_batch: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Greedy continuations of prompts in token ids, without the end token and anything from a stop string on."""
    texts = [""] * len(prompts)
    done = 0
    for indices in batches_of_like_length([len(prompt) for prompt in prompts], batch_size):
        inputs = {
            k: v.to(model.device) for k, v in left_pad([prompts[i] for i in indices], tokenizer.pad_token_id).items()
        }
        inputs.pop("position_ids")  # generate counts them from the mask itself
        options = {"stop_strings": list(stop), "tokenizer": tokenizer} if stop else {}
        output = model.generate(
            **inputs,
            **options,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
        new_tokens = output[:, inputs["input_ids"].shape[1] :]
        for i, ids in zip(indices, new_tokens, strict=True):
            texts[i] = _until(tokenizer.decode(ids, skip_special_tokens=True), stop)
        done += len(indices)
        on_batch(done)
    return texts


def _until(text: str, stop: Sequence[str]) -> str:
    ends = [text.find(s) for s in stop if s in text]
    return text[: min(ends)] if ends else text
