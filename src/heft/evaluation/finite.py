"""NaN and infinity in an evaluation: an error for people, never a figure."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from transformers import LogitsProcessor, PreTrainedModel

from heft.edits.arithmetic import orthonormal_rows
from heft.errors import HeftError
from heft.evaluation.shared_prefix import Question
from heft.models.sharding import whole
from heft.reft.layer import layers_of
from heft.text.listing import first_of

_NAMED = 3
_ADVICE = (
    "A damaged file does that, and so does training at too high a learning rate: take another copy, or train the stage"
    " again with a lower learning_rate"
)
_LOOK = "`heft verify ADAPTER` names tensors of adapters that are not finite. " + _ADVICE


class NotFinite(HeftError):
    """A model computes NaN or infinity: its weights are damaged, or its training diverged."""


def require_finite(examples: Sequence[Question], scores: Sequence[Sequence[float]]) -> None:
    """Require that every choice has a log-likelihood that is finite; not even −inf can be written to a record.

    Raises:
        NotFinite: one has not; the rows are named.
    """
    bad = [(e, row) for e, row in zip(examples, scores, strict=True) if not all(map(math.isfinite, row))]
    if not bad:
        return
    shown = first_of((example.id for example, _ in bad), _NAMED)
    found = ", ".join(sorted({str(score) for _, row in bad for score in row if not math.isfinite(score)}))
    raise NotFinite(
        f"{len(bad):,} of {len(examples):,} rows have a choice whose log-likelihood is {found} (ids {shown}): weights"
        f" or activations are NaN, infinite or overflow. {_LOOK}"
    )


class FiniteLogits(LogitsProcessor):
    """Watches, while texts are generated, whether the logits are finite; changes nothing.

    Shapes: B rows, V vocabulary.
    """

    def __init__(self):
        self._bad_B: torch.Tensor | None = None

    def __call__(self, ids_BT: torch.Tensor, logits_BV: torch.Tensor) -> torch.Tensor:
        bad_B = ~logits_BV.amax(-1).isfinite()
        self._bad_B = bad_B if self._bad_B is None else self._bad_B | bad_B
        return logits_BV

    def require_finite(self) -> None:
        """Require that every token was chosen from finite logits.

        Raises:
            HeftError: logits were NaN or infinite.
        """
        bad = 0 if self._bad_B is None else int(self._bad_B.sum())
        if bad:
            raise HeftError(
                f"logits are NaN or infinite in {bad:,} of the {len(self._bad_B):,} texts of a batch:"
                f" weights or activations are NaN, infinite or overflow. {_LOOK}"
            )


@contextmanager
def explain_singular_rotation(model: PreTrainedModel) -> Iterator[None]:
    """Where a ReFT adapter's rotation cannot be made orthonormal, the adapter and the place are named.

    Raises:
        NotFinite: a rotation of the model is of less than full rank.
    """
    try:
        yield
    except torch.linalg.LinAlgError as error:
        places = _degenerate_rotations(model)
        if not places:
            raise
        raise NotFinite(
            f"a ReFT adapter's rotation has less than full rank, with rows that are zero, dependent or NaN:"
            f" {first_of(places, _NAMED)}. There is no edit to compute. {_ADVICE}"
        ) from error


def _degenerate_rotations(model: PreTrainedModel) -> list[str]:
    """`fine at model.layers.3` for each unit whose rotation has no orthonormal rows."""
    found = []
    for path, layer in layers_of(model).items():
        for name, unit in layer.units():
            if unit.rotation is not None and not has_full_rank(whole(unit.raw_rows())):
                found.append(f"{name} at {path.removesuffix('.reft')}")
    return found


@torch.no_grad()
def has_full_rank(rotation: torch.Tensor) -> bool:
    """Whether a rotation's rows (R, D) can be made orthonormal."""
    try:
        orthonormal_rows(rotation)
    except torch.linalg.LinAlgError:
        return False
    return True
