"""What the engine is asked, and what it says in reply. No HTTP here: a plugin for another engine can share it."""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from heft.errors import HeftError
from heft.runtime.memory_errors import is_out_of_memory
from heft.serving.catalog import Served

_SERIAL = itertools.count()


@dataclass(frozen=True)
class Chosen:
    """One token with its log-probability.

    Attributes:
        token: its id.
        log_probability: natural logarithm, of the model's own distribution (temperature 1, all tokens).
        top: the likeliest tokens there with theirs, likeliest first; as many as were asked for.
    """

    token: int
    log_probability: float
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class Piece:
    """More of a generated text: what can be shown already, and the tokens since the last piece."""

    text: str
    tokens: tuple[Chosen, ...]


@dataclass(frozen=True)
class Finished:
    """The end: `reason` is "stop" or "length" for a text; `scores` has the tokens of each scored continuation."""

    reason: str = "stop"
    scores: tuple[tuple[Chosen, ...], ...] = ()


@dataclass(frozen=True)
class Failed:
    """There is no result. `kind`: "timeout", "stopped" (the server ends), "input" or "defect"."""

    message: str
    kind: str = "defect"


Event = Piece | Finished | Failed


def failure_of(error: Exception) -> Failed:
    """An error as the end of a request."""
    if is_out_of_memory(error):
        return Failed(
            "memory did not suffice for the batch; ask for fewer tokens, or start the server with --batch", "memory"
        )
    if isinstance(error, HeftError):
        return Failed(str(error), "input")
    return Failed(f"{type(error).__name__}: {error}")


@dataclass(eq=False, kw_only=True)
class Work:
    """One request to the engine.

    Attributes:
        served: the model that is asked.
        prompt: token ids.
        prompt_length: from which positions count; None for all of `prompt`. Less where the rest of it is a continuation
            already, more where scored continuations begin within the prompt itself (its own log-probabilities).
        tell: hears of every event, in the engine's thread; after `Finished` or `Failed` of none.
        seconds: that it may take, waiting included.
        top: how many of the likeliest tokens are to be named at each place; None where no log-probability is wanted.
    """

    served: Served
    prompt: tuple[int, ...]
    prompt_length: int | None = None
    tell: Callable[[Event], None] = lambda event: None
    seconds: float = float("inf")
    top: int | None = None
    serial: int = field(default_factory=lambda: next(_SERIAL))
    arrived: float = field(default_factory=time.monotonic)
    _cancelled: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def positions_from(self) -> int:
        """Tokens of the prompt that positions count."""
        return len(self.prompt) if self.prompt_length is None else self.prompt_length

    def cancel(self) -> None:
        """No one waits for the result any more; from any thread."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """Whether no one waits."""
        return self._cancelled.is_set()

    @property
    def is_late(self) -> bool:
        """Whether its time is over."""
        return time.monotonic() - self.arrived > self.seconds


@dataclass(eq=False, kw_only=True)
class Generation(Work):
    """A text to be generated.

    Attributes:
        max_tokens: generated at most.
        temperature: 0 takes the likeliest token; else logits are divided by it and a token is drawn.
        top_p: only the likeliest tokens, up to this probability together, are drawn from.
        seed: of the draws; None for any.
        stop: strings before which the text ends.
        ignore_ends: whether the EOS tokens end nothing.
        wants_pieces: whether text is wanted as it comes.
        follows: whether the text goes on where the prompt's ends, with the space between them, if there is one; else it
            stands alone, as a turn of a chat.
    """

    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: Sequence[str] = ()
    ignore_ends: bool = False
    wants_pieces: bool = False
    follows: bool = False


@dataclass(eq=False, kw_only=True)
class Scoring(Work):
    """Continuations to be scored: ln p of each of their tokens behind `prompt`.

    Attributes:
        continuations: token ids of each, none empty.
    """

    continuations: Sequence[tuple[int, ...]]
