"""One thing that was looked at, and what is thought of it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

OK, NOTE, FAULT = "ok", "note", "fault"


@dataclass(frozen=True)
class Line:
    """What was seen.

    Attributes:
        topic: such as "versions"; lines of one topic follow each other.
        state: `OK`, `NOTE` (works, but know this) or `FAULT` (something will not work, or work badly).
        text: what was seen.
        advice: what to do about it; None where nothing is to be done.
    """

    topic: str
    state: str
    text: str
    advice: str | None = None

    def shown(self) -> str:
        """As it is printed."""
        advice = f"\n      do: {self.advice}" if self.advice else ""
        return f"{self.state:<5} {self.topic}: {self.text}{advice}"


def ok(topic: str, text: str) -> Line:
    """Nothing is to be done."""
    return Line(topic, OK, text)


def note(topic: str, text: str, advice: str | None = None) -> Line:
    """It works, but something about it is worth knowing."""
    return Line(topic, NOTE, text, advice)


def fault(topic: str, text: str, advice: str) -> Line:
    """Something will not work, or work badly, until the advice is followed."""
    return Line(topic, FAULT, text, advice)


def has_fault(lines: Sequence[Line]) -> bool:
    """Whether any line is a fault."""
    return any(line.state == FAULT for line in lines)


def as_text(lines: Sequence[Line]) -> str:
    """All lines for people, with a count at the end."""
    counts = {state: sum(line.state == state for line in lines) for state in (OK, NOTE, FAULT)}
    total = f"{counts[OK]} ok, {counts[NOTE]} notes, {counts[FAULT]} faults"
    return "\n".join([*(line.shown() for line in lines), "", total])


def as_json(lines: Sequence[Line]) -> str:
    """All lines for programs."""
    return json.dumps({"ok": not has_fault(lines), "lines": [asdict(line) for line in lines]}, indent=2)


def in_gigabytes(count: float) -> str:
    """`12.3 GB`."""
    return f"{count / 1e9:.1f} GB"
