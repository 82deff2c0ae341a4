"""Silent training failures: a loss, gradients or weights that are NaN or infinite, and a loss that does not fall."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from statistics import fmean, stdev

import torch
from torch import nn
from torch.nn.utils import get_total_norm

from heft.data.batching import select_rows
from heft.errors import HeftError
from heft.models.sharding import whole
from heft.text.listing import first_of
from heft.training.loss import Loss

ROWS_SHOWN = 10
SHARE = 0.2
"""Of the logged losses, the first and the last that are compared."""
FEWEST = 4
"""Losses in each."""
SMALLEST_FALL = 0.02
"""A loss that fell by less than this share of its first level, and by less than two standard errors, is flat."""


class Diverged(HeftError):
    """A loss or a gradient is NaN or infinite, and the step was not taken; or steps have spoiled the weights."""


@torch.no_grad()
def rows_without_a_finite_loss(model: nn.Module, loss: Loss, batches: Iterable[dict[str, torch.Tensor]]) -> list[int]:
    """Numbers of the rows (`row_ids`) whose loss, computed alone, is NaN or infinite."""
    model.eval()
    return [
        row
        for batch in batches
        for i, row in enumerate(batch["row_ids"].tolist())
        if not torch.isfinite(loss(model, select_rows(batch, [i])))
    ]


@torch.no_grad()
def require_sound_weights(
    stage: str, step: int, model: nn.Module, parameters: Sequence[torch.Tensor], loss: Loss, batch: dict
) -> None:
    """Find out now what the next step would: whether the trained `parameters` and the loss of a row are finite.

    Args:
        stage, step: the stage's name, and the last step that was taken.
        model, loss: as the stage trains.
        batch: of the last step; its first row is tried.

    Raises:
        Diverged: they are not.
    """
    norm = float(whole(get_total_norm(parameters)))
    if not math.isfinite(norm):
        raise weights_diverged(stage, step, f"the norm of the trained weights is {norm}")
    model.eval()
    with singular_rotation_as_diverged(stage, step):
        value = float(loss(model, select_rows(batch, [0])))
    if not math.isfinite(value):
        raise weights_diverged(stage, step, f"the loss of a row that it was taken on is {value}")


def diverged(
    stage: str, step: int, what: str, bad: Sequence[str] | None, rows: Sequence[str], weights_moved: bool
) -> Diverged:
    """The error of a loss or a gradient that is NaN or infinite.

    Args:
        stage, step: the stage's name, and the step, counted from 1.
        what: is not finite, with its value: "the loss is nan".
        bad: ids of the rows whose loss alone is not finite; None where that was not tried.
        rows: ids of all rows that it was computed from.
        weights_moved: whether a step had been taken; weights that are off make every row bad.
    """
    if bad is None:
        named, whose, advice = rows, "its rows are", _lower_rate(stage)
    elif 0 < len(bad) < len(rows) or (bad and not weights_moved):
        named, whose, advice = bad, "rows whose loss alone is not finite", "Look at these rows"
    else:
        whose = f"each of its rows alone has {'no' if bad else 'a'} finite loss; they are"
        named, advice = rows, _lower_rate(stage)
    return _advised(f"stage {stage}, step {step}: {what}; {whose}: {first_of(named, ROWS_SHOWN)}", advice)


def weights_diverged(stage: str, step: int, what: str) -> Diverged:
    """The error of steps, up to this one, that have left weights that cannot be used; `what` says what is wrong."""
    return _advised(f"stage {stage}: after step {step} {what}", _lower_rate(stage))


@contextmanager
def singular_rotation_as_diverged(stage: str, step: int) -> Iterator[None]:
    """Inside, a singular rotation is a `Diverged` error; arguments as for `weights_diverged`."""
    try:
        yield
    except torch.linalg.LinAlgError as error:
        raise weights_diverged(stage, step, "rows of a rotation depend on each other or are not finite") from error


def _lower_rate(stage: str) -> str:
    return f"Lower stages.{stage}.learning_rate, or lengthen its warmup"


def _advised(what: str, advice: str) -> Diverged:
    return Diverged(f"{what}. Earlier checkpoints are kept. {advice}, then rerun with another --output DIR")


def flat_loss_note(what: str, losses: Sequence[float]) -> str | None:
    """A note that the last logged losses of `what` was trained are about as high as the first.

    None where they are lower, or too few to tell.
    """
    count = max(FEWEST, round(SHARE * len(losses)))
    if len(losses) < 2 * count:
        return None
    first, last = losses[:count], losses[-count:]
    fall = fmean(first) - fmean(last)
    error = ((stdev(first) ** 2 + stdev(last) ** 2) / count) ** 0.5
    if fall > SMALLEST_FALL * abs(fmean(first)) or fall > 2 * error:
        return None
    return (
        f"the loss of {what} is flat: {fmean(first):.4f} over the first {count} logged steps, {fmean(last):.4f} over"
        f" the last {count}; a higher learning_rate, a larger rank or other positions may lower it"
    )
