"""Where the prompts of one forward pass are, read from the pass's arguments (order of sources: heft.reft.tracker).

Shapes: B rows, T tokens of this pass, S columns with those in the cache, N sequences.
"""

from typing import Any

import torch

from heft.reft import refusals
from heft.reft.caches import Seen, cache_of, cached_columns, note_on, seen_by
from heft.reft.generating import GenerateCall
from heft.reft.layout import TokenLayout, attended_tokens, number_tokens, prompt_lengths_from_labels
from heft.reft.packing import Sequences, sequence_starts

PassReading = tuple[TokenLayout, Seen | None]
"""The tokens of a pass, and what a cache that it fills will hold; None where nothing is to be noted."""


def read_all_tokens(tokens: torch.Tensor, call: dict[str, Any]) -> PassReading:
    """A pass of which only padding matters: every adapter edits all tokens.

    Padding that an attention mask of another shape than (B, T) describes is edited with the rest, which no real token
    sees.
    """
    batch, length = tokens.shape[:2]
    mask = call.get("attention_mask")
    numbers_BT = torch.zeros(batch, length, dtype=torch.long, device=tokens.device)
    if torch.is_tensor(mask) and mask.dim() == 2 and mask.shape[1] == length:
        numbers_BT = numbers_BT.masked_fill(~mask.bool(), -1)
    return TokenLayout(numbers_BT, numbers_BT[:, 0]), None


def read_generated_tokens(tokens: torch.Tensor, generating: GenerateCall) -> PassReading:
    """A pass of `generate` behind the prompt: all its tokens are real, and none is one of a prompt."""
    numbers_BT = generating.prompt_B[:, None].expand(*tokens.shape[:2])
    return TokenLayout(numbers_BT, generating.prompt_B), None


