"""The BOS token where it does not belong: twice at a prompt's start, or in what follows a prompt."""

from collections.abc import Sequence
from itertools import chain

from transformers import PreTrainedTokenizerBase

from heft.data.checks.fault import Fault, count, such_as
from heft.data.encode import EncodedExample


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


def _begins_again(row: EncodedExample, with_choices: bool, tokenizer: PreTrainedTokenizerBase) -> bool:
    bos = tokenizer.bos_token_id
    if bos is None:
        return False
    follows = chain(row.answer, *(row.choices if with_choices else ()))
    # Where one token begins and ends, it stands in an answer by right.
    return row.prompt[:2] == (bos, bos) or (bos != tokenizer.eos_token_id and bos in follows)
