"""LoRA folders as a person without heft loads them: PEFT's own loader, on the base alone."""

from heft.verify.finding import Finding, broken_off, does_not_apply
from heft.verify.subject import AdapterUnderTest


def check_plain_peft(subject: AdapterUnderTest) -> list[Finding]:
    """Each LoRA folder in PEFT alone against heft's model with only that adapter on."""
    if not subject.peft_logits:
        return [does_not_apply("plain PEFT", "there is no LoRA adapter; a ReFT folder loads where heft is imported")]
    findings = []
    for name, theirs in subject.peft_logits.items():
        check = f"{name} in plain PEFT"
        if isinstance(theirs, Exception):
            findings.append(broken_off(check, theirs))
            continue
        compared = f"PeftModel.from_pretrained(base, {name!r}), against heft's model with only that adapter on"
        findings.append(subject.compared(check, compared, theirs, subject.logits_with([name])))
    return findings
