"""What is trained on: the labels of the very batches that training makes, row by row; and BOS tokens too many.

Shapes: B rows, T tokens.
"""

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from transformers import PreTrainedTokenizerBase

from heft.data.checks.fault import Fault, count, such_as
from heft.data.encode import IGNORED, EncodedExample, training_batch

_ROWS = 64

_WORDS = {
    "no_labels": (
        "have no label, so nothing of them is trained on",
        "give them an answer that the tokenizer has tokens for",
    ),
    "all_labels": (
        "are trained on whole: their prompt has special tokens only",
        "give them a prompt that the tokenizer has tokens for",
    ),
    "pad_trained": (
        "train on padding, or on tokens behind the EOS token, where generation has stopped",
        "take special tokens out of the answers, or give the tokenizer a padding token of its own",
    ),
    "end_missing": (
        "have an answer that is to be generated and does not end in the EOS token, so the model does not learn to stop",
        "let the tokenizer's EOS token end each answer",
    ),
}


def has_label(row: EncodedExample) -> bool:
    """Whether anything of a row is trained on."""
    return bool(row.answer)


def label_faults(rows: Sequence[EncodedExample], tokenizer: PreTrainedTokenizerBase, answer_end: int) -> list[Fault]:
    """Faults of single training rows: no label, only labels, padding trained on, the EOS token.

    `answer_end` is the EOS token that answers end with (heft.data.encode.Encoder.answer_end).
    """
    found: dict[str, list[EncodedExample]] = {check: [] for check in _WORDS}
    by_length = sorted(rows, key=lambda row: row.length)
    for start in range(0, len(by_length), _ROWS):
        part = by_length[start : start + _ROWS]
        batch = training_batch(part, tokenizer.pad_token_id)
        for check, faulty_B in _faulty(part, batch, tokenizer, answer_end):
            found[check] += [part[i] for i in faulty_B.nonzero().squeeze(1).tolist()]
    return [
        Fault(check, f"{count(faulty, len(rows), 'train')} {_WORDS[check][0]}, {such_as(faulty[0])}", _WORDS[check][1])
        for check, faulty in found.items()
        if faulty
    ]


def double_bos(
    train: Sequence[EncodedExample], evaluation: Sequence[EncodedExample], tokenizer: PreTrainedTokenizerBase
) -> list[Fault]:
    """Rows with a BOS token too many: training rows in prompt and answer, evaluation rows in their choices too."""
    found = []
    for split, rows in (("train", train), ("eval", evaluation)):
        faulty = [row for row in rows if _begins_again(row, split == "eval", tokenizer)]
        if faulty:
            found.append(
                f"{count(faulty, len(rows), split)} have the BOS token twice at their start, or in their answer,"
                f" {such_as(faulty[0])}"
            )
    advice = "take it out of the text, or out of what the tokenizer or its chat template adds"
    return [Fault("double_bos", "; ".join(found), advice)] if found else []


def _faulty(
    rows: Sequence[EncodedExample],
    batch: dict[str, torch.Tensor],
    tokenizer: PreTrainedTokenizerBase,
    answer_end: int,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Each check with the rows of a batch, bool (B,), that fail it."""
    ids_BT, labels_BT, attended_BT = batch["input_ids"], batch["labels"], batch["attention_mask"].bool()
    trained_BT = labels_BT != IGNORED
    is_trained_B = trained_BT.any(1)
    is_generated_B = torch.tensor([not row.choices for row in rows])

    yield "no_labels", ~is_trained_B
    special_BT = torch.isin(ids_BT, torch.tensor(tokenizer.all_special_ids))
    yield "all_labels", ~(attended_BT & ~trained_BT & ~special_BT).any(1)
    yield "pad_trained", _trains_padding(rows, batch, is_generated_B, tokenizer, answer_end)
    ends_B = (_last_BT(trained_BT) & (labels_BT == answer_end)).any(1)
    yield "end_missing", is_trained_B & is_generated_B & ~ends_B


def _trains_padding(
    rows: Sequence[EncodedExample],
    batch: dict[str, torch.Tensor],
    is_generated_B: torch.Tensor,
    tokenizer: PreTrainedTokenizerBase,
    answer_end: int,
) -> torch.Tensor:
    """Bool (B,): whether labels stand on anything but a row's answer, up to its first EOS token.

    heft pads by lengths, so an EOS token that also pads is told from padding; that is seen here and not assumed:
    every token of a row is attended to, every label is attended to, and there are as many as the answer has tokens.
    """
    ids_BT, labels_BT, attended_BT = batch["input_ids"], batch["labels"], batch["attention_mask"].bool()
    trained_BT = labels_BT != IGNORED
    sizes_B = torch.tensor([row.length for row in rows])
    answers_B = torch.tensor([len(row.answer) for row in rows])
    misplaced_BT = trained_BT & (~attended_BT | (labels_BT != ids_BT))
    miscounted_B = (attended_BT.sum(1) != sizes_B) | (trained_BT.sum(1) != answers_B)
    last_BT = _last_BT(trained_BT)
    ending_BT = last_BT & is_generated_B[:, None] & (labels_BT == answer_end)
    padding_BT = trained_BT & (labels_BT == tokenizer.pad_token_id) & ~ending_BT
    ends = torch.tensor([tokenizer.eos_token_id, answer_end])
    early_end_BT = trained_BT & torch.isin(labels_BT, ends) & ~last_BT
    return miscounted_B | (misplaced_BT | padding_BT | early_end_BT).any(1)


def _last_BT(trained_BT: torch.Tensor) -> torch.Tensor:
    """Bool (B, T): the last label of each row."""
    still_to_come_BT = trained_BT.flip(1).long().cumsum(1).flip(1)
    return trained_BT & (still_to_come_BT == 1)


def _begins_again(row: EncodedExample, with_choices: bool, tokenizer: PreTrainedTokenizerBase) -> bool:
    bos = tokenizer.bos_token_id
    if bos is None:
        return False
    follows = chain(row.answer, *(row.choices if with_choices else ()))
    # Where one token begins and ends, it stands in an answer by right.
    return row.prompt[:2] == (bos, bos) or (bos != tokenizer.eos_token_id and bos in follows)
