"""Where a token's hidden state is in a module's output.

Most modules return (B, T, d). Some models have several states per token between their blocks:

- AltUp (Gemma 3n), (s, B, T, d): the active one (`altup_active_idx`) is edited, from which the next block predicts and
  corrects the others.
- hyper-connections (DeepSeek V4, HY V4: (B, T, s, d); Qwen4-Exp: (B, T, s·d)): each of a token's s states is edited by
  the same weights, since the next block reads a mixture of them.

Everything else is refused: a row number would be that of another token.

Shapes: B rows, T tokens, d hidden size, s streams, N edited tokens, M places in the flat (M, d) view of an output.
"""

from dataclasses import dataclass

import torch
from transformers import PretrainedConfig

_TOKENS_FIRST = ("xlnet",)


@dataclass(frozen=True)
class Streams:
    """How a model lays out its hidden states.

    Attributes:
        width: d.
        active: which of the leading streams is edited; None where there are none.
        inner: streams of each token; 1 where there is one.
    """

    width: int
    active: int | None = None
    inner: int = 1

    @classmethod
    def of(cls, config: PretrainedConfig) -> "Streams":
        """Read a model's configuration.

        Raises:
            ValueError: its blocks return (T, B, d), which cannot be told from (B, T, d) where B = T.
        """
        text = config.get_text_config()
        if text.model_type in _TOKENS_FIRST:
            raise ValueError(
                f"the blocks of a {text.model_type} model return (tokens, rows, hidden size), and ReFT edits (rows,"
                " tokens, hidden size): use LoRA on this model, or another model"
            )
        inner = getattr(text, "hc_mult", None) or getattr(text, "hc_count", None) or 1
        return cls(text.hidden_size, getattr(text, "altup_active_idx", None), inner)

    def places(self, shape: torch.Size, batch: int, length: int) -> "Places":
        """Where the tokens of B rows of T are in an output of that shape.

        Raises:
            ValueError: it is none of the shapes above.
        """
        tokens = batch * length
        plain = {(batch, length, self.width), (tokens, self.width)}
        if tuple(shape) in plain:
            return Places(tokens)
        if self.inner > 1:
            plain = {(batch, length, self.inner, self.width), (batch, length, self.inner * self.width)}
            if tuple(shape) in plain:
                return Places(tokens, inner=self.inner)
        if self.active is not None and tuple(shape[1:]) == (batch, length, self.width) and self.active < shape[0]:
            return Places(tokens, active=self.active, leading=shape[0])
        raise ValueError(
            f"hidden states of shape {tuple(shape)} cannot be edited: a batch of {batch} rows of {length} tokens has"
            f" them as ({batch}, {length}, {self.width}). The module mixes tokens, adds some of its own or has another"
            " width; use another site (block, attention, mlp), or LoRA on this model"
        )


@dataclass(frozen=True)
class Places:
    """Where tokens 0 to `tokens` − 1 are in the flat (M, d) view of an output."""

    tokens: int
    inner: int = 1
    active: int = 0
    leading: int = 1

    def of(self, index_N: torch.Tensor) -> torch.Tensor:
        """(N·s,): places of the numbered tokens."""
        if self.inner > 1:
            return (index_N[:, None] * self.inner + torch.arange(self.inner, device=index_N.device)).flatten()
        return index_N + self.active * self.tokens

    def spread(self, edited_N: torch.Tensor) -> torch.Tensor:
        """Bool (M,): whether a place holds a token that is flagged in `edited_N`, which has all of them."""
        if self.inner > 1:
            return edited_N.repeat_interleave(self.inner)
        before, after = self.active * self.tokens, (self.leading - 1 - self.active) * self.tokens
        return torch.nn.functional.pad(edited_N, (before, after), value=False)
