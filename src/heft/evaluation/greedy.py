"""Greedy generation as heft means it, whatever a base's generation_config.json says."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from heft.models.endings import end_tokens


@contextmanager
def greedy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
    stop: Sequence[str] = (),
    answer_end: int | None = None,
    **options: object,
) -> Iterator[GenerationConfig]:
    """The configuration to call `model.generate` with; `options` are more entries of it.

    Every EOS token ends a text (`end_tokens`), and `answer_end`, with which answers may have been trained.

    transformers fills what the configuration that it is handed leaves open from the model's own: beams, penalties,
    tokens never to be given. So the model's own is put away meanwhile; of it only the EOS tokens count.
    """
    own = model.generation_config
    ends = end_tokens(tokenizer, own, *(() if answer_end is None else (answer_end,)))
    model.generation_config = GenerationConfig()
    try:
        yield GenerationConfig(
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            stop_strings=list(stop) or None,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=ends,
            **options,
        )
    finally:
        model.generation_config = own
