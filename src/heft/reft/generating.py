"""What a call of `generate` is about: how long the prompts are, whatever the passes that it makes.

Passes may hold the whole prompt, a chunk of it, one new token, or several that are yet to be accepted (assisted and
prompt-lookup decoding); the prompt's length is the same for all of them.

Shapes: B rows, S columns up to and with those of a pass.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from heft.reft.caches import seen_by


@dataclass
class GenerateCall:
    """One call of `generate`.

    Attributes:
        columns: of the prompt, padding included.
        mask_BS: its attention mask, where it was given as (B, S).
        prompt_B: attended tokens of each row's prompt, from the first pass on.
        fed: columns that passes have put into the cache.
    """

    columns: int
    mask_BS: torch.Tensor | None
    prompt_B: torch.Tensor | None = None
    fed: int = 0

    @classmethod
    def of(cls, args: tuple, kwargs: dict) -> "GenerateCall":
        """Read the arguments of `generate`."""
        tokens = args[0] if args else kwargs.get("inputs", kwargs.get("input_ids", kwargs.get("inputs_embeds")))
        mask = kwargs.get("attention_mask")
        call = cls(
            columns=tokens.shape[1] if torch.is_tensor(tokens) and tokens.dim() > 1 else 0,
            mask_BS=mask if torch.is_tensor(mask) and mask.dim() == 2 else None,
        )
        seen = seen_by(kwargs.get("past_key_values"))
        if seen is not None and getattr(kwargs.get("generation_config"), "is_assistant", False):
            call.columns, call.prompt_B = 0, seen.prompt_B  # an assistant is called once for each proposal
        return call

    def mask_of(self, batch: int, total: int) -> torch.Tensor | None:
        """(B, S): the mask that `generate` was given, for each of its beams; generated tokens are real."""
        if self.mask_BS is None or batch % len(self.mask_BS):
            return None
        mask = self.mask_BS.bool().repeat_interleave(batch // len(self.mask_BS), dim=0)
        return functional.pad(mask, (0, total - mask.shape[1]), value=True)  # a negative pad cuts (chunked prefill)

    def is_past_prompt(self, cache: Any) -> bool:
        """Whether a pass on this cache holds generated tokens only."""
        return self.prompt_B is not None and cache is not None and self.fed >= self.columns

    def prompt_of(self, attended_BS: torch.Tensor) -> torch.Tensor:
        """(B,): the prompts' lengths; the first passes may hold a chunk of them, or tokens beyond them."""
        still_to_come = self.columns - attended_BS.shape[1]  # left padding has been seen
        if self.prompt_B is None or (self.columns and still_to_come >= 0):
            within = attended_BS[:, : self.columns] if self.columns else attended_BS
            self.prompt_B = within.sum(1) + max(0, still_to_come)
        return self.prompt_B
