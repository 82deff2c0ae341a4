"""A row's result does not depend on the rows beside it, nor on the side of its padding."""

from typing import TYPE_CHECKING

import torch

from heft.padding import padding_matters
from heft.verify.finding import Finding, does_not_apply
from heft.verify.logits import judged_logits, row_logits

if TYPE_CHECKING:
    from heft.verify.subject import Subject


CHECK = "batch against single"


def check_batching(subject: "Subject") -> list[Finding]:
    """The padded batch against each row alone, then against the batch padded on the other side."""
    if padding_matters(subject.model, subject.pad_id):
        return [
            does_not_apply(CHECK, "padding changes what the base makes of a row; heft runs rows of one length together")
        ]
    rows, kept = subject.probe.rows, subject.logits.shape[1]
    alone = torch.cat([row_logits(subject.model, [row], subject.pad_id)[:, -kept:] for row in rows])
    right = row_logits(subject.model, rows, subject.pad_id, side="right")
    lengths, rounding = subject.probe.lengths, subject.rounding
    batch = f"{len(rows)} rows of {min(lengths)} to {max(lengths)} tokens in one batch, padded on the left,"
    pairs = (
        (CHECK, f"{batch} against each alone", alone),
        ("left against right padding", f"{batch} against padded on the right", right),
    )
    return [
        judged_logits(check, compared, subject.logits, other, rounding.logits, rounding.why)
        for check, compared, other in pairs
    ]
