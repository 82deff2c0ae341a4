"""Before an evaluation that shares prefixes: does it give what every row from its start on gives, in this model?"""

from collections.abc import Sequence

from transformers import PreTrainedModel

from heft.data.encode import EncodedExample
from heft.evaluation.likelihood import choice_log_likelihoods
from heft.models.equality import why_unequal
from heft.models.prefix_states import keeps_plain_keys
from heft.runtime.memory_errors import is_out_of_memory


def why_not_shared(model: PreTrainedModel, examples: Sequence[EncodedExample], pad_id: int) -> str | None:
    """Why prefixes are not to be shared, in words; None where they may be, or where the model shares none anyway.

    Tried on the shortest and the longest example, and on two of one text where there are such.

    Args:
        model: in evaluation mode.
        examples: all with choices.
        pad_id: id of the padding token.
    """
    if not keeps_plain_keys(model):
        return None
    chosen = _chosen(examples)

    def scores(share_prefix: bool) -> list[float]:
        found = choice_log_likelihoods(model, chosen, batch_size=len(chosen), pad_id=pad_id, share_prefix=share_prefix)
        return [score for row in found for score in row]

    try:
        plain = scores(share_prefix=False)
    except RuntimeError as error:
        if is_out_of_memory(error):
            return None  # the evaluation itself halves its batches
        raise
    return why_unequal(lambda: scores(share_prefix=True), plain, plain, model.dtype)


def _chosen(examples: Sequence[EncodedExample]) -> list[EncodedExample]:
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].prompt))
    of_one_text: dict[str, list[int]] = {}
    for i, example in enumerate(examples):
        if example.example.group is not None:
            of_one_text.setdefault(example.example.group, []).append(i)
    pair = next((group[:2] for group in of_one_text.values() if len(group) > 1), [])
    return [examples[i] for i in sorted({order[0], order[-1], *pair})]
