"""A row's result does not depend on the rows beside it, nor on the side of its padding."""

import torch

from heft.adapters.attach import activated
from heft.data.padding import padding_matters
from heft.verify.finding import Finding, does_not_apply, most
from heft.verify.logits import apart, row_logits
from heft.verify.subject import AdapterUnderTest

CHECK, SIDES = "batch against single", "left against right padding"


def check_batching(subject: AdapterUnderTest) -> list[Finding]:
    """The padded batch against each row alone, then against the batch padded on the other side."""
    if padding_matters(subject.model, subject.pad_id, max(subject.probe.lengths)):
        return [
            does_not_apply(CHECK, "padding changes what the base makes of a row; heft runs rows of one length together")
        ]
    rows, lengths, tolerance = subject.probe.rows, subject.probe.lengths, subject.rounding.logits
    batch = f"{len(rows)} rows of {min(lengths)} to {max(lengths)} tokens in one batch, padded on the left,"
    alone, right = _alone(subject), _padded_on_the_right(subject)
    by_row, by_side = 0.0, 0.0
    model = subject.model
    if not most(apart(model, subject.logits, other) for other in (alone, right)) <= tolerance:
        with activated(model, []):
            left = subject.logits_now()
            by_row, by_side = apart(model, left, _alone(subject)), apart(model, left, _padded_on_the_right(subject))
    found = [subject.compared(CHECK, f"{batch} against each alone", subject.logits, alone, by_row)]
    if not by_side <= tolerance:
        return [*found, does_not_apply(SIDES, "the base itself gives other logits where rows are padded on the right")]
    return [*found, subject.compared(SIDES, f"{batch} against padded on the right", subject.logits, right, by_side)]


def _alone(subject: AdapterUnderTest) -> torch.Tensor:
    columns = subject.logits.shape[1]
    return torch.cat([row_logits(subject.model, [row], subject.pad_id)[:, -columns:] for row in subject.probe.rows])


def _padded_on_the_right(subject: AdapterUnderTest) -> torch.Tensor:
    return row_logits(subject.model, subject.probe.rows, subject.pad_id, side="right")
