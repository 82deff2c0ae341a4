"""A row's result does not depend on the rows beside it, nor on the side of its padding."""

from typing import TYPE_CHECKING

import torch

from heft.verify.finding import Finding
from heft.verify.logits import judged_logits, row_logits

if TYPE_CHECKING:
    from heft.verify.subject import Subject


def check_batching(subject: "Subject") -> list[Finding]:
    """The padded batch against each row alone, then against the batch padded on the other side."""
    rows, kept = subject.probe.rows, subject.logits.shape[1]
    alone = torch.cat([row_logits(subject.model, [row], subject.pad_id)[:, -kept:] for row in rows])
    right = row_logits(subject.model, rows, subject.pad_id, side="right")
    lengths, rounding = subject.probe.lengths, subject.rounding
    batch = f"{len(rows)} rows of {min(lengths)} to {max(lengths)} tokens in one batch, padded on the left,"
    pairs = (
        ("batch against single", f"{batch} against each alone", alone),
        ("left against right padding", f"{batch} against padded on the right", right),
    )
    return [
        judged_logits(check, compared, subject.logits, other, rounding.logits, rounding.why)
        for check, compared, other in pairs
    ]
