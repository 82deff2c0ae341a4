"""What each of several processes holds and computes: the whole model (DDP), or a slice of it (FSDP2).

Every process has a device of its own. Not counted: what they send to each other, and the buffers for that.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from heft.adapters.lora import has_tied_head
from heft.recipe.training import TrainingSettings
from heft.reft.sites import block_names, decoder_of
from heft.training.batches import accumulation_steps

_BLOCKS_AT_ONCE = 2
"""The one that runs, and the next one, whose slices are on their way."""


@dataclass(frozen=True)
class Processes:
    """The processes of a run.

    Attributes:
        count: on all machines.
        is_sharded: whether they share the model out (heft.models.sharding).
    """

    count: int = 1
    is_sharded: bool = False

    def rows(self, stage: TrainingSettings, rows: int) -> int:
        """Rows of a process's largest pass with gradients, of so many rows that are trained on."""
        steps = accumulation_steps(stage, self.count)
        return max(1, min(rows, math.ceil(stage.batch_size // steps / self.count)))

    def share(self, numbers: float) -> int:
        """What one holds of that many numbers that are shared out."""
        return math.ceil(numbers / self.count) if self.is_sharded else round(numbers)

    def whole_bytes(self, model: PreTrainedModel) -> int:
        """Bytes that a process puts together at the most of a model that is shared out, beside its slices."""
        if not self.is_sharded:
            return 0
        decoder, head = decoder_of(model), model.get_output_embeddings()
        blocks = [_bytes(model.get_submodule(name).parameters()) for name in block_names(model)]
        around = _bytes(decoder.parameters()) - sum(blocks)
        of_head = _bytes(head.parameters()) if isinstance(head, nn.Module) else 0
        running = around + _BLOCKS_AT_ONCE * max(blocks)
        return running + of_head if has_tied_head(model) else max(running, of_head)


def _bytes(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in parameters)
