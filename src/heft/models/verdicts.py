"""Whether a fast path is right, asked once for many trainings of one kind.

A fast path is tried before it is taken, on the model as it is then. Trials of a search differ in rates, seeds, ranks
and lengths, which make no path right or wrong, so what was found for one holds for the others.
"""

import json
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from peft import PeftConfig
from transformers import PreTrainedModel

_SIZES = {"r", "rank", "lora_alpha", "inference_mode"}
"""Settings of an adapter that change how large its matrices are, or by how much they count."""


class NothingTold(Exception):
    """The plain path gives nothing to compare with: no memory for it, or it is not finite."""


@dataclass
class Verdicts:
    """On one model.

    Attributes:
        found: by the path and the rows, and what the model's adapters are.
        seconds: what finding them took.
    """

    found: dict[Hashable, str | None] = field(default_factory=dict)
    seconds: float = 0.0


_verdicts: ContextVar[Verdicts | None] = ContextVar("verdicts", default=None)


@contextmanager
def remembered(verdicts: Verdicts) -> Iterator[None]:
    """Inside, verdicts are taken from here, and kept here."""
    token = _verdicts.set(verdicts)
    try:
        yield
    finally:
        _verdicts.reset(token)


def verdict(model: PreTrainedModel, about: Hashable, decide: Callable[[], str | None]) -> str | None:
    """Why a fast path is not to be taken, in words; None where it is right, or nothing can be told.

    Args:
        about: the fast path, and the rows on which it is tried.
        decide: tries it; raises NothingTold where it cannot, which is not remembered.
    """
    known, key = _verdicts.get(), None
    if known is not None:
        key = (about, kind_of(model))
        if key in known.found:
            return known.found[key]
    started = time.perf_counter()
    try:
        found = decide()
    except NothingTold:
        return None
    finally:
        if known is not None:
            known.seconds += time.perf_counter() - started
    if known is not None:
        known.found[key] = found
    return found


def kind_of(model: PreTrainedModel) -> Hashable:
    """What about a model and its adapters may make a path right or wrong; sizes of adapters do not."""
    adapters = [(name, _in_words(config)) for name, config in getattr(model, "peft_config", {}).items()]
    trained = tuple(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    return (id(model), model.dtype, model.config._attn_implementation, tuple(adapters), trained)


def _in_words(config: PeftConfig) -> str:
    values = {key: value for key, value in config.to_dict().items() if key not in _SIZES}
    return json.dumps(values, default=lambda value: sorted(value) if isinstance(value, set) else str(value))
