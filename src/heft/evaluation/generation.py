"""Answers that are generated: greedy, up to the task's stop strings."""

from collections.abc import Callable, Sequence

import torch
from transformers import LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from heft.data.batching import batches_of_like_length
from heft.data.encode import left_pad
from heft.evaluation.finite import FiniteLogits, explain_singular_rotation
from heft.evaluation.greedy import greedy
from heft.models.endings import text_of, until


@torch.inference_mode()
def generate_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    *,
    batch_size: int,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    answer_end: int | None = None,
    on_batch: Callable[[int], None] = lambda done: None,
) -> list[str]:
    """Greedy continuations of prompts in token ids, up to the first EOS token or stop string, both left out.

    `answer_end` is the token that answers were trained to end with (`Encoder.answer_end`); the tokenizer's EOS
    token and those of the model's generation settings end an answer in any case.

    Raises:
        HeftError: the model computes NaN or infinity.
    """
    texts = [""] * len(prompts)
    done = 0
    for indices in batches_of_like_length([len(prompt) for prompt in prompts], batch_size):
        inputs = {
            k: v.to(model.device) for k, v in left_pad([prompts[i] for i in indices], tokenizer.pad_token_id).items()
        }
        inputs.pop("position_ids")  # generate counts them from the mask itself
        watch = FiniteLogits()
        with greedy(model, tokenizer, max_new_tokens, stop, answer_end) as config, explain_singular_rotation(model):
            output = model.generate(
                **inputs,
                generation_config=config,
                logits_processor=LogitsProcessorList([watch]),
                tokenizer=tokenizer if stop else None,
            )
        watch.require_finite()
        new_tokens = output[:, inputs["input_ids"].shape[1] :]
        for i, ids in zip(indices, new_tokens, strict=True):
            texts[i] = until(text_of(tokenizer, ids, config.eos_token_id), stop)
        done += len(indices)
        on_batch(done)
    return texts
