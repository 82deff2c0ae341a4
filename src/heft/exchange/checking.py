"""The exported model against the adapted one, on rows of the adapter's own task where they can be read."""

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heft.adapters.manifest import AdapterManifest
from heft.data.encode import EncodedExample
from heft.errors import HeftError
from heft.reft.tracker import positions_of
from heft.verify.logits import apart, largest, rounding_of, row_logits
from heft.verify.subject import make_probe
from heft.verify.weight_rounding import bound_of_rounding

ROWS = 4


class Before:
    """The logits of an adapted model before it is changed into an exported one.

    Attributes:
        difference: how far the exported model's logits were from them at the last `require_same`; None before.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, manifest: AdapterManifest):
        self.rows: Sequence[EncodedExample] = make_probe(tokenizer, manifest, positions_of(model), ROWS).rows
        self._pad_id = tokenizer.pad_token_id
        self._logits = self._logits_of(model)
        self.difference: float | None = None

    def require_same(self, model: PreTrainedModel, rounded: bool = False) -> None:
        """Compare the model as it is now; `rounded`: its weights were rounded to less than float32.

        Raises:
            HeftError: logits are further apart than rounding explains, which is heft's own fault.
        """
        logits = self._logits_of(model)
        rounding = rounding_of(model, None, torch.cat([self._logits, logits]))
        self.difference = largest(self._logits, logits)
        off, bound = apart(model, self._logits, logits), rounding.logits
        if rounded:
            bound, _ = bound_of_rounding(model, rounding, off, lambda: self._logits_of(model))
        if not off <= bound:
            raise HeftError(
                f"the exported model's logits differ by {off:.3g} from the adapted model's, and rounding"
                f" explains {bound:.3g}: nothing was written. Keep the adapter directory as it is, and report this"
            )

    def _logits_of(self, model: PreTrainedModel) -> torch.Tensor:
        return row_logits(model, self.rows, self._pad_id)
