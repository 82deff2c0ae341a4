"""From a task to its examples: read, check, convert, limit."""

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from heft.errors import HeftError
from heft.tasks.base import Split, Task
from heft.tasks.example import Example
from heft.tasks.table import faults_by_cause


def examples_of(task: Task, split: Split) -> list[Example]:
    """The examples of a task object, which need not be in the table; otherwise as `heft.tasks.load_examples`."""
    if split not in ("train", "eval"):
        raise ValueError(f"split must be 'train' or 'eval'; got {split!r}")
    examples, faults, row_count = [], [], 0
    for where, row in task.rows(split):
        row_count += 1
        row_faults = task.row_faults(row)
        if not row_faults:
            try:
                examples += [replace(example, place=where) for example in task.examples(row)]
            except HeftError as error:
                row_faults = [str(error)]
        if row_faults:
            faults.append((where, "; ".join(row_faults)))
    if faults:
        raise faults_by_cause(f"{task.name}: {len(faults):,} of {row_count:,} {split} rows cannot be used:", faults)
    if not examples:
        raise HeftError(f"{task.name}: there are no {split} rows")
    if split == "eval":
        require_all_or_no_choices((str(example.place), example) for example in examples)
    settings = task.settings
    limit = settings.train_limit if split == "train" else settings.eval_limit
    # Ids are given before the limit, so that a repeated row has the same id whatever the limit.
    unique = with_unique_ids(examples)
    return [unique[index] for index in sampled_indices(len(unique), limit, settings.sample_seed)]


def require_all_or_no_choices(asked: Iterable[tuple[str, Example]]) -> None:
    """Require that all rows, given with their places, have choices, or none has.

    Raises:
        HeftError: they differ; the first place of each is named.
    """
    first: dict[bool, str] = {}
    for place, example in asked:
        first.setdefault(bool(example.choices), place)
    if len(first) > 1:
        raise HeftError(
            f"{first[True]} has choices, one of which is the answer, and the answer to {first[False]} is generated;"
            " give each kind its own file"
        )


def with_unique_ids(examples: Iterable[Example]) -> list[Example]:
    """The same examples; the second of equal content gets the suffix -2, the third -3, and so on."""
    seen: Counter[str] = Counter()
    unique = []
    for example in examples:
        seen[example.id] += 1
        count = seen[example.id]
        unique.append(example if count == 1 else replace(example, id=f"{example.id}-{count}"))
    return unique


def sampled_indices(count: int, limit: int | None, seed: int) -> list[int]:
    """The indices that a limit selects, ascending; those of a smaller limit are a subset of a larger one's."""
    if limit is None or limit >= count:
        return list(range(count))
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return sorted(order[:limit])
