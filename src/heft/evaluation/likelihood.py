"""Choices scored by log-likelihood, with what rows have in common computed once.

Shapes: B rows, K columns with logits, V vocabulary.
"""

import math
from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from heft.data.batching import batches_of_like_length, pass_tokens
from heft.data.encode import left_pad
from heft.edits.positions import longest_tail
from heft.evaluation.shared_pass import KeptPrefixes, OnTokens, SharedPasses, ignore_tokens
from heft.evaluation.shared_prefix import Question, shared_batches
from heft.models.equality import noise_of, rounded_otherwise, why_unequal
from heft.models.forward import logits_of
from heft.models.prefix_states import keeps_plain_keys
from heft.models.verdicts import NothingTold, verdict
from heft.reft.tracker import positions_of
from heft.runtime.memory_errors import attempt


@torch.inference_mode()
def choice_log_likelihoods(
    model: PreTrainedModel,
    examples: Sequence[Question],
    *,
    batch_size: int,
    pad_id: int,
    share_prefix: bool = True,
    equal_lengths: bool = False,
    on_batch: Callable[[int], None] = lambda done: None,
    on_tokens: OnTokens = ignore_tokens,
    kept: KeptPrefixes | None = None,
) -> list[list[float]]:
    """ln p(choice | prompt), summed over the choice's tokens, for every choice of every example, in float32.

    Neither the batch size nor sharing changes the result beyond rounding; the same arguments give the same bits.

    Args:
        model: in evaluation mode.
        examples: all with choices.
        batch_size: most rows of a forward pass; on a CPU fewer run together where that saves padding.
        pad_id: id of the padding token.
        share_prefix: whether choices of an example, and examples of one text, share the tokens they begin with; a
            model that does not keep plain keys and values takes the plain path either way.
        equal_lengths: whether only rows of one length run together, and nothing is shared (see heft.data.padding).
        on_batch: called with the number of examples done.
        on_tokens: hears of the tokens of every choice (`OnTokens`).
        kept: prefixes that are there already, taken where prefixes are shared; no adapter acts on any of their tokens.
    """
    if not share_prefix or equal_lengths or not keeps_plain_keys(model):
        return plain_log_likelihoods(model, examples, batch_size, pad_id, equal_lengths, on_batch, on_tokens)
    last_edited = longest_tail(positions_of(model))
    scores = [[0.0] * len(example.choices) for example in examples]
    passes, done = SharedPasses(model, examples, scores, batch_size, pad_id, on_tokens, kept), 0
    cost = pass_tokens(model.device, trains=False)
    for batch in shared_batches(examples, batch_size, last_edited, cost, kept and kept.start):
        passes.score(batch)
        done += len(batch.stems)
        on_batch(done)
    return scores


@torch.inference_mode()
def plain_log_likelihoods(
    model: PreTrainedModel,
    examples: Sequence[Question],
    batch_size: int,
    pad_id: int,
    equal_lengths: bool = False,
    on_batch: Callable[[int], None] = lambda done: None,
    on_tokens: OnTokens = ignore_tokens,
) -> list[list[float]]:
    """As `choice_log_likelihoods`, each row from its first token on.

    A row of the batch is a prompt with all but the last token of a choice; examples whose choices are all single
    tokens need one row, the prompt. With `equal_lengths` no row stands beside padding.
    """
    rows = [row for index, example in enumerate(examples) for row in plain_rows(index, example)]
    scores = [[0.0] * len(example.choices) for example in examples]
    left = [len(plain_rows(0, example)) for example in examples]
    cost = pass_tokens(model.device, trains=False)
    for indices in batches_of_like_length([len(ids) for _, _, ids in rows], batch_size, cost, equal_lengths):
        batch = [rows[i] for i in indices]
        inputs = left_pad([ids for _, _, ids in batch], pad_id, model.device)
        inputs["prompt_lengths"] = torch.tensor([len(examples[i].prompt) for i, _, _ in batch], device=model.device)
        keep = max(len(examples[i].choices[c]) if c is not None else 1 for i, c, _ in batch)
        logits_BKV = logits_of(model, keep, **inputs, use_cache=False)
        log_probs_BKV = logits_BKV.float().log_softmax(-1)
        for row, (index, choice, _) in enumerate(batch):
            for c in range(len(scores[index])) if choice is None else (choice,):
                ids = torch.tensor(examples[index].choices[c], device=model.device)
                log_probs_KV = log_probs_BKV[row, -len(ids) :]
                on_tokens(index, c, log_probs_KV, ids)
                scores[index][c] = log_probs_KV.gather(-1, ids[:, None]).sum().item()
            left[index] -= 1
        on_batch(left.count(0))
    return scores


def plain_rows(index: int, example: Question) -> list[tuple[int, int | None, tuple[int, ...]]]:
    """(example, choice or None for all, ids) of each row that an example needs where nothing is shared."""
    if all(len(choice) == 1 for choice in example.choices):
        return [(index, None, example.prompt)]
    return [(index, c, example.prompt + choice[:-1]) for c, choice in enumerate(example.choices)]


def why_not_shared(
    model: PreTrainedModel, examples: Sequence[Question], pad_id: int, kept: KeptPrefixes | None = None
) -> str | None:
    """Why prefixes are not to be shared, in words; None where they may be, or where the model shares none anyway.

    Tried before an evaluation on the shortest and the longest example, and on two of one text where there are such.
    """
    if not keeps_plain_keys(model):
        return None
    chosen = _chosen(examples)
    rows = tuple((tuple(each.prompt), tuple(map(tuple, each.choices))) for each in chosen)
    about = ("shared prefixes", None if kept is None else kept.start, rows)
    return verdict(model, about, lambda: _why_unlike(model, chosen, pad_id, kept))


def _why_unlike(
    model: PreTrainedModel, chosen: Sequence[Question], pad_id: int, kept: KeptPrefixes | None
) -> str | None:
    """As `why_not_shared`, tried on these examples.

    Raises:
        NothingTold: there is no memory for the plain path, whose batches the evaluation itself halves; or it is not
            finite.
    """

    def scores(share_prefix: bool) -> list[float]:
        found = choice_log_likelihoods(
            model, chosen, batch_size=len(chosen), pad_id=pad_id, share_prefix=share_prefix, kept=kept
        )
        return [score for row in found for score in row]

    plain = attempt(lambda: scores(share_prefix=False))
    if plain is None or not all(map(math.isfinite, plain[0])):
        raise NothingTold

    def why_not(noise: float = 0.0) -> str | None:
        return why_unequal(lambda: scores(share_prefix=True), *plain, *plain, model.dtype, noise)

    found = why_not()
    if found is None or model.dtype.itemsize >= 4:
        return found
    with rounded_otherwise(model):  # how far rounding alone moves scores differs from model to model
        moved = attempt(lambda: scores(share_prefix=False))
    return found if moved is None else why_not(noise_of(*plain, *moved))


def _chosen(examples: Sequence[Question]) -> list[Question]:
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].prompt))
    of_one_text: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        if example.group is not None:
            of_one_text.setdefault(example.group, []).append(i)
    pair = next((group[:2] for group in of_one_text.values() if len(group) > 1), [])
    return [examples[i] for i in sorted({order[0], order[-1], *pair})]
