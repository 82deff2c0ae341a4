"""LoRA folders as a person without heft loads them: PEFT's own loader, on the base alone."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from peft import PeftModel

from heft.adapters.attach import activate
from heft.data.encode import EncodedExample
from heft.verify.finding import Finding, broken_off, does_not_apply
from heft.verify.logits import judged_logits, row_logits

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from heft.verify.subject import Subject


def logits_in_plain_peft(
    base: "PreTrainedModel", folder: Path, name: str, rows: Sequence[EncodedExample], pad_id: int
) -> torch.Tensor | Finding:
    """Logits (B, K, V) with one folder loaded by `PeftModel.from_pretrained`; the base is left as it was.

    A finding where PEFT cannot load it.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")  # PEFT asks by the old name
            model = PeftModel.from_pretrained(base, str(folder))
    except Exception as error:  # whatever PEFT raises, the folder does not load
        return broken_off(_check(name), error)
    try:
        return row_logits(model.eval(), rows, pad_id)
    finally:
        model.unload()
        base.requires_grad_(False)


def check_plain_peft(subject: "Subject") -> list[Finding]:
    """Each LoRA folder in PEFT alone against heft's model with only that adapter on."""
    if not subject.peft_logits:
        return [does_not_apply("plain PEFT", "there is no LoRA adapter; a ReFT folder loads where heft is imported")]
    findings = []
    for name, theirs in subject.peft_logits.items():
        if isinstance(theirs, Finding):
            findings.append(theirs)
            continue
        activate(subject.model, [name])
        try:
            ours = subject.logits_now()
        finally:
            activate(subject.model, list(subject.model.peft_config))
        compared = f"PeftModel.from_pretrained(base, {name!r}), against heft's model with only that adapter on"
        rounding = subject.rounding
        findings.append(judged_logits(_check(name), compared, theirs, ours, rounding.logits, rounding.why))
    return findings


def _check(name: str) -> str:
    return f"{name} in plain PEFT"
