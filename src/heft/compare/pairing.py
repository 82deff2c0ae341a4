"""Pair the answers of runs by question; runs that were asked different questions are refused."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from heft.compare.arms import Arm
from heft.compare.runs import RunFiles
from heft.errors import HeftError
from heft.results.records import Record


@dataclass(frozen=True)
class Answers:
    """The answers of arms to the same n questions.

    Attributes:
        groups: each question's group, numbered from 0; a question that shares no text is a group of its own.
        right: of each arm, by its name: whether each run (row) answered each question rightly; S×n, 0 or 1.
    """

    groups: np.ndarray
    right: dict[str, np.ndarray]


def align(arms: Sequence[Arm]) -> Answers:
    """Put the answers of all runs in one order.

    Raises:
        HeftError: runs are of different tasks, were scored differently, or did not answer the same questions with the
            same prompts; the message counts those that differ.
    """
    first = arms[0].runs[0]
    reference = _by_id(first, arms[0].runs[0].after(arms[0].stage).records)
    right = {}
    for arm in arms:
        rows = []
        for run in arm.runs:
            _require_same_task(first, run)
            records = _by_id(run, run.after(arm.stage).records)
            _require_same_questions(first, reference, run, records)
            rows.append([records[key].correct for key in reference])
        right[arm.name] = np.array(rows, dtype=float)
    numbers: dict[str, int] = {}
    groups = [
        numbers.setdefault(f"id {key}" if r.group is None else f"group {r.group}", len(numbers))
        for key, r in reference.items()
    ]
    return Answers(np.array(groups), right)


def _by_id(run: RunFiles, records: Sequence[Record]) -> dict[str, Record]:
    twice = sum(count > 1 for count in Counter(record.id for record in records).values())
    if twice:
        raise HeftError(f"{run.path}: {twice:,} ids occur more than once in its records, so they cannot be paired")
    return {record.id: record for record in records}


def _require_same_task(first: RunFiles, other: RunFiles) -> None:
    for key, name in (("task", "name"), ("evaluation", "normalize")):
        one, two = (run.recipe.get(key, {}).get(name) for run in (first, other))
        if one != two:
            unlike = f"{key}.{name} is {one} in the one and {two} in the other"
            raise HeftError(f"{first.path} and {other.path} cannot be compared: {unlike}")


def _require_same_questions(
    first: RunFiles, reference: dict[str, Record], other: RunFiles, records: dict[str, Record]
) -> None:
    where = f"{first.path} and {other.path} do not pair:"
    only_first, only_other = len(reference.keys() - records.keys()), len(records.keys() - reference.keys())
    if only_first or only_other:
        both = len(reference.keys() & records.keys())
        raise HeftError(
            f"{where} {both:,} questions are in both, {only_first:,} in the first only, {only_other:,} in the second"
            " only; evaluate both on the same rows (task.* of their recipes)"
        )
    for field, what in (
        ("prompt", "were shown to the model with another prompt (tokenizer, chat template or length limit)"),
        ("gold", "have another right answer"),
        ("group", "belong to another text"),
    ):
        differ = sum(getattr(r, field) != getattr(records[key], field) for key, r in reference.items())
        if differ:
            raise HeftError(f"{where} {differ:,} of {len(reference):,} questions {what}")
