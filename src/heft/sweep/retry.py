"""Passes that may fail: rows without a loss, rotations that cannot be computed, memory that runs out."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from heft.adapters.attach import activate, train_only
from heft.errors import HeftError
from heft.runtime.memory_errors import is_out_of_memory
from heft.sweep.forward import PackedForward
from heft.sweep.learner import Learner
from heft.sweep.packing import NO_ADAPTER, WorkItem, packs
from heft.sweep.room import TokenBudget
from heft.training.guards import ROWS_SHOWN
from heft.training.trainer import frozen_adapter_modules

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class RetryingForward:
    """Runs passes; where one fails, ends the configurations at fault, or takes smaller passes.

    Attributes:
        learners: all configurations, by their numbers.
        passes: the forward passes.
        room: most tokens in a pass.
    """

    learners: Sequence[Learner]
    passes: PackedForward
    room: TokenBudget

    def measure(self, copies: Sequence[WorkItem]) -> list[float]:
        """−ln p of each copy's continuation; a configuration with one that is not finite has diverged.

        Raises:
            HeftError: there are rows without a finite loss, whatever the configuration.
        """
        values = self._losses(copies)
        bad = [copy for copy, value in zip(copies, values, strict=True) if not math.isfinite(value)]
        if bad:
            self.require_finite_rows(bad)
        for adapter in {copy.adapter for copy in bad}:
            self.diverge(self.learners[adapter])
        return values

    @torch.no_grad()
    def _losses(self, copies: Sequence[WorkItem]) -> list[float]:
        """−ln p of each, in as many passes as the room asks for.

        Copies in one sequence share what is no number, so those that are not finite are computed anew, each without
        others of its row.
        """
        values = self._in_passes(copies)
        for apart in _one_of_each_row([n for n, value in enumerate(values) if not math.isfinite(value)], copies):
            for n, value in zip(apart, self._in_passes([copies[n] for n in apart]), strict=True):
                values[n] = value
        return values

    def _in_passes(self, copies: Sequence[WorkItem]) -> list[float]:
        order = sorted(range(len(copies)), key=lambda n: (copies[n].row, copies[n].adapter))
        values = [0.0] * len(copies)
        for chunk in self.packed(order, lambda n: self.tokens([copies[n]])):
            for n, value in zip(chunk, self._in_a_pass([copies[n] for n in chunk]), strict=True):
                values[n] = value
        return values

    def _in_a_pass(self, copies: Sequence[WorkItem]) -> list[float]:
        """In one, or in halves where memory does not suffice."""
        halves = [copies[: len(copies) // 2], copies[len(copies) // 2 :]] if len(copies) > 1 else []
        if halves and self.room.is_short_for(self.tokens(copies)):
            return [value for half in halves for value in self._in_a_pass(half)]
        values = self.tried(lambda: self.passes.losses(copies).tolist(), [self.tokens(half) for half in halves])
        return self._in_a_pass(copies) if values is None else values

    def tried(self, run: Callable[[], _Result], halves: Sequence[int]) -> _Result | None:
        """What a pass gives; None where it is to be tried again.

        Either memory ran out, and there is less room from now on; or rotations could not be computed, and those whose
        they are have diverged.

        Args:
            run: the pass.
            halves: tokens of its halves; empty where it cannot be split.

        Raises:
            HeftError: memory ran out, and it cannot be split.
        """
        try:
            return run()
        except torch.linalg.LinAlgError:
            broken = [learner for learner in self.learners if not learner.diverged and not learner.has_rotations()]
            if not broken:
                raise
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            broken = []
        for learner in broken:  # from here on nothing holds on to the failed pass
            self.diverge(learner)
        if not broken:
            self.room.shrink(halves)
        return None

    def diverge(self, learner: Learner) -> None:
        """End a configuration, and turn its adapter off: no pass can be computed with it."""
        learner.diverge()
        model = self.passes.model
        ended = {each.configuration.adapter for each in self.learners if each.diverged}
        activate(model, [name for name in model.peft_config if name not in ended])
        train_only(model, [each.configuration.adapter for each in self.learners if not each.diverged])

    def require_finite_rows(self, copies: Sequence[WorkItem]) -> None:
        """See that copies whose losses are not finite have finite ones where no configuration edits them.

        Raises:
            HeftError: some have none; it names their rows.
        """
        unedited = list(dict.fromkeys(WorkItem(NO_ADAPTER, copy.row, 0, copy.continuation) for copy in copies))
        was_training = self.passes.model.training
        self.set_training(False)
        losses = zip(unedited, self._losses(unedited), strict=True)
        self.set_training(was_training)
        bad = sorted({copy.row for copy, loss in losses if not math.isfinite(loss)})
        if bad:
            ids = [self.passes.examples[row].example.id for row in bad]
            shown = ", ".join(ids[:ROWS_SHOWN]) + (
                f" and {len(ids) - ROWS_SHOWN} more" if len(ids) > ROWS_SHOWN else ""
            )
            raise HeftError(
                f"rows whose loss is not finite before any configuration edits them: {shown}. Look at these rows, and"
                " run the sweep anew in another directory (--output DIR)"
            )

    def set_training(self, is_training: bool) -> None:
        """Put the model in training mode or out of it; nothing that is frozen is ever dropped out."""
        model = self.passes.model
        model.train(is_training)
        for module in frozen_adapter_modules(model):
            if isinstance(module, nn.Dropout):
                module.eval()

    def tokens(self, copies: Iterable[WorkItem]) -> int:
        """How many run."""
        return sum(copy.width(self.passes.examples[copy.row]) for copy in copies)

    def packed(self, items: Iterable, size: Callable) -> list[list]:
        """Items in groups of `room.tokens` at most, in order; an item that is larger goes alone."""
        return packs(items, size, self.room.tokens)


def _one_of_each_row(numbers: Iterable[int], copies: Sequence[WorkItem]) -> list[list[int]]:
    """Numbers of copies in groups that have no row twice."""
    groups, seen = [], Counter()
    for n in numbers:
        row = copies[n].row
        if seen[row] == len(groups):
            groups.append([])
        groups[seen[row]].append(n)
        seen[row] += 1
    return groups
