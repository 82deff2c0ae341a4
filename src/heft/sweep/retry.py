"""Forward passes that may fail: rows without a loss, rotations that cannot be computed, memory that runs out."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from heft.adapters.attach import activate, train_only
from heft.data.batching import packs
from heft.errors import HeftError
from heft.runtime.memory_errors import attempt, no_room_for
from heft.sweep.forward import PackedForward
from heft.sweep.learner import Learner
from heft.sweep.packing import NO_ADAPTER, WorkItem
from heft.text.listing import first_of
from heft.training.guards import ROWS_SHOWN
from heft.training.modes import frozen_dropouts, train_mode

_Result = TypeVar("_Result")


class TokenBudget:
    """Tokens of a forward pass: what the recipe allows, and fewer once memory has run out.

    Attributes:
        tokens: most of several configurations together; one configuration's (micro-)batch may be larger.
    """

    def __init__(self, tokens: int, note: Callable[[str], None]):
        self.tokens, self._note = tokens, note
        self._has_run_out = False

    def is_exceeded_by(self, tokens: int) -> bool:
        """Whether memory has run out before, and so many tokens are more than what is tried since."""
        return self._has_run_out and tokens > self.tokens

    def shrink(self, halves: Sequence[int]) -> None:
        """A pass did not fit: from now on no more is tried than the larger of its halves.

        Args:
            halves: tokens of both; empty where it cannot be split.

        Raises:
            HeftError: it cannot be split.
        """
        if not halves:
            raise no_room_for("a single row of one configuration")
        self._has_run_out = True
        self.tokens = min(self.tokens, max(halves))
        self._note(f"out of memory: a pass reduced to {self.tokens:,} tokens (batch sizes stay)")


@dataclass(frozen=True)
class RetryingForward:
    """Runs passes; where one fails, ends the configurations at fault, or takes smaller passes."""

    learners: Sequence[Learner]
    forward: PackedForward
    budget: TokenBudget

    def measure(self, items: Sequence[WorkItem]) -> list[float]:
        """−ln p of each item's continuation; a configuration with one that is not finite has diverged.

        Raises:
            HeftError: there are rows without a finite loss, whatever the configuration.
        """
        values = self._losses(items)
        bad = [item for item, value in zip(items, values, strict=True) if not math.isfinite(value)]
        if bad:
            self.require_finite_rows(bad)
        for adapter in {item.adapter for item in bad}:
            self.diverge(self.learners[adapter])
        return values

    @torch.no_grad()
    def _losses(self, items: Sequence[WorkItem]) -> list[float]:
        """−ln p of each, in as many passes as the budget asks for.

        Items in one sequence share a NaN, so those that are not finite are computed again, each without others of its
        row.
        """
        values = self._in_passes(items)
        for apart in _one_of_each_row([n for n, value in enumerate(values) if not math.isfinite(value)], items):
            for n, value in zip(apart, self._in_passes([items[n] for n in apart]), strict=True):
                values[n] = value
        return values

    def _in_passes(self, items: Sequence[WorkItem]) -> list[float]:
        order = sorted(range(len(items)), key=lambda n: (items[n].row, items[n].adapter))
        values = [0.0] * len(items)
        for chunk in packs(order, lambda n: self.tokens([items[n]]), self.budget.tokens):
            for n, value in zip(chunk, self._in_a_pass([items[n] for n in chunk]), strict=True):
                values[n] = value
        return values

    def _in_a_pass(self, items: Sequence[WorkItem]) -> list[float]:
        """In one, or in halves where memory does not suffice."""
        halves = [items[: len(items) // 2], items[len(items) // 2 :]] if len(items) > 1 else []
        if halves and self.budget.is_exceeded_by(self.tokens(items)):
            return [value for half in halves for value in self._in_a_pass(half)]
        values = self.tried(lambda: self.forward.losses(items).tolist(), [self.tokens(half) for half in halves])
        return self._in_a_pass(items) if values is None else values

    def tried(self, run: Callable[[], _Result], halves: Sequence[int]) -> _Result | None:
        """What a pass returns; None where it is to be tried again.

        Either memory ran out, and the budget is smaller now; or rotations could not be computed, and the
        configurations that they belong to have diverged. `halves` are as for `TokenBudget.shrink`.

        Raises:
            HeftError: memory ran out, and it cannot be split.
        """
        try:
            result = attempt(run)
        except torch.linalg.LinAlgError:
            broken = [learner for learner in self.learners if not learner.diverged and not learner.has_rotations()]
            if not broken:
                raise
        else:
            if result is not None:
                return result[0]
            self.budget.shrink(halves)
            broken = []
        for learner in broken:  # here, where the error's traceback holds on to nothing
            self.diverge(learner)
        return None

    def diverge(self, learner: Learner) -> None:
        """End a configuration, and turn its adapter off: no pass can be computed with it."""
        learner.diverge()
        model = self.forward.model
        ended = {each.configuration.adapter for each in self.learners if each.diverged}
        activate(model, [name for name in model.peft_config if name not in ended])
        train_only(model, [each.configuration.adapter for each in self.learners if not each.diverged])

    def require_finite_rows(self, items: Sequence[WorkItem]) -> None:
        """Check that items whose losses are not finite have finite ones where no configuration edits them.

        Raises:
            HeftError: some have none; it names their rows.
        """
        unedited = list(dict.fromkeys(WorkItem(NO_ADAPTER, item.row, 0, item.continuation) for item in items))
        was_training = self.forward.model.training
        self.set_training(False)
        losses = zip(unedited, self._losses(unedited), strict=True)
        self.set_training(was_training)
        bad = sorted({item.row for item, loss in losses if not math.isfinite(loss)})
        if bad:
            ids = first_of((self.forward.examples[row].example.id for row in bad), ROWS_SHOWN)
            raise HeftError(
                f"rows whose loss is not finite before any configuration edits them: {ids}. Look at these rows, then"
                " rerun the sweep with another --output DIR"
            )

    def set_training(self, is_training: bool) -> None:
        """Put the model in training mode or out of it; nothing that is frozen is ever dropped out."""
        if is_training:
            train_mode(self.forward.model, frozen_dropouts(self.forward.model))
        else:
            self.forward.model.eval()

    def tokens(self, items: Iterable[WorkItem]) -> int:
        """How many run."""
        return sum(item.width(self.forward.examples[item.row]) for item in items)


def _one_of_each_row(numbers: Iterable[int], items: Sequence[WorkItem]) -> list[list[int]]:
    """Numbers of items in groups without two items of a row."""
    groups, seen = [], Counter()
    for n in numbers:
        row = items[n].row
        if seen[row] == len(groups):
            groups.append([])
        groups[seen[row]].append(n)
        seen[row] += 1
    return groups
