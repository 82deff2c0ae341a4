"""All checks on one adapter directory, in order."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heft.storage.atomic import finite
from heft.verify.batching import check_batching
from heft.verify.decoding import check_decoding
from heft.verify.effect import check_effect
from heft.verify.fast_paths import check_sharing, check_training
from heft.verify.finding import FAILED, Finding, broken_off
from heft.verify.merging import check_merging
from heft.verify.plain_peft import check_plain_peft
from heft.verify.saved import check_loaded, check_saved_again
from heft.verify.subject import AdapterUnderTest, open_subject

CHECKS: dict[str, Callable[[AdapterUnderTest], list[Finding]]] = {
    "saved against loaded": check_loaded,
    "saved again": check_saved_again,
    "the adapters change something": check_effect,
    "cached against uncached decoding": check_decoding,
    "batch against single": check_batching,
    "merged against unmerged": check_merging,
    "shared prefixes in evaluation": check_sharing,
    "reuse in training": check_training,
    "plain PEFT": check_plain_peft,
}
"""Each leaves the model as it found it."""
_CLEAR = 10
"""An effect below so many tolerances could be misplaced and pass."""


@dataclass(frozen=True)
class Report:
    """What was verified, the findings of all checks, and the seconds from the first file to the last check."""

    subject: AdapterUnderTest
    findings: list[Finding]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return not any(finding.state == FAILED for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        subject = self.subject
        return {
            "adapter": str(subject.directory),
            "base": subject.manifest.model.name,
            "dtype": str(subject.model.dtype).removeprefix("torch."),
            "device": str(subject.model.device),
            "adapters": [entry.model_dump() for entry in subject.manifest.adapters],
            "probe": {"source": subject.probe.source, "tokens": subject.probe.lengths},
            "effect": finite(
                {"logits": subject.effect, "predictions": subject.changed, "of": subject.logits[..., 0].numel()}
            ),
            "ok": self.ok,
            "findings": [finding.to_dict() for finding in self.findings],
            "seconds": round(self.seconds, 1),
        }


def verify(
    directory: str | Path,
    rows: int = 4,
    device: str | None = None,
    trust_remote_code: bool = False,
    base: str | None = None,
) -> Report:
    """Compare an adapter directory with itself in every way that it is used.

    Args:
        directory: an adapter directory, such as `runs/quickstart/adapter`.
        rows: how many rows of the adapter's task it is probed with, at least 2.
        device: "cpu", "cuda" or "mps"; None takes the recipe's.
        trust_remote_code: whether code that comes with the base may run, where the directory asks for it.
        base: folder or Hub id of the base, where it is not where the directory says.

    Raises:
        HeftError: the directory cannot be read or asks to run code without leave, or its base is missing or another.
    """
    start = time.perf_counter()
    subject = open_subject(Path(directory), rows, device, trust_remote_code, base)
    return Report(subject, list(findings_of(subject)), time.perf_counter() - start)


def findings_of(subject: AdapterUnderTest) -> Iterator[Finding]:
    """The findings of all checks, each as soon as it is there; a check that ends in an error has failed."""
    for name, check in CHECKS.items():
        try:
            yield from check(subject)
        except Exception as error:  # whatever went wrong went wrong in what is verified
            yield broken_off(name, error)


def heading(subject: AdapterUnderTest) -> list[str]:
    """What is verified with what, and how far mistakes can show."""
    lengths, adapters = subject.probe.lengths, subject.manifest.adapters
    lines = [
        f"base: {subject.manifest.model.name}, {str(subject.model.dtype).removeprefix('torch.')} on"
        f" {subject.model.device.type}; adapters: {', '.join(f'{e.name} ({e.method})' for e in adapters)}",
        f"probe: {len(lengths)} {subject.probe.source}; {min(lengths)} to {max(lengths)} tokens, logits after the last"
        f" {subject.logits.shape[1]}",
        f"together the adapters change logits by up to {subject.effect:.3g}, {_times(subject)} the tolerance, and"
        f" {subject.changed:,} of {subject.logits[..., 0].numel():,} predictions",
    ]
    if not subject.effect >= _CLEAR * subject.rounding.logits:
        lines.append("note: so small an effect is near what rounding may do; misplaced edits might pass these checks")
    return lines


def _times(subject: AdapterUnderTest) -> str:
    tolerance = subject.rounding.logits
    return f"{subject.effect / tolerance:,.3g} times" if tolerance else "beside 0 for"
