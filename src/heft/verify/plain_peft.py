"""LoRA folders as a person without heft loads them: PEFT's own loader, on the base alone."""

from heft.verify.finding import Finding, does_not_apply
from heft.verify.logits import judged_logits, plain_peft_check
from heft.verify.subject import Subject


def check_plain_peft(subject: Subject) -> list[Finding]:
    """Each LoRA folder in PEFT alone against heft's model with only that adapter on."""
    if not subject.peft_logits:
        return [does_not_apply("plain PEFT", "there is no LoRA adapter; a ReFT folder loads where heft is imported")]
    findings = []
    for name, theirs in subject.peft_logits.items():
        if isinstance(theirs, Finding):
            findings.append(theirs)
            continue
        ours = subject.logits_with([name])
        compared = f"PeftModel.from_pretrained(base, {name!r}), against heft's model with only that adapter on"
        rounding = subject.rounding
        findings.append(judged_logits(plain_peft_check(name), compared, theirs, ours, rounding.logits, rounding.why))
    return findings
