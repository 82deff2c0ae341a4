"""A row's result does not depend on the rows beside it, nor on the side of its padding."""

import torch

from heft.adapters.attach import activated
from heft.data.padding import padding_matters
from heft.verify.finding import FAILED, Finding, does_not_apply
from heft.verify.logits import judged_logits, largest, row_logits
from heft.verify.subject import Subject

CHECK = "batch against single"


def check_batching(subject: Subject) -> list[Finding]:
    """The padded batch against each row alone, then against the batch padded on the other side."""
    if padding_matters(subject.model, subject.pad_id, max(subject.probe.lengths)):
        return [
            does_not_apply(CHECK, "padding changes what the base makes of a row; heft runs rows of one length together")
        ]
    rows, columns = subject.probe.rows, subject.logits.shape[1]
    alone = torch.cat([row_logits(subject.model, [row], subject.pad_id)[:, -columns:] for row in rows])
    right = row_logits(subject.model, rows, subject.pad_id, side="right")
    lengths, rounding = subject.probe.lengths, subject.rounding
    batch = f"{len(rows)} rows of {min(lengths)} to {max(lengths)} tokens in one batch, padded on the left,"
    pairs = (
        (CHECK, f"{batch} against each alone", alone),
        ("left against right padding", f"{batch} against padded on the right", right),
    )
    findings = []
    for check, compared, other in pairs:
        finding = judged_logits(check, compared, subject.logits, other, rounding.logits, rounding.why)
        if finding.state == FAILED and other is right and _base_depends_on_the_side(subject):
            finding = does_not_apply(check, "the base itself gives other logits where rows are padded on the right")
        findings.append(finding)
    return findings


def _base_depends_on_the_side(subject: Subject) -> bool:
    model, rows = subject.model, subject.probe.rows
    with activated(model, []):
        left, right = (row_logits(model, rows, subject.pad_id, side) for side in ("left", "right"))
    return largest(left, right) > subject.rounding.logits
