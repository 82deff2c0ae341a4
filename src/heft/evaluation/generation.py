"""Answers that are generated: greedy or sampled, up to the task's stop strings."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
)

from heft.data.batching import batches_of_like_length
from heft.data.encode import left_pad
from heft.evaluation.finite import FiniteLogits, explain_singular_rotation
from heft.models.endings import end_tokens, text_of, until

LEAST_TEMPERATURE = 1e-30
"""A smaller one may be 0 in float32, and logits over it infinite or NaN; at this one the likeliest token alone is left.
"""


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, where not the likeliest is taken.

    Attributes:
        temperature: logits are divided by it; above 0.
        top_p: only the likeliest tokens, up to this probability together, are drawn from.
        seed: of the draws.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0

    @property
    def options(self) -> dict[str, object]:
        """As transformers' `GenerationConfig` has them; its own default of 50 for top_k is off."""
        temperature = max(self.temperature, LEAST_TEMPERATURE)
        return {"do_sample": True, "temperature": temperature, "top_p": self.top_p, "top_k": 0}


class _StopBehindPrompt(StoppingCriteria):
    """Ends a text at a stop string in it; one that begins in the prompt is none.

    Shapes: B rows, T tokens.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], prompt: int):
        self._stop, self._prompt = StopStringCriteria(tokenizer, list(stop)), prompt

    def __call__(self, ids_BT: torch.Tensor, scores: object, **kwargs) -> torch.Tensor:
        return self._stop(ids_BT[:, self._prompt :], scores, **kwargs)


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
    on_cut: Callable[[int], None] = lambda index: None,
    sampling: Sampling | None = None,
    options: Mapping[str, object] | None = None,
    special_tokens: bool = True,
) -> list[str]:
    """Continuations of prompts in token ids, up to the first EOS token or stop string, both left out.

    `options` are further entries of a `GenerationConfig`; what they draw is drawn from torch's own generator, as it
    stands. Without `special_tokens` none of the tokenizer's is text (`heft.models.endings.text_of`).

    They are greedy without `sampling`. `answer_end` is the token that answers were trained to end with
    (`Encoder.answer_end`); the tokenizer's EOS token and those of the model's generation settings end an answer in any
    case. `on_cut` hears the index of each prompt whose text reached `max_new_tokens` before an end.

    Raises:
        HeftError: the model computes NaN or infinity.
    """
    options = {**(options or {}), **({} if sampling is None else sampling.options)}
    texts = [""] * len(prompts)
    done = 0
    with _seeded(sampling):
        for indices in batches_of_like_length([len(prompt) for prompt in prompts], batch_size):
            inputs = left_pad([prompts[i] for i in indices], tokenizer.pad_token_id, model.device)
            inputs.pop("position_ids")  # generate counts them from the mask itself
            watch, width = FiniteLogits(), inputs["input_ids"].shape[1]
            stops = [_StopBehindPrompt(tokenizer, stop, width)] if stop else []
            settings = greedy(model, tokenizer, max_new_tokens, answer_end, **options)
            with settings as config, explain_singular_rotation(model):
                output = model.generate(
                    **inputs,
                    generation_config=config,
                    logits_processor=LogitsProcessorList([watch]),
                    stopping_criteria=StoppingCriteriaList(stops),
                )
            watch.require_finite()
            new_tokens = output[:, width:]
            for i, ids in zip(indices, new_tokens, strict=True):
                whole = text_of(tokenizer, ids, config.eos_token_id, special_tokens)
                texts[i] = until(whole, stop)
                ended = set(ids.tolist()) & set(config.eos_token_id) or texts[i] != whole
                if len(ids) >= max_new_tokens and not ended:
                    on_cut(i)
            done += len(indices)
            on_batch(done)
    return texts


@contextmanager
def _seeded(sampling: Sampling | None) -> Iterator[None]:
    """Around draws of tokens, which do not disturb the random numbers of what comes after."""
    if sampling is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(sampling.seed)
        yield


@contextmanager
def greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
    answer_end: int | None = None,
    **options: object,
) -> Iterator[GenerationConfig]:
    """The configuration to call `model.generate` with; `options` are more entries of it.

    Every EOS token ends a text (`end_tokens`), and `answer_end`, with which answers may have been trained.

    transformers fills what the configuration that it is handed leaves open from the model's own: beams, penalties,
    tokens never to be given. So the model's own is put away meanwhile; of it only the EOS tokens count.
    """
    own = model.generation_config
    ends = end_tokens(tokenizer, own, answer_end)
    model.generation_config = GenerationConfig()
    try:
        values = {
            "do_sample": False,
            "num_beams": 1,
            "max_new_tokens": max_new_tokens,
            "pad_token_id": tokenizer.pad_token_id,
            "eos_token_id": ends,
        }
        yield GenerationConfig(**(values | options))
    finally:
        model.generation_config = own
