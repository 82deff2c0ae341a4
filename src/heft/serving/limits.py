"""What one server takes at most. Each limit answers a request that is too large, or one that comes too soon."""

from dataclasses import dataclass

from heft.models.limits import BaseLimits

_TOKENS = 4096


@dataclass(frozen=True)
class Limits:
    """Attributes:
    batch: texts that are generated at a time.
    queue: requests that may wait beside them; one more is answered with 429.
    tokens: of a prompt and what follows it; None: as many as the model was made for, up to 4,096.
    prompts: prompts of one request, times `n`.
    seconds: that a request may take, waiting included.
    body: bytes of a request.
    prefill: tokens of prompts that are computed before running texts get their next token.
    chunk: of these, tokens of one prompt; one that is more than half as long again is computed in several rounds.
    prefix_bytes: memory for prefixes of prompts; 0: every prompt is computed whole.
    """

    batch: int = 32
    queue: int = 256
    tokens: int | None = None
    prompts: int = 128
    seconds: float = 600.0
    body: int = 4 << 20
    prefill: int = 2048
    chunk: int = 512
    prefix_bytes: int = 1 << 30

    def tokens_of(self, model: BaseLimits) -> int:
        """How many tokens of a prompt and what follows it a server takes of a model."""
        tokens = min(_TOKENS, model.positions or _TOKENS) if self.tokens is None else self.tokens
        return min(tokens, model.positions + 1) if model.learned else tokens  # the last one needs no position
