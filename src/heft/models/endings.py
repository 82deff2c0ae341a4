"""Where a generated answer ends, and what text its tokens are."""

from collections.abc import Iterable, Sequence

from transformers import GenerationConfig, PreTrainedTokenizerBase


def end_tokens(
    tokenizer: PreTrainedTokenizerBase, generation_config: GenerationConfig | None, *more: int | None
) -> list[int]:
    """Every EOS token: the tokenizer's, all that a model's own generation settings name, and `more`; ascending.

    A model may end its turns with another token than its tokenizer's EOS (Gemma, Llama 3, Qwen).
    """
    own = getattr(generation_config, "eos_token_id", None)
    own = [] if own is None else [own] if isinstance(own, int) else list(own)
    return sorted({token for token in (tokenizer.eos_token_id, *own, *more) if token is not None and token >= 0})


def text_of(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], ends: Iterable[int], special_tokens: bool = True
) -> str:
    """The text of generated tokens up to the first end token.

    BOS, padding and unknown tokens are no text; other special tokens are with `special_tokens`, since they may be
    answers.
    """
    ends, none, left = set(ends), no_text(tokenizer), []
    for token in map(int, ids):
        if token in ends:
            break
        if token not in none:
            left.append(token)
    return tokenizer.decode(left, skip_special_tokens=not special_tokens)


def no_text(tokenizer: PreTrainedTokenizerBase) -> set[int | None]:
    """Tokens that are no text: BOS, padding and unknown ones."""
    return {tokenizer.bos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id}


def until(text: str, stop: Sequence[str]) -> str:
    """A text up to the first of the stop strings in it."""
    ends = [text.find(s) for s in stop if s in text]
    return text[: min(ends)] if ends else text
