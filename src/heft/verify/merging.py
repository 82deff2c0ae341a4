"""LoRA added into the weights against LoRA computed beside them; ReFT stays as it is."""

from collections import Counter

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper

from heft.adapters.lora_targets import has_part
from heft.alora import ActivatedLoraConfig
from heft.runtime.machine import available_memory
from heft.verify.finding import Finding, does_not_apply, judged, most
from heft.verify.logits import apart, judged_logits, largest
from heft.verify.subject import AdapterUnderTest
from heft.verify.weight_rounding import bound_of_rounding

CHECK = "merged against unmerged"
SHARE_OF_MEMORY = 0.5
_ROUNDINGS = 4


@torch.no_grad()
def check_merging(subject: AdapterUnderTest) -> list[Finding]:
    """Merge all LoRA adapters, compare, take them out again, compare the weights, and put the copies back."""
    names = subject.names("lora")
    layers = {path: m for path, m in subject.model.named_modules() if isinstance(m, LoraLayer)} if names else {}
    obstacle = _obstacle(subject, layers, names)
    if obstacle:
        return [does_not_apply(CHECK, obstacle)]
    copies = {path: _weight(layer).detach().to("cpu", copy=True) for path, layer in layers.items()}
    try:
        for layer in layers.values():
            layer.merge(adapter_names=[name for name in names if has_part(layer, name)])
        merged = subject.logits_now()
        scale = most(_weight(layer).abs().max().item() for layer in layers.values())
        for layer in layers.values():
            layer.unmerge()
        off = most(largest(_weight(layer).cpu(), copies[path]) for path, layer in layers.items())
    finally:
        for path, layer in layers.items():
            _weight(layer).copy_(copies[path])
            layer.merged_adapters.clear()
    compared = f"{', '.join(names)} added into the weights by PEFT, against computed beside them"
    difference = apart(subject.model, merged, subject.logits)
    bound = bound_of_rounding(subject.model, subject.rounding, difference, subject.logits_now)
    by_weights = judged_logits(CHECK, compared, merged, subject.logits, *bound, difference=difference)
    return [by_weights, _unmerged(subject, len(layers), off, scale)]


def _unmerged(subject: AdapterUnderTest, layers: int, off: float, scale: float) -> Finding:
    step = torch.finfo(subject.model.dtype).eps
    compared = f"the weights of {layers} modules after the adapters were taken out again, against before"
    dtype = str(subject.model.dtype).removeprefix("torch.")
    why = f"{_ROUNDINGS} roundings of the largest merged weight, {scale:.3g}, in {dtype}"
    return judged("weights after unmerging", compared, "weights", off, _ROUNDINGS * step * scale, why)


def _obstacle(subject: AdapterUnderTest, layers: dict[str, LoraLayer], names: list[str]) -> str | None:
    """Why there is nothing to merge, or no way to."""
    if not names:
        return "there is no LoRA adapter"
    placed = [name for name in names if isinstance(subject.model.peft_config[name], ActivatedLoraConfig)]
    if placed:
        return f"LoRA with positions ({', '.join(placed)}) acts on some tokens only, and weights act on all"
    if not all(_weight(layer).is_floating_point() for layer in layers.values()):
        return "weights are quantized: merging would round them again"
    users = Counter(id(weight) for module in subject.model.modules() for weight in module.parameters(recurse=False))
    if any(users[id(_weight(layer))] > 1 for layer in layers.values()):
        return "modules share weights: beside them each has an update of its own, in them all would have the sum"
    needed = sum(_weight(layer).nbytes for layer in layers.values())
    free = available_memory()
    if free is not None and needed > SHARE_OF_MEMORY * free:
        return f"a copy of the weights needs {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free"
    return None


def _weight(layer: LoraLayer) -> torch.Tensor:
    """What an adapter's update is added to: a module's weight, or the parameter that holds those of several experts."""
    return layer.get_param() if isinstance(layer, ParamWrapper) else layer.get_base_layer().weight
