"""What a call of `generate` is about: how long the prompts are, whatever the passes that it makes.

Passes may hold the whole prompt, a chunk of it, one new token, or several that are yet to be accepted (assisted and
prompt-lookup decoding); the prompt's length is the same for all of them. Classifier-free guidance runs a second prompt
beside the first, which is read as any call of the model is.

Shapes: B rows, S columns up to and with those of a pass.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from transformers import GenerationConfig

from heft.reft.caches import seen_by


@dataclass
class GenerateCall:
    """One call of `generate`.

    Attributes:
        columns: of the prompt, padding included.
        mask_BS: its attention mask, where it was given as (B, S).
        is_guided: whether a pass on another prompt stands beside each of these (classifier-free guidance).
        prompt_B: attended tokens of each row's prompt, from the first pass on.
        fed: columns that passes have put into the cache.
        cache: of the first pass; None before it, and where it has none.
    """

    columns: int
    mask_BS: torch.Tensor | None
    is_guided: bool = False
    prompt_B: torch.Tensor | None = None
    fed: int = 0
    cache: Any = None

    @classmethod
    def of(cls, args: tuple, kwargs: dict, defaults: GenerationConfig | None) -> "GenerateCall":
        """Read the arguments of `generate`; `defaults` are the model's own generation settings.

        The first pass takes embeddings where there are some, whatever ids are given beside them.
        """
        given = (kwargs.get("inputs_embeds"), *args[:1], kwargs.get("inputs"), kwargs.get("input_ids"))
        tokens = next((each for each in given if each is not None), None)
        mask = kwargs.get("attention_mask")
        settings = kwargs.get("generation_config") or defaults
        call = cls(
            columns=tokens.shape[1] if torch.is_tensor(tokens) and tokens.dim() > 1 else 0,
            mask_BS=mask if torch.is_tensor(mask) and mask.dim() == 2 else None,
            is_guided=kwargs.get("guidance_scale", getattr(settings, "guidance_scale", None)) not in (None, 1),
        )
        seen = seen_by(kwargs.get("past_key_values"))
        if seen is not None and getattr(kwargs.get("generation_config"), "is_assistant", False):
            call.columns, call.prompt_B = 0, seen.prompt_B  # an assistant is called once for each proposal
        return call

    def has(self, cache: Any) -> bool:
        """Whether a pass on this cache is on this call's prompt: that of guidance has a cache of its own."""
        if self.is_guided and self.prompt_B is None:
            self.cache = cache
        return not self.is_guided or self.cache is None or cache is self.cache

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