class PassReader:
    """Reads one pass.

    Args:
        tokens: (B, T) ids or (B, T, d) embeddings.
        call: all arguments by name.
        generating: the call of `generate` that it belongs to, if any.
        trains: whether the model is in training mode.
        padding_ids: ids that stand for padding where there is no mask.
    """

    def __init__(
        self,
        tokens: torch.Tensor,
        call: dict[str, Any],
        generating: GenerateCall | None,
        trains: bool,
        padding_ids: set[int],
    ):
        self._tokens, self._call, self._generating, self._trains = tokens, call, generating, trains
        self._padding_ids = padding_ids
        self._batch, length = tokens.shape[:2]
        self._doubts: list[tuple[torch.Tensor | bool, str]] = []
        self._cache = cache_of(call)
        self._cached = self._columns_in_cache()
        self._mask = self._given_mask(length)
        self._attended_BS = attended_tokens(self._whole_mask(length), self._batch, self._cached + length, tokens.device)
        self._sequences = self._packed_sequences()

    def read(self, given: Any, edits_prompts: bool) -> PassReading:
        """The pass, with prompt lengths where the caller gave some.

        Args:
            given: `prompt_lengths`, or None.
            edits_prompts: whether an adapter edits positions of the prompt, so that it has to be known for certain.

        Raises:
            ValueError: where the prompts are would be a guess, or the lengths given are not one for each row, or
                sequence of packed rows.
        """
        prompt = self._prompt(given)
        if self._sequences is None:
            numbers_BT = number_tokens(self._attended_BS)[:, self._cached :]
        else:
            numbers_BT = self._sequences.numbers()
        layout = TokenLayout(numbers_BT, prompt)
        if given is None and self._call.get("labels") is not None:
            self._doubts.append(((layout.prompt_BT == 0) & (numbers_BT >= 0), refusals.NO_PROMPT))
        for doubt, reason in self._doubts if edits_prompts else ():
            refusals.refuse_if(doubt, reason)
        if self._generating is not None:
            self._generating.fed = self._attended_BS.shape[1]
        seen = Seen(layout.prompt_BT[:, -1], self._attended_BS)
        if self._cache is not None:  # some models give back no cache that they were handed with use_cache=False
            note_on(self._cache, seen)
        return layout, seen

    def _columns_in_cache(self) -> int:
        columns = cached_columns(self._cache)
        if columns is None and self._generating is not None:
            columns = self._generating.fed
        if columns is None:
            self._doubts.append((True, refusals.CACHE_UNKNOWN))
        return columns or 0

    def _given_mask(self, length: int) -> torch.Tensor | dict | None:
        if "Paged" in type(self._call.get("cache")).__name__:  # a mask over pages, of requests that are all real
            self._doubts.append((True, refusals.PAGED))
            return None
        mask = self._generating.mask_of(self._batch, self._cached + length) if self._generating else None
        return self._call.get("attention_mask") if mask is None else mask

    def _whole_mask(self, length: int) -> torch.Tensor | dict | None:
        """The mask, with the cache's columns where it covers those of this pass only (recurrent models)."""
        seen = seen_by(self._cache)
        is_short = torch.is_tensor(self._mask) and self._mask.dim() == 2 and self._mask.shape[1] == length
        if not self._cached or not is_short or seen is None or len(seen.attended_BS) != self._batch:
            return self._mask
        return torch.cat([seen.attended_BS[:, : self._cached], self._mask.bool()], dim=1)

    def _packed_sequences(self) -> Sequences | None:
        if self._cached:
            return None
        starts_BT = sequence_starts(self._call, self._attended_BS, self._mask is not None)
        if starts_BT is None or starts_BT.is_meta:
            return None
        if not torch.compiler.is_compiling() and int(starts_BT.sum()) == self._batch:
            return None
        return Sequences(starts_BT, self._attended_BS)

    def _prompt(self, given: Any) -> torch.Tensor:
        """(B,), or (B, T) where rows are packed."""
        labels = self._call.get("labels")
        if given is not None:
            return self._given(given)
        if labels is not None:
            if labels.shape[:2] != self._tokens.shape[:2]:  # of classes
                self._doubts.append((True, refusals.LABELS_OF_ROWS))
                return self._attended_BS.sum(1)
            labels_BT = labels.to(self._tokens.device)
            if self._sequences is not None:
                return self._sequences.prompts_from_labels(labels_BT)
            answered_B = prompt_lengths_from_labels(labels_BT, self._attended_BS[:, self._cached :])
            return self._attended_BS[:, : self._cached].sum(1) + answered_B
        if self._generating is not None:
            self._doubts.append((self._generating.is_guided and self._cache is None, refusals.GUIDED))
            return self._generating.prompt_of(self._attended_BS)
        if self._cached:
            return self._of_the_call_that_filled_the_cache()
        self._doubts += [(self._trains, refusals.NO_PROMPT_LENGTHS), *self._padding_without_mask()]
        return self._attended_BS.sum(1) if self._sequences is None else self._sequences.lengths()

    def _given(self, given: Any) -> torch.Tensor:
        lengths = torch.as_tensor(given, device=self._tokens.device).long()
        packed = self._sequences is not None
        is_compiling = torch.compiler.is_compiling()
        count = self._sequences.count() if packed and not is_compiling else self._batch
        if lengths.dim() != 1 or (len(lengths) != count and not (packed and is_compiling)):
            what = f"{count} packed sequences" if packed else f"{self._batch} rows"
            raise ValueError(f"prompt_lengths must hold one length for each of {what}; got shape {list(lengths.shape)}")
        return self._sequences.prompts_from_lengths(lengths) if packed else lengths

    def _of_the_call_that_filled_the_cache(self) -> torch.Tensor:
        seen = seen_by(self._cache)
        if seen is None:
            return self._attended_BS[:, : self._cached].sum(1)
        filled = len(seen.prompt_B)
        if filled == self._batch:
            return seen.prompt_B
        self._doubts.append((True, refusals.cache_of_other_rows(filled, self._batch)))
        return self._attended_BS.sum(1)

    def _padding_without_mask(self) -> list[tuple[torch.Tensor, str]]:
        ids = self._call.get("input_ids")
        if self._mask is not None or self._sequences is not None or ids is None or min(ids.shape) < 2:
            return []
        edges_B2 = torch.isin(ids[:, [0, -1]], torch.tensor(sorted(self._padding_ids), device=ids.device))
        return [(edges_B2.any(0) & ~edges_B2.all(0), refusals.PADDED_WITHOUT_MASK)]  # on that side of some rows only
