"""What goes wrong in training without a noise: numbers that are none, a loss that stays where it is."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import torch

from heft.data.batching import select_rows
from heft.errors import HeftError
from heft.training.loss import Loss

if TYPE_CHECKING:
    from torch import nn

ROWS_SHOWN = 10
SHARE = 0.2
"""Of the logged losses, the first and the last that are set against each other."""
FEWEST = 4
"""Losses in each."""
SMALLEST_FALL = 0.02
"""A loss that fell by less than this share of its first level, and by less than two standard errors, has not moved."""


class Diverged(HeftError):
    """A loss or a gradient is not a finite number, and the step was not taken; or steps have spoiled the weights."""


def rows_without_a_finite_loss(model: "nn.Module", loss: Loss, batches: Sequence[dict[str, torch.Tensor]]) -> list[int]:
    """Numbers of the rows (`row_ids`) whose loss, computed alone, is not finite."""
    found = []
    model.eval()
    with torch.no_grad():
        for batch in batches:
            for i, row in enumerate(batch["row_ids"].tolist()):
                if not torch.isfinite(loss(model, select_rows(batch, [i]))):
                    found.append(row)
    return found


def diverged(
    stage: str, step: int, what: str, bad: Sequence[str], rows: Sequence[str], weights_moved: bool
) -> Diverged:
    """The error of a loss or a gradient that is not finite.

    Args:
        stage: its name.
        step: counted from 1.
        what: is not finite, with its value: "the loss is nan".
        bad: ids of the rows whose loss alone is not finite.
        rows: ids of all rows that it was computed from.
        weights_moved: whether a step had been taken; weights that are off make every row bad.
    """
    blamed = 0 < len(bad) < len(rows) or (bad and not weights_moved)
    named = bad if blamed else rows
    shown = ", ".join(named[:ROWS_SHOWN]) + (f" and {len(named) - ROWS_SHOWN} more" if len(named) > ROWS_SHOWN else "")
    if blamed:
        whose = "rows whose loss alone is not finite"
    else:
        whose = f"each of its rows alone has {'no' if bad else 'a'} finite loss; they are"
    advice = "look at these rows" if blamed else _lower_rate(stage)
    return _advised(f"stage {stage}, step {step}: {what}; {whose}: {shown}", advice)


def weights_diverged(stage: str, step: int, what: str) -> Diverged:
    """The error of steps that have left weights with which nothing can be computed.

    Args:
        stage: its name.
        step: the last one that was taken.
        what: is wrong: "the norm of the trained weights is inf".
    """
    return _advised(f"stage {stage}: after step {step} {what}", _lower_rate(stage))


@contextmanager
def singular_rotation_as_diverged(stage: str, step: int) -> Iterator[None]:
    """Inside, a singular rotation is a `Diverged` error; arguments as for `weights_diverged`."""
    try:
        yield
    except torch.linalg.LinAlgError as error:
        raise weights_diverged(stage, step, "rows of a rotation depend on each other or are not finite") from error


def _lower_rate(stage: str) -> str:
    return f"lower stages.{stage}.learning_rate, or lengthen its warmup"


def _advised(what: str, advice: str) -> Diverged:
    return Diverged(
        f"{what}. What was kept before stays. Then: {advice}, and run it anew in another directory (--output DIR)"
    )


def is_flat(losses: Sequence[float]) -> str | None:
    """In words, that the last losses are about as high as the first; None where they are lower, or too few to tell."""
    count = max(FEWEST, round(SHARE * len(losses)))
    if len(losses) < 2 * count:
        return None
    first, last = losses[:count], losses[-count:]
    fall = fmean(first) - fmean(last)
    error = ((stdev(first) ** 2 + stdev(last) ** 2) / count) ** 0.5
    if fall > SMALLEST_FALL * abs(fmean(first)) or fall > 2 * error:
        return None
    return f"{fmean(first):.4f} over the first {count} logged steps, {fmean(last):.4f} over the last {count}"
