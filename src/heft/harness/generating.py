"""The harness's `generation_kwargs` as heft's generation takes them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lm_eval.models.utils import normalize_gen_kwargs
from transformers import GenerationConfig

from heft.errors import HeftError
from heft.text.listing import suggest

MAX_GEN_TOKS = 256
"""Tokens to generate where a task does not say, as in the harness's HFLM."""
_NOT_TAKEN = (
    "max_length",
    "stop_strings",
    "num_return_sequences",
    "eos_token_id",
    "pad_token_id",
    "return_dict_in_generate",
)
"""Entries of a GenerationConfig that heft sets itself, or that would change what comes back."""


@dataclass(frozen=True)
class Decoding:
    """How requests are answered.

    Attributes:
        stop: strings that end a text; without them, where the model ends it.
        max_new_tokens: most tokens of a text.
        options: further entries of a GenerationConfig.
    """

    stop: tuple[str, ...]
    max_new_tokens: int
    options: dict[str, Any] = field(default_factory=dict)


def decoding_of(gen_kwargs: Mapping[str, Any]) -> Decoding:
    """Read a request's `generation_kwargs`: `until`, `max_gen_toks`, and what a `GenerationConfig` takes.

    Greedy unless `do_sample` or a temperature above 0 asks for draws, by the harness's own rule.

    Raises:
        HeftError: it has something else, or something that heft sets itself.
    """
    values = dict(normalize_gen_kwargs(dict(gen_kwargs), MAX_GEN_TOKS))
    stop, most = values.pop("until"), values.pop("max_gen_toks")
    faults = []
    if not all(isinstance(text, str) for text in stop):
        faults.append(f"until must be a text or a list of texts; got {stop!r}")
    if most < 1:
        faults.append(f"max_gen_toks must be at least 1; got {most}")
    known = [name for name in vars(GenerationConfig()) if not name.startswith("_") and name not in _NOT_TAKEN]
    for name in values:
        if name in _NOT_TAKEN:
            faults.append(f"{name} is not taken; lengths are set by max_gen_toks, ends by until")
        elif name not in known:
            faults.append(f"{name!r} is no entry of transformers' GenerationConfig{suggest(name, known)}")
    if values["do_sample"] and not float(values.get("temperature", 1.0)) > 0:
        faults.append("do_sample needs a temperature above 0")
    if faults:
        raise HeftError(f"generation_kwargs: {'; '.join(faults)}")
    if not values["do_sample"]:
        values.pop("temperature", None)
    return Decoding(tuple(text for text in stop if text), most, values)
