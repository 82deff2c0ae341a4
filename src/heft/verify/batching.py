"""A row's result does not depend on the rows beside it, nor on the side of its padding."""

import torch

from heft.adapters.attach import activated
from heft.data.padding import padding_matters
from heft.verify.finding import FAILED, Finding, does_not_apply
from heft.verify.logits import largest, row_logits
from heft.verify.subject import AdapterUnderTest

CHECK, SIDES = "batch against single", "left against right padding"


def check_batching(subject: AdapterUnderTest) -> list[Finding]:
    """The padded batch against each row alone, then against the batch padded on the other side."""
    if padding_matters(subject.model, subject.pad_id, max(subject.probe.lengths)):
        return [
            does_not_apply(CHECK, "padding changes what the base makes of a row; heft runs rows of one length together")
        ]
    rows, columns, lengths = subject.probe.rows, subject.logits.shape[1], subject.probe.lengths
    batch = f"{len(rows)} rows of {min(lengths)} to {max(lengths)} tokens in one batch, padded on the left,"
    alone = torch.cat([row_logits(subject.model, [row], subject.pad_id)[:, -columns:] for row in rows])
    by_row = subject.compared(CHECK, f"{batch} against each alone", subject.logits, alone)
    right = row_logits(subject.model, rows, subject.pad_id, side="right")
    by_side = subject.compared(SIDES, f"{batch} against padded on the right", subject.logits, right)
    if by_side.state == FAILED and _base_depends_on_the_side(subject):
        by_side = does_not_apply(SIDES, "the base itself gives other logits where rows are padded on the right")
    return [by_row, by_side]


def _base_depends_on_the_side(subject: AdapterUnderTest) -> bool:
    model, rows = subject.model, subject.probe.rows
    with activated(model, []):
        left, right = (row_logits(model, rows, subject.pad_id, side) for side in ("left", "right"))
    return largest(left, right) > subject.rounding.logits
