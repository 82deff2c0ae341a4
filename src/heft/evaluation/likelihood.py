"""Choices scored by log-likelihood: one forward pass an example where choices are single tokens.

Shapes: B rows, K columns with logits, V vocabulary.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from heft.data import EncodedExample, batches_of_like_length, left_pad
from heft.reft.layer import ReftLayer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.inference_mode()
def choice_log_likelihoods(
    model: "PreTrainedModel",
    examples: Sequence[EncodedExample],
    *,
    batch_size: int,
    pad_id: int,
    on_batch: Callable[[int], None] = lambda done: None,
) -> list[list[float]]:
    """ln p(choice | prompt), summed over the choice's tokens, for every choice of every example, in float32.

    A row of the batch is a prompt with all but the last token of a choice; examples whose choices are all single
    tokens need one row, the prompt. Neither the batch size nor the side of the padding changes the result beyond
    rounding.

    Args:
        model: in evaluation mode.
        examples: all with choices.
        batch_size: rows a forward pass.
        pad_id: id of the padding token.
        on_batch: is told how many rows are done.
    """
    rows = [row for index, example in enumerate(examples) for row in _rows(index, example)]
    edits_prompt = any(isinstance(module, ReftLayer) for module in model.modules())
    scores = [[0.0] * len(example.choices) for example in examples]
    done = 0
    for indices in batches_of_like_length([len(ids) for _, _, ids in rows], batch_size):
        batch = [rows[i] for i in indices]
        inputs = {key: value.to(model.device) for key, value in left_pad([ids for _, _, ids in batch], pad_id).items()}
        if edits_prompt:
            inputs["prompt_lengths"] = torch.tensor([len(examples[i].prompt) for i, _, _ in batch], device=model.device)
        keep = max(len(examples[i].choices[c]) if c is not None else 1 for i, c, _ in batch)
        logits_BKV = model(**inputs, use_cache=False, logits_to_keep=keep).logits
        log_probs_BKV = logits_BKV.float().log_softmax(-1)
        for row, (index, choice, _) in enumerate(batch):
            for c in range(len(scores[index])) if choice is None else (choice,):
                ids = torch.tensor(examples[index].choices[c], device=model.device)
                scores[index][c] = log_probs_BKV[row, -len(ids) :].gather(-1, ids[:, None]).sum().item()
        done += len(batch)
        on_batch(done)
    return scores


def forward_rows(examples: Sequence[EncodedExample]) -> int:
    """How many rows `choice_log_likelihoods` puts through the model."""
    return sum(len(_rows(0, example)) for example in examples)


def _rows(index: int, example: EncodedExample) -> list[tuple[int, int | None, tuple[int, ...]]]:
    """(example, choice or None for all, ids) of each row that the example needs."""
    if all(len(choice) == 1 for choice in example.choices):
        return [(index, None, example.prompt)]
    return [(index, c, example.prompt + choice[:-1]) for c, choice in enumerate(example.choices)]
