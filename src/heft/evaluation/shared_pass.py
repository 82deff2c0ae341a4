"""The forward passes of a batch whose rows share tokens: prefixes, then stems on them, then choices on those.

Each pass leaves its keys and values to the next. Real tokens of a row stand in adjacent columns in every pass, since a
sliding window counts columns: stems are padded on the left and cut at one column, the rests of choices are padded on
the right.

Shapes: B rows, T tokens, S columns in the cache, K columns with logits, H key-value heads, E head size, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel

from heft.data.encode import left_pad
from heft.evaluation.shared_prefix import Question, SharedBatch
from heft.models.forward import logits_of, takes_prompt_lengths
from heft.reft.sites import decoder_of

OnTokens = Callable[[int, int, torch.Tensor, torch.Tensor], None]
"""Called with an example's index, a choice's, ln p (K, V) of the tokens in K places of it, and the ids there (K,); in
several calls for one choice where its tokens are computed in several passes."""


def ignore_tokens(index: int, choice: int, log_probs_KV: torch.Tensor, ids_K: torch.Tensor) -> None:
    """For who needs no more than the sums."""


class KeptPrefixes(Protocol):
    """Prefixes of prompts that are there already, of each as much as stands before its last `start` tokens."""

    @property
    def start(self) -> int:
        """See there."""

    def cache(self, questions: Sequence[Question], lengths: Sequence[int]) -> DynamicCache:
        """Keys and values of the first `lengths` tokens of each prompt, aligned at the right."""

    def nothing_kept(self) -> "KeptPrefixes":
        """The same, each prefix computed where it is asked for: for a trial of a few questions."""


@dataclass(frozen=True)
class SharedPasses:
    """Scores examples batch by batch.

    Attributes:
        scores: one list an example; `score` sets the entries of a batch's examples.
        batch_size: most rows of a pass.
        on_tokens: hears of the tokens of every choice.
        kept: whence prefixes come, where batches are planned for that; None computes them.
    """

    model: PreTrainedModel
    examples: Sequence[Question]
    scores: list[list[float]]
    batch_size: int
    pad_id: int
    on_tokens: OnTokens = ignore_tokens
    kept: KeptPrefixes | None = None

    def score(self, batch: SharedBatch) -> None:
        """Write the log-likelihood of every choice of a batch's examples into `scores`.

        Args:
            batch: from `heft.evaluation.shared_prefix.shared_batches`.
        """
        stems, split = batch.stems, batch.split
        inputs = self._padded([stem.ids for stem in stems])
        mask_BS, prompt_B = inputs["attention_mask"], self._tensor([stem.prompt for stem in stems])
        needs_cache = any(stem.rests for stem in stems)
        cache = self._prefix_cache(batch) if split else DynamicCache() if needs_cache else None
        suffix = {"input_ids": inputs["input_ids"][:, split:], "position_ids": inputs["position_ids"][:, split:]}
        keep = max(stem.scored for stem in stems)
        call = {**suffix, "attention_mask": mask_BS, "prompt_lengths": prompt_B, "past_key_values": cache}
        log_probs_BKV = self._log_probs(keep, **call, use_cache=needs_cache)
        for row, stem in enumerate(stems):
            for c, choice in enumerate(self.examples[stem.index].choices):
                ids = choice[: stem.scored]
                self.scores[stem.index][c] = self._sum(stem.index, c, log_probs_BKV[row, -stem.scored :], ids)
        for rests in batch.choice_passes(self.batch_size):
            self._score_rests(batch, rests, mask_BS, prompt_B, cache)

    def _prefix_cache(self, batch: SharedBatch) -> DynamicCache:
        """Keys and values of each stem's tokens left of the batch's split, from one row for each family."""
        split, start = batch.split, batch.split - batch.width
        if self.kept is not None:
            questions = [self.examples[stem.index] for stem in batch.stems]
            return self.kept.cache(questions, [max(0, len(stem.ids) + start) for stem in batch.stems])
        inputs = self._padded([stems[0].ids[:shared] for stems, shared in batch.families])
        width = inputs["input_ids"].shape[1]
        if takes_prompt_lengths(self.model):  # the shortest of a family: none of its last positions is in the prefix
            shortest = [min(stem.prompt for stem in stems) for stems, _ in batch.families]
            inputs["prompt_lengths"] = self._tensor(shortest)
        computed = DynamicCache()
        decoder_of(self.model)(**inputs, past_key_values=computed, use_cache=True)
        places = []
        for family, (stems, shared) in enumerate(batch.families):
            for stem in stems:
                places.append((family, width - shared, max(0, len(stem.ids) + start)))
        cache = DynamicCache()
        for number, layer in enumerate(computed.layers):
            cache.update(_moved(layer.keys, places, split), _moved(layer.values, places, split), number)
        return cache

    def _score_rests(
        self,
        batch: SharedBatch,
        rests: Sequence[tuple[int, int, tuple[int, ...]]],
        mask_BS: torch.Tensor,
        prompt_B: torch.Tensor,
        cache: DynamicCache,
    ) -> None:
        """Add the log-likelihood of the tokens of choices after their stems: (stem, choice, ids) each."""
        picked, width = self._tensor([number for number, _, _ in rests]), len(rests[0][2])
        ids_BT = pad_sequence([self._tensor(ids) for _, _, ids in rests], batch_first=True)
        own_BT = pad_sequence([self._tensor([1] * len(ids)) for _, _, ids in rests], batch_first=True)
        mask = torch.cat([mask_BS[picked], own_BT], dim=1)
        stem_cache = DynamicCache()
        for number, layer in enumerate(cache.layers):
            stem_cache.update(layer.keys[picked], layer.values[picked], number)
        log_probs_BKV = self._log_probs(
            width,
            input_ids=ids_BT,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0)[:, -width:],
            prompt_lengths=prompt_B[picked],
            past_key_values=stem_cache,
            use_cache=False,
        )
        for i, (number, c, ids) in enumerate(rests):
            stem = batch.stems[number]
            tail = self.examples[stem.index].choices[c][stem.scored :]
            self.scores[stem.index][c] += self._sum(stem.index, c, log_probs_BKV[i, : len(ids)], tail)

    def _log_probs(self, keep: int, **call) -> torch.Tensor:
        return logits_of(self.model, keep, **call).float().log_softmax(-1)

    def _sum(self, index: int, choice: int, log_probs_KV: torch.Tensor, ids: Sequence[int]) -> float:
        """Sum of the log-probabilities of a choice's tokens, each in its column from the first on."""
        log_probs_KV, ids_K = log_probs_KV[: len(ids)], self._tensor(ids)
        self.on_tokens(index, choice, log_probs_KV, ids_K)
        return log_probs_KV.gather(-1, ids_K[:, None]).sum().item()

    def _padded(self, rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        return left_pad(rows, self.pad_id, self.model.device)

    def _tensor(self, values: Sequence[int]) -> torch.Tensor:
        return torch.tensor(values, device=self.model.device)


def _moved(states: torch.Tensor, places: Sequence[tuple[int, int, int]], split: int) -> torch.Tensor:
    """(B, H, S, E): for each (row, first column, count) these columns at the right end, zeros left of them."""
    moved = states.new_zeros(len(places), states.shape[1], split, states.shape[3])
    for i, (row, first, count) in enumerate(places):
        moved[i, :, split - count :] = states[row, :, first : first + count]
    return moved
