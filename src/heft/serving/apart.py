"""Adapters that stand side by side on one model, each acting on its own requests' tokens only.

An adapter that follows tokens can share a forward pass with others. One that cannot (DoRA, trained tokens, experts, the
output head) gets passes of its own, in which it alone is active.
"""

from collections.abc import Sequence

from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import TrainableTokensWrapper
from transformers import PreTrainedModel

from heft.adapters.trainable_tokens import show_tokens_of
from heft.alora.placeable import misplaced
from heft.alora.variant import ActivatedVariant, takes_variants
from heft.edits.positions import Positions
from heft.reft.tracker import ForwardTracker

ALL_TOKENS = Positions(all_tokens=True)


def why_alone(model: PreTrainedModel, names: Sequence[str]) -> str | None:
    """Why requests for these adapters need passes of their own, in words; None where they can be mixed with others."""
    if any(_trains_tokens(module, names) for module in model.modules()):
        return "it has embeddings of tokens of its own, which are read before any token's adapter is known"
    paths = []
    for path, layer in model.named_modules():
        own = [name for name in names if isinstance(layer, LoraLayer) and name in layer._all_available_adapter_names()]
        if not own:
            continue
        if layer is model.get_output_embeddings():
            return "it adapts the output head, which sees the scored columns only"
        if not takes_variants(layer):
            return f"LoRA on {path} ({type(layer).__name__}) cannot tell one token's adapter from another's"
        if any(not isinstance(layer.lora_variant.get(name, None), ActivatedVariant | None) for name in own):
            return f"LoRA on {path} is of a kind that acts on the whole weight, such as DoRA"
        paths.append(path)
    found = misplaced(model, paths)
    return next((f"{path}: {reason}" for path, reason in found.items()), None)


def stand_apart(model: PreTrainedModel, tracker: ForwardTracker, names: Sequence[str]) -> None:
    """Let LoRA adapters of all tokens act on those tokens only that have their number in a pass (`adapter_index`)."""
    for layer in model.modules():
        if isinstance(layer, LoraLayer):
            for name in names:
                if name in layer.lora_A and name not in layer.lora_variant:
                    layer.lora_variant[name] = ActivatedVariant(tracker, layer, name, ALL_TOKENS)


def has_trained_tokens(model: PreTrainedModel, names: Sequence[str]) -> bool:
    """Whether an adapter has embeddings of its own, whose wrapper PEFT leaves on the model for good."""
    return any(_trains_tokens(module, names) for module in model.modules())


def _trains_tokens(module: object, names: Sequence[str]) -> bool:
    if not isinstance(module, TrainableTokensWrapper):
        return False
    return any(name in module.token_adapter.trainable_tokens_delta for name in names)


class Switch:
    """Which adapters a forward pass computes. Only PEFT's list of active names changes, so a change is cheap."""

    def __init__(self, model: PreTrainedModel):
        self._model = model
        self.refresh()

    def refresh(self) -> None:
        """Look at the model again, after adapters came or went."""
        layers = [module for module in self._model.modules() if isinstance(module, BaseTunerLayer)]
        self._layers = [(layer, frozenset(layer._all_available_adapter_names())) for layer in layers]
        self._now: tuple[str, ...] | None = None

    def to(self, names: Sequence[str]) -> None:
        """Make just these adapters active, in this order."""
        names = tuple(names)
        if names == self._now:
            return
        show_tokens_of(self._model, names)
        for layer, own in self._layers:
            layer._active_adapter = [name for name in names if name in own]
        self._now = names
