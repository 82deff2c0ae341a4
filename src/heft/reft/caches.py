"""How many columns a model's cache holds, whatever kind of cache it is.

Attention caches know their length. Recurrent ones (Mamba's and xLSTM's `cache_params`, RWKV's `state`) are a sum over
all they were fed and mostly do not, so what went into them is noted on them, where they are objects of a class.

Shapes: B rows, S columns of a cache.
"""

from dataclasses import dataclass
from typing import Any

import torch

_KEYWORDS = ("past_key_values", "cache_params", "state", "mems")
_NOTE = "_heft_seen"


@dataclass(frozen=True)
class Seen:
    """What the forward pass that last filled a cache knew.

    Attributes:
        prompt_B: length of each row's prompt in attended tokens.
        attended_BS: which of the columns are real tokens.
    """

    prompt_B: torch.Tensor
    attended_BS: torch.Tensor


def cache_of(call: dict[str, Any]) -> Any:
    """The cache among the arguments of a forward call, or None."""
    return next((call[name] for name in _KEYWORDS if call.get(name) is not None), None)


def cached_columns(cache: Any) -> int | None:
    """How many columns the cache holds; None where it is not empty and its length is unknown."""
    if cache is None or (isinstance(cache, list | tuple) and not cache):
        return 0
    if hasattr(cache, "seqlen_offset"):  # xLSTM
        return int(cache.seqlen_offset)
    if not hasattr(cache, "get_seq_length"):
        return None
    try:
        return int(cache.get_seq_length())
    except ValueError:  # transformers: "the current Cache seem to only contain LinearAttention layers"
        if not cache.has_previous_state():
            return 0
        seen = seen_by(cache)
        return None if seen is None else seen.attended_BS.shape[1]


def is_cache(value: Any) -> bool:
    """Whether this is a cache object."""
    return hasattr(value, "get_seq_length") or hasattr(value, "seqlen_offset")


def seen_by(cache: Any) -> Seen | None:
    """What was noted on the cache."""
    return getattr(cache, _NOTE, None)


def note_on(cache: Any, seen: Seen) -> None:
    """Note on a cache what it will hold after this pass; a bare list of tensors takes no note."""
    if hasattr(cache, "__dict__"):
        setattr(cache, _NOTE, seen)
