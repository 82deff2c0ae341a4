"""The loss of the reference answers, where answers are generated."""

from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedModel

from heft.data.encode import EncodedExample
from heft.data.padding import padding_matters
from heft.evaluation.finite import require_finite
from heft.evaluation.likelihood import choice_log_likelihoods


def reference_losses(
    model: PreTrainedModel, examples: Sequence[EncodedExample], batch_size: int, pad_id: int
) -> list[float]:
    """Mean cross-entropy (nats) of a token of each example's answer, its EOS token included, as in training.

    Raises:
        HeftError: the model computes NaN or infinity.
    """
    rows = [replace(example, choices=(example.answer,)) for example in examples]
    equal = padding_matters(model, pad_id, max(row.length for row in rows))
    scores = choice_log_likelihoods(
        model, rows, batch_size=batch_size, pad_id=pad_id, share_prefix=False, equal_lengths=equal
    )
    require_finite(rows, scores)
    return [-score[0] / len(row.answer) for row, score in zip(rows, scores, strict=True)]
