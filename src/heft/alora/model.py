"""`ActivatedLoraModel`: PEFT's LoRA, whose layers get an update that follows positions."""

from contextlib import contextmanager

from peft import LoraModel
from peft.tuners import lora
from torch import nn

from heft.alora.config import ActivatedLoraConfig
from heft.alora.variant import NOT_MERGED, ActivatedVariant, takes_variants
from heft.reft.tracker import ForwardTracker, tracker_of


class ActivatedLoraModel(LoraModel):
    """A model with LoRA adapters that act on some tokens only.

    Made by PEFT from an `ActivatedLoraConfig` (`get_peft_model`, `inject_adapter_in_model`,
    `PeftModel.from_pretrained`).
    """

    def _create_and_replace(
        self,
        lora_config: ActivatedLoraConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **kwargs,
    ) -> None:
        tracker = ForwardTracker.on(self.model)
        super()._create_and_replace(lora_config, adapter_name, target, target_name, parent, current_key, **kwargs)
        layer = getattr(parent, target_name)
        if not takes_variants(layer) or adapter_name not in layer.lora_A:
            raise ValueError(
                f"{current_key} is a {type(target).__name__}, on which LoRA cannot have positions: leave it out of the"
                " targets, or use positions: all"
            )
        layer.lora_variant[adapter_name] = ActivatedVariant(tracker, layer, adapter_name, lora_config.edited_positions)

    def merge_adapter(self, adapter_names: list[str] | None = None, safe_merge: bool = False) -> None:
        """Merge adapters of all tokens beneath; refuse before any weight is touched where one has positions.

        Raises:
            ValueError: an adapter with positions would have to be merged.
        """
        for layer in self.model.modules():
            if isinstance(layer, lora.LoraLayer):
                names = layer.active_adapters if adapter_names is None else adapter_names
                if any(isinstance(layer.lora_variant.get(name), ActivatedVariant) for name in names):
                    raise ValueError(NOT_MERGED)
        super().merge_adapter(adapter_names=adapter_names, safe_merge=safe_merge)

    def add_weighted_adapter(self, *args, **kwargs) -> None:
        """Refuse: PEFT would make a plain LoRA of them.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            "LoRA adapters with positions cannot be combined by weighting their tensors, since the result would act on"
            " all tokens: activate several at once with base_model.set_adapter([...])"
        )

    @contextmanager
    def _enable_peft_forward_hooks(self, *args, **kwargs):
        """Where PEFT passes `adapter_names=[...]`, an adapter for each row: refused rather than misplaced."""
        if kwargs.get("adapter_names") is not None:
            raise ValueError(
                "LoRA with positions cannot act on each row of a batch by another adapter: leave out adapter_names, and"
                " call the model once for each adapter after set_adapter(...)"
            )
        with super()._enable_peft_forward_hooks(*args, **kwargs):
            yield

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter; the last one with positions takes the tracker with it."""
        super().delete_adapter(adapter_name)
        release_tracker(self.model)

    def _unload_and_optionally_merge(self, merge: bool = True, **kwargs) -> nn.Module:
        if merge:
            raise ValueError(NOT_MERGED)
        unloaded = super()._unload_and_optionally_merge(merge=False, **kwargs)
        tracker = tracker_of(unloaded)
        if tracker is not None:
            tracker.branches.clear()
            tracker.release()
        return unloaded


def release_tracker(model: nn.Module) -> None:
    """Take the tracker off a model on which no adapter with positions is left."""
    tracker = tracker_of(model)
    if tracker is not None:
        tracker.release()
