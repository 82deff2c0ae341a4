"""Rows that hold several sequences: TRL's packing and padding-free batches, transformers' DataCollatorWithFlattening.

Where a sequence begins is read from what such batches carry: `position_ids` that start again, or `cu_seq_lens_q`. All
of it is arithmetic on tensors, without a look at their values, so that `torch.compile` takes it whole.

Shapes: B rows, T tokens, N sequences, counted through the rows in order.
"""

from typing import Any

import torch


def sequence_starts(call: dict[str, Any], attended_BT: torch.Tensor, has_mask: bool) -> torch.Tensor | None:
    """Bool (B, T): whether a token is the first of a sequence; each row's column 0 is. None where nothing tells.

    Without an attention mask a sequence begins wherever position ids do not count on, as transformers has it; with
    one, wherever a real token (`attended_BT`) that is not its row's first has position 0.
    """
    starts_BT = torch.zeros_like(attended_BT)
    starts_BT[:, 0] = True
    bounds, numbers_BT = call.get("cu_seq_lens_q"), _position_ids(call, attended_BT)
    if bounds is not None and len(attended_BT) == 1:
        columns = torch.arange(attended_BT.shape[1], device=attended_BT.device)
        return starts_BT | torch.isin(columns, bounds.to(columns.device))[None] & attended_BT
    if numbers_BT is None:
        return None
    counts_on = numbers_BT.diff(dim=1, prepend=numbers_BT[:, :1] - 1) == 1
    begins = numbers_BT == 0 if has_mask else ~counts_on
    is_later = attended_BT.long().cumsum(1) > 1
    return starts_BT | (attended_BT & is_later & begins)


def _position_ids(call: dict[str, Any], attended_BT: torch.Tensor) -> torch.Tensor | None:
    """(B, T) position ids of text; None for none, and for those of images (three to a token)."""
    numbers = call.get("position_ids")
    if numbers is None:
        return None
    if numbers.dim() == 3 and len(numbers) == 4:  # Qwen-VL: those of text before those of images
        numbers = numbers[0]
    if numbers.dim() == 1:
        numbers = numbers[None]
    if numbers.dim() != 2 or numbers.shape[1] != attended_BT.shape[1]:
        return None
    return numbers.to(attended_BT.device).expand(len(attended_BT), -1)


class Sequences:
    """The sequences of packed rows, from `sequence_starts` and which tokens are real."""

    def __init__(self, starts_BT: torch.Tensor, attended_BT: torch.Tensor):
        self._starts_BT, self._attended_BT = starts_BT, attended_BT
        self._sequence_BT = (starts_BT.flatten().long().cumsum(0) - 1).view_as(starts_BT)

    def count(self) -> int:
        """N."""
        return int(self._starts_BT.sum())

    def numbers(self) -> torch.Tensor:
        """Int (B, T): the number of each token among its sequence's attended ones, from 0; −1 for padding."""
        return self._since_start(self._attended_BT.flatten()).sub(1).masked_fill(~self._attended_BT, -1)

    def lengths(self) -> torch.Tensor:
        """Int (B, T): attended tokens of each token's sequence."""
        return self._summed(self._attended_BT)

    def prompts_from_labels(self, labels_BT: torch.Tensor) -> torch.Tensor:
        """Int (B, T): of each token's sequence, the attended tokens before the first label that is not −100."""
        before_answer = self._since_start((labels_BT != -100).flatten()) == 0
        return self._summed(self._attended_BT & before_answer)

    def prompts_from_lengths(self, lengths_N: torch.Tensor) -> torch.Tensor:
        """Int (B, T): of each token's sequence, the given length of its prompt."""
        return lengths_N[self._sequence_BT]

    def one_each(self, prompt_BT: torch.Tensor) -> torch.Tensor:
        """Int (N,): of values by token that are equal within a sequence, one for each sequence."""
        return prompt_BT[self._starts_BT]

    def _since_start(self, flags: torch.Tensor) -> torch.Tensor:
        """(B, T): how many of the flags (B·T,) are set from the sequence's first token to this one."""
        flags = flags.long()
        total = flags.cumsum(0)
        before_start = torch.where(self._starts_BT.flatten(), total - flags, 0).cummax(0).values
        return (total - before_start).view_as(self._starts_BT)

    def _summed(self, flags_BT: torch.Tensor) -> torch.Tensor:
        """(B, T): how many of the flags are set in each token's sequence."""
        sequence = self._sequence_BT.flatten()
        sums = torch.zeros_like(sequence).index_add(0, sequence, flags_BT.flatten().long())
        return sums[sequence].view_as(self._sequence_BT)
