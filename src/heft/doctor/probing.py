"""Imports tried in another process, which may be ended by one of them."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heft.doctor import child

TIMEOUT_SECONDS = 300


@dataclass
class Facts:
    """What the other process told.

    Attributes:
        errors: why each module that was tried cannot be imported; None where it can.
        torch: see heft.doctor.child.of_torch; empty where torch cannot be imported.
    """

    errors: dict[str, str | None] = field(default_factory=dict)
    torch: dict[str, Any] = field(default_factory=dict)


def probe(names: Sequence[str]) -> Facts:
    """Import all modules; one that ends the process is named, and the rest are tried in another."""
    facts, left = Facts(), list(names)
    while left:
        lines, ended = _run(left)
        at_work = None
        for values in lines:
            at_work = values.get("importing", at_work)
            if "imported" in values:
                facts.errors[values["imported"]] = values["error"]
                at_work = None
            facts.torch = values.get("torch", facts.torch)
        if at_work is not None:
            facts.errors[at_work] = f"the import ended the process: {ended}"
        still_left = [name for name in left if name not in facts.errors]
        if still_left == left:  # it never came so far as to begin
            facts.errors.update(dict.fromkeys(left, f"no import could be tried: {ended}"))
            still_left = []
        left = still_left
    return facts


def _run(names: Sequence[str]) -> tuple[list[dict], str]:
    """What the process told, and how it ended, in words."""
    command = [sys.executable, "-P", str(Path(child.__file__)), *names]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_SECONDS, errors="replace")
        output, ended = done.stdout, _ending(done.returncode, done.stderr)
    except subprocess.TimeoutExpired as error:
        output = error.stdout or ""
        output = output.decode(errors="replace") if isinstance(output, bytes) else output
        ended = f"not done after {TIMEOUT_SECONDS} seconds"
    lines = [line.removeprefix(child.MARK) for line in output.splitlines() if line.startswith(child.MARK)]
    return [json.loads(line) for line in lines], ended


def _ending(status: int, errors: str) -> str:
    if status < 0:
        return f"signal {signal.Signals(-status).name}"
    last = (errors.strip().splitlines() or [""])[-1]
    return f"exit status {status}" + (f", {last}" if last else "")
