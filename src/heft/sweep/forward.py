"""One forward pass for many adapters: the loss of every item, each adapter editing its own tokens only.

Shapes: N items, U sequences, S prefix columns, T columns, K columns with logits, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers import PreTrainedModel

from heft.data.encode import IGNORED, EncodedExample
from heft.models.forward import attention_of, logits_of
from heft.models.prefix_states import keeps_plain_keys
from heft.reft.layout import TokenLayout
from heft.sweep.packing import NO_ADAPTER, PackedBatch, WorkItem, mask_of, one_by_one, side_by_side
from heft.training.reuse.facts import has_dropout
from heft.training.reuse.prefix import PrefixReuse
from heft.training.reuse.stores import MemoryStore


def can_stand_side_by_side(model: PreTrainedModel) -> bool:
    """Whether a prefix can stand for its tokens in this model, and its attention takes a mask by queries."""
    takes_masks = attention_of(model) in ("sdpa", "eager")
    return takes_masks and keeps_plain_keys(model) and not has_dropout(model)


class StepStore(MemoryStore):
    """Keeps prefixes for the passes of one step."""

    kind = "off"
    persistent = False

    def clear(self) -> None:
        """Forget all, at the end of the step."""
        self._rows.clear()


@dataclass(frozen=True)
class PackedForward:
    """Forward passes for adapters that are attached side by side.

    Attributes:
        model: with all adapters attached; which its tracker numbers.
        examples: the rows that items point to.
        pad_id: id of the padding token.
        bf16: whether to compute in bfloat16 where that is safe.
        reuse: prefixes of the rows, up to the shortest of `suffixes`; None where nothing is reused.
        suffixes: of each adapter, how many tokens from a prompt's end its items have behind a prefix, where they stand
            side by side; None for one whose items are whole rows.
    """

    model: PreTrainedModel
    examples: Sequence[EncodedExample]
    pad_id: int
    bf16: bool = False
    reuse: PrefixReuse | None = None
    suffixes: Sequence[int | None] = ()

    def item(self, adapter: int, row: int, continuation: tuple[int, ...]) -> WorkItem:
        """An adapter's work on a row."""
        start = max(0, len(self.examples[row].prompt) - self.suffixes[adapter]) if self._is_behind(adapter) else 0
        return WorkItem(adapter, row, start, continuation)

    def _is_behind(self, adapter: int) -> bool:
        """Whether its items stand behind a prefix."""
        return bool(self.suffixes) and self.suffixes[adapter] is not None

    def losses(self, items: Sequence[WorkItem]) -> torch.Tensor:
        """−ln p of each item's continuation, summed over its tokens: (N,), float32.

        Items side by side are one pass, items in rows of their own another.
        """
        result = torch.zeros(len(items), device=self.model.device)
        for is_behind in (True, False):
            chosen = [n for n, item in enumerate(items) if self._is_behind(item.adapter) == is_behind]
            if chosen:
                run = self._side_by_side if is_behind else self._one_by_one
                values = run([items[n] for n in chosen])
                result = result.index_add(0, torch.tensor(chosen, device=values.device), values)
        return result

    def end_step(self) -> None:
        """Drop what was cached for one step only."""
        if self.reuse is not None and isinstance(self.reuse.store, StepStore):
            self.reuse.store.clear()

    def _one_by_one(self, items: Sequence[WorkItem]) -> torch.Tensor:
        batch = one_by_one(items, self.examples, self.pad_id)
        mask = (batch.numbers >= 0).long().to(self.model.device)
        return self._run(items, batch, {"attention_mask": mask})

    def _side_by_side(self, items: Sequence[WorkItem]) -> torch.Tensor:
        batch = side_by_side(items, self.examples, self.pad_id)
        first = torch.tensor([item.start for item in items])
        starts = torch.where(batch.item_of >= 0, first[batch.item_of.clamp(min=0)], 0)
        lengths = starts.max(dim=1).values
        columns = int(lengths.max())
        numbers = torch.arange(columns) - (columns - lengths[:, None])
        inputs = {"attention_mask": self._masks(batch, starts, numbers.clamp(min=-1))}
        if columns:
            inputs["past_key_values"] = self.reuse.cache(self.reuse.numbered(batch.rows), lengths.tolist())
            with self.reuse.attention():
                return self._run(items, batch, inputs)
        return self._run(items, batch, inputs)

    def _masks(self, batch: PackedBatch, starts: torch.Tensor, prefix_numbers: torch.Tensor) -> torch.Tensor | dict:
        """The mask in the form that the model takes it: one, or one by kind of attention."""
        config = self.model.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        kinds = set(getattr(config, "layer_types", None) or ())
        if "sliding_attention" in kinds:
            return {
                "full_attention": self._mask(mask_of(batch, starts, prefix_numbers)),
                "sliding_attention": self._mask(mask_of(batch, starts, prefix_numbers, window)),
            }
        return self._mask(mask_of(batch, starts, prefix_numbers, None if kinds else window))

    def _mask(self, seen: torch.Tensor) -> torch.Tensor:
        seen = seen.to(self.model.device)
        if attention_of(self.model) == "sdpa":
            return seen
        dtype = self.model.dtype
        return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill(~seen, torch.finfo(dtype).min)

    def _run(self, items: Sequence[WorkItem], batch: PackedBatch, inputs: dict) -> torch.Tensor:
        device = self.model.device
        adapter_of = torch.tensor([item.adapter for item in items])
        adapter_UT = torch.where(batch.item_of >= 0, adapter_of[batch.item_of.clamp(min=0)], NO_ADAPTER)
        prompt_U = torch.tensor([len(self.examples[row].prompt) for row in batch.rows])
        layout = TokenLayout(
            batch.numbers.to(device), prompt_U.to(device), adapter_UT.to(device), order_BT=batch.item_of.to(device)
        )
        columns_K = (batch.targets != IGNORED).any(0).nonzero().squeeze(1)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            logits_UKV = logits_of(
                self.model,
                columns_K.to(device),
                input_ids=batch.ids.to(device),
                position_ids=batch.numbers.clamp(min=0).to(device),
                token_layout=layout,
                use_cache=False,
                **inputs,
            )
        targets = batch.targets[:, columns_K].flatten()
        labelled = (targets != IGNORED).nonzero().squeeze(1)
        item_of = batch.item_of[:, columns_K].flatten()[labelled].to(device)
        chosen = logits_UKV.flatten(0, 1)[labelled.to(device)].float()
        values = F.cross_entropy(chosen, targets[labelled].to(device), reduction="none")
        return torch.zeros(len(items), device=device).index_add(0, item_of, values)
