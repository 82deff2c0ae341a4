"""trials.jsonl: a line for each finished trial and each decision that depended on time, and the accounts of the arms.

A search that is resumed runs the same way again, and takes from here what is there.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from heft.errors import HeftError
from heft.storage.atomic import append_line, readable_os_errors
from heft.storage.reading import is_file, parse_json, read_lines
from heft.tune.chosen_by import ChosenBy
from heft.tune.trial import Outcome

_OUTCOME = TypeAdapter(Outcome)


@dataclass
class Ledger:
    """All that is finished.

    Attributes:
        path: of trials.jsonl.
        outcomes: by key, in the order in which they ended.
        decisions: by name.
        lost: seconds of work that was interrupted, by arm.
    """

    path: Path
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    decisions: dict[str, Any] = field(default_factory=dict)
    lost: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "Ledger":
        """What an earlier call wrote; a last line that was cut off is dropped.

        Raises:
            HeftError: a line is not one of a search.
        """
        ledger = cls(path)
        lines = list(read_lines(path)) if is_file(path) else []
        whole = 0
        for number, line in lines:
            try:
                if not line.endswith(b"\n"):  # though it may be whole: the next would be written behind it
                    raise ValueError("it has no end")
                ledger._take(parse_json(line))
            except (ValueError, KeyError, TypeError) as error:  # pydantic's are ValueErrors
                if number == lines[-1][0]:
                    with readable_os_errors(path):
                        os.truncate(path, whole)
                    break
                text = f"{path}:{number} is no line of a search ({error}); begin again with --overwrite"
                raise HeftError(text) from None
            whole += len(line.rstrip(b"\n")) + 1
        return ledger

    def _take(self, line: dict[str, Any]) -> None:
        if "trial" in line:
            outcome = _OUTCOME.validate_python(line["trial"])
            self.outcomes[outcome.key] = outcome
        elif "decision" in line:
            self.decisions[line["decision"]] = line["value"]
        else:
            self.lost[line["lost"]] = self.lost.get(line["lost"], 0.0) + float(line["seconds"])

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Write down finished trials."""
        for outcome in outcomes:
            self.outcomes[outcome.key] = outcome
            append_line(self.path, json.dumps({"trial": asdict(outcome)}, allow_nan=False))

    def decided(self, name: str, decide: Callable[[], Any]) -> Any:
        """A decision that stays as it was first taken; its value is one that JSON has."""
        if name not in self.decisions:
            self.decisions[name] = decide()
            append_line(self.path, json.dumps({"decision": name, "value": self.decisions[name]}, allow_nan=False))
        return self.decisions[name]

    def lose(self, arm: str, seconds: float) -> None:
        """Write down time of an arm that led to nothing."""
        self.lost[arm] = self.lost.get(arm, 0.0) + seconds
        append_line(self.path, json.dumps({"lost": arm, "seconds": seconds}))


@dataclass
class Account:
    """What one arm may spend, and what it has used; pieces that several arms use are paid by each.

    Attributes:
        arm: its name.
        amount: of "seconds" or "flops" (`unit`).
        chosen_by: what its trials are chosen by.
        used: everything it paid for, in order.
    """

    arm: str
    amount: float
    unit: str
    ledger: Ledger
    chosen_by: ChosenBy
    used: dict[str, Outcome] = field(default_factory=dict)

    def pay(self, outcomes: Sequence[Outcome]) -> None:
        """Take pieces into account; one that is there already costs nothing more."""
        self.used |= {outcome.key: outcome for outcome in outcomes}

    @property
    def spent(self) -> float:
        """So far."""
        lost = self.ledger.lost.get(self.arm, 0.0) if self.unit == "seconds" else 0.0
        return lost + sum(outcome.spent(self.unit) for outcome in self.used.values())

    @property
    def left(self) -> float:
        """Still to spend; below 0 where a piece took longer than was foreseen."""
        return self.amount - self.spent
