"""Greedy generation as heft means it, whatever a base's generation_config.json says."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from transformers import GenerationConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@contextmanager
def greedy(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    max_new_tokens: int,
    stop: Sequence[str] = (),
    **options: object,
) -> Iterator[GenerationConfig]:
    """The configuration to call `model.generate` with; `options` are more entries of it.

    transformers fills what the configuration that it is handed leaves open from the model's own: beams, penalties,
    tokens never to be given. So the model's own is put away meanwhile.
    """
    own = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            stop_strings=list(stop) or None,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            **options,
        )
    finally:
        model.generation_config = own
