"""What one server takes at most. Each limit answers a request that is too large, or one that comes too soon."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Attributes:
    batch: texts that are generated at a time.
    queue: requests that may wait beside them; one more is answered with 429.
    tokens: of a prompt and what follows it.
    prompts: prompts of one request, times `n`.
    seconds: that a request may take, waiting included.
    body: bytes of a request.
    prefill: tokens of prompts that are computed before running texts get their next token.
    chunk: of these, tokens of one prompt; one that is more than half as long again is computed in several rounds.
    prefix_bytes: memory for prefixes of prompts; 0: every prompt is computed whole.
    """

    batch: int = 32
    queue: int = 256
    tokens: int = 4096
    prompts: int = 128
    seconds: float = 600.0
    body: int = 4 << 20
    prefill: int = 2048
    chunk: int = 512
    prefix_bytes: int = 1 << 30
