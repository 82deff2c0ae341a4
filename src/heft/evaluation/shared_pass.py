"""The forward passes of a batch whose rows share tokens: prefixes, then stems on them, then choices on those.

Each pass leaves its keys and values to the next. Real tokens of a row stand in adjacent columns in every pass, since a
sliding window counts columns: stems are padded on the left and cut at one column, the rests of choices are padded on
the right.

Shapes: B rows, T tokens, S columns in the cache, K columns with logits, H key-value heads, E head size, V vocabulary.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from transformers import DynamicCache

from heft.data.encode import EncodedExample, left_pad
from heft.evaluation.shared_prefix import SharedBatch
from heft.models.forward import logits_of
from heft.reft.sites import decoder_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def score_batch(
    model: "PreTrainedModel",
    batch: SharedBatch,
    examples: Sequence[EncodedExample],
    scores: list[list[float]],
    *,
    batch_size: int,
    pad_id: int,
    edits_prompt: bool,
) -> None:
    """Write the log-likelihood of every choice of the batch's examples into `scores`.

    Args:
        model: in evaluation mode.
        batch: from `heft.evaluation.shared_prefix.shared_batches`.
        examples: what the batch's indices point to.
        scores: one list an example; the entries of the batch's examples are set.
        batch_size: most rows of a pass.
        pad_id: id of the padding token.
        edits_prompt: whether the model carries a ReFT adapter, which needs the prompt lengths.
    """
    stems, split = batch.stems, batch.split
    inputs = {k: v.to(model.device) for k, v in left_pad([stem.ids for stem in stems], pad_id).items()}
    prompt_B = torch.tensor([stem.prompt for stem in stems], device=model.device)
    needs_cache = any(stem.rests for stem in stems)
    cache = _prefix_cache(model, batch, pad_id, edits_prompt) if split else DynamicCache() if needs_cache else None
    suffix = {"input_ids": inputs["input_ids"][:, split:], "position_ids": inputs["position_ids"][:, split:]}
    call = {**suffix, "attention_mask": inputs["attention_mask"]}
    keep = max(stem.scored for stem in stems)
    log_probs_BKV = _log_probs(model, call, prompt_B, edits_prompt, cache, keep, use_cache=needs_cache)
    for row, stem in enumerate(stems):
        for c, choice in enumerate(examples[stem.index].choices):
            scores[stem.index][c] = _sum(log_probs_BKV[row, -stem.scored :], choice[: stem.scored])
    for rows in batch.choice_passes(batch_size):
        _score_rests(model, batch, rows, examples, scores, (inputs["attention_mask"], prompt_B, cache), edits_prompt)


def _prefix_cache(model: "PreTrainedModel", batch: SharedBatch, pad_id: int, edits_prompt: bool) -> DynamicCache:
    """Keys and values of each stem's tokens left of the batch's split, from one row for each family."""
    rows = [stems[0].ids[:shared] for stems, shared in batch.families]
    inputs = {key: value.to(model.device) for key, value in left_pad(rows, pad_id).items()}
    if edits_prompt:  # the shortest of a family: none of its last positions is in the prefix
        lengths = [min(stem.prompt for stem in stems) for stems, _ in batch.families]
        inputs["prompt_lengths"] = torch.tensor(lengths, device=model.device)
    computed = DynamicCache()
    decoder_of(model)(**inputs, past_key_values=computed, use_cache=True)
    width = inputs["input_ids"].shape[1]
    places, split, start = [], batch.split, batch.split - batch.width
    for family, (stems, shared) in enumerate(batch.families):
        for stem in stems:
            places.append((family, width - shared, max(0, len(stem.ids) + start)))
    cache = DynamicCache()
    for number, layer in enumerate(computed.layers):
        cache.update(_moved(layer.keys, places, split), _moved(layer.values, places, split), number)
    return cache


def _moved(states: torch.Tensor, places: Sequence[tuple[int, int, int]], split: int) -> torch.Tensor:
    """(B, H, S, E): for each (row, first column, count) these columns at the right end, zeros left of them."""
    moved = states.new_zeros(len(places), states.shape[1], split, states.shape[3])
    for i, (row, first, count) in enumerate(places):
        moved[i, :, split - count :] = states[row, :, first : first + count]
    return moved


def _score_rests(model, batch, rows, examples, scores, stems_state, edits_prompt) -> None:
    """Add what the tokens of choices after their stems are worth."""
    mask_BS, prompt_B, cache = stems_state
    picked = torch.tensor([number for number, _, _ in rows], device=model.device)
    width = len(rows[0][2])
    ids_BT = torch.zeros(len(rows), width, dtype=torch.long)
    own_BT = torch.zeros(len(rows), width, dtype=torch.long)
    for i, (_, _, ids) in enumerate(rows):
        ids_BT[i, : len(ids)] = torch.tensor(ids)
        own_BT[i, : len(ids)] = 1
    mask = torch.cat([mask_BS[picked], own_BT.to(model.device)], dim=1)
    call = {
        "input_ids": ids_BT.to(model.device),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(1) - 1).clamp(min=0)[:, -width:],
    }
    stem_cache = DynamicCache()
    for number, layer in enumerate(cache.layers):
        stem_cache.update(layer.keys[picked], layer.values[picked], number)
    log_probs_BKV = _log_probs(model, call, prompt_B[picked], edits_prompt, stem_cache, width, use_cache=False)
    stems = batch.stems
    for i, (number, c, ids) in enumerate(rows):
        stem = stems[number]
        tail = examples[stem.index].choices[c][stem.scored :]
        scores[stem.index][c] += _sum(log_probs_BKV[i, : len(ids)], tail)


def _log_probs(model, call, prompt_B, edits_prompt, cache, keep, use_cache) -> torch.Tensor:
    if edits_prompt:
        call = {**call, "prompt_lengths": prompt_B}
    logits_BKV = logits_of(model, keep, **call, past_key_values=cache, use_cache=use_cache)
    return logits_BKV.float().log_softmax(-1)


def _sum(log_probs_KV: torch.Tensor, ids: Sequence[int]) -> float:
    """Sum of the log-probabilities of tokens, each in its column from the first on."""
    return log_probs_KV[: len(ids)].gather(-1, torch.tensor(ids, device=log_probs_KV.device)[:, None]).sum().item()
