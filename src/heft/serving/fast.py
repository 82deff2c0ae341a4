"""Faster ways of the same passes, tried against the plain ones before they are used.

Frozen products go through oneDNN where that is faster (heft.models.frozen_linear), and the LoRA branches of all
requests are one batched product a module (heft.serving.branches).
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import torch

from heft.models.equality import why_unequal
from heft.models.frozen_linear import frozen_layers_in_onednn
from heft.serving.branches import served_lora
from heft.serving.catalog import Catalog, Served
from heft.serving.forward import Passes, Row

_TOGETHER = 8
_TOKENS = 24
_EVERY = 16


class FastWays:
    """Switches the fast ways on and off; adapters may come and go only while they are off.

    Attributes:
        why_not: why they are off although they were asked for, in words; `note` is told it where it changes.
    """

    def __init__(self, catalog: Catalog, passes: Passes, enabled: bool, note: Callable[[str], None]):
        self._catalog, self._passes, self._enabled, self._note = catalog, passes, enabled, note
        self._stack = ExitStack()
        self.why_not: str | None = None

    def switch_on(self) -> None:
        """Use them, if they give what the plain way gives."""
        before = self.why_not
        self.why_not = self._why_not() if self._enabled else None
        if self.why_not not in (None, before):
            self._note(f"fused is off, PEFT's own layers compute: {self.why_not}")

    def _why_not(self) -> str | None:
        """Switch them on; what speaks against that leaves them off."""
        rows = self._rows()
        try:
            found = self._logits(rows)
        except Exception as error:  # whatever the plain way raises, each request is told
            return f"{type(error).__name__}: {error}"
        largest = max(map(abs, found)) or 1.0  # rounding is a share of the largest logit, not of each
        plain = [value / largest for value in found]
        self._stack.enter_context(frozen_layers_in_onednn(self._catalog.model))
        self._stack.enter_context(served_lora(self._catalog.model, self._catalog.tracker))
        dtype = self._catalog.model.dtype
        why = why_unequal(lambda: [value / largest for value in self._logits(rows)], plain, plain, dtype)
        if why is not None:
            self.switch_off()
        return why

    def switch_off(self) -> None:
        """Compute as PEFT and torch do."""
        self._stack.close()
        self._stack = ExitStack()

    def _rows(self) -> list[Row]:
        """A short row of each model that is mixed with others, of unlike lengths."""
        mixed = [each for each in self._catalog.served.values() if each.alone is None]
        most = min(len(self._catalog.tokenizer), 1000)
        return [self._row(served, number, most) for number, served in enumerate(mixed)]

    def _row(self, served: Served, number: int, most: int) -> Row:
        ids = tuple((11 + 7 * i + 3 * number) % most for i in range(_TOKENS - number % _TOGETHER))
        return Row(served, ids, len(ids))

    def _logits(self, rows: Sequence[Row]) -> list[float]:
        """Some of the logits after each row, computed with many others; and of some rows, computed with one other."""
        together = 1 if self._catalog.each_alone else _TOGETHER
        parts = [rows[start : start + together] for start in range(0, len(rows), together)]
        parts += [] if self._catalog.each_alone else [rows[start : start + 2] for start in range(0, _TOGETHER, 2)]
        found: list[float] = []
        for part in filter(None, parts):
            self._catalog.switch.to(self._catalog.adapters_of([row.served for row in part]))
            found += torch.cat([each.logits_KV[0, ::_EVERY] for each in self._passes.whole(part)]).tolist()
        return found
