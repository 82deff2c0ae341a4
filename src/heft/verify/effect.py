"""An adapter that loads and does nothing is a failure, unless its tensors stand where they do nothing."""

import re
from dataclasses import replace

import torch
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from safetensors.torch import load_file

from heft.adapters.directory import PEFT_PREFIX
from heft.adapters.safety import adapter_paths, read_config
from heft.reft.config import ReftConfig
from heft.reft.interventions import Intervention
from heft.verify.finding import FAILED, Finding, does_not_apply, most
from heft.verify.logits import judged_logits
from heft.verify.subject import AdapterUnderTest

AT_IDENTITY = 1e-5
"""Largest update that counts as none: a fresh edit is W − R, which are equal within the rounding of R."""
_HIDDEN_ROWS = 64
_DOWN = re.compile(r"\.(lora|lora_embedding)_A\b")
"""In names of saved tensors, those of linear modules and of embeddings."""


def check_effect(subject: AdapterUnderTest) -> list[Finding]:
    """All adapters against the base; all against all but one; and none against the base."""
    names, off = list(subject.model.peft_config), subject.logits_with([])
    found = [_effect(subject, "the adapters change something", "all adapters on, against none", off, names)]
    if len(names) > 1:
        for name in names:
            without = subject.logits_with([other for other in names if other != name])
            compared = f"all adapters on, against all but {name}"
            found.append(_effect(subject, f"{name} changes something", compared, without, [name]))
    compared = "no adapter on, against the base before any was attached"
    why = "the sums are the same; this is what two equal passes differ by"
    is_base = judged_logits("switched off, it is the base", compared, off, subject.base_logits, subject.noise, why)
    return [*found, is_base]


def _effect(
    subject: AdapterUnderTest, check: str, compared: str, without: torch.Tensor, switched_off: list[str]
) -> Finding:
    why = "what two equal passes differ by"
    finding = judged_logits(check, compared, subject.logits, without, subject.noise, why, must_exceed=True)
    if finding.state != FAILED or subject.logits.isnan().any():
        return finding
    update = most(largest_update(subject, name) for name in switched_off)
    if update <= AT_IDENTITY:
        return does_not_apply(check, f"saved tensors stand where they do nothing: their largest update is {update:.3g}")
    compared = f"{finding.compared}: nothing changes, though the saved tensors' largest update is {update:.3g}"
    return replace(finding, compared=compared)


def largest_update(subject: AdapterUnderTest, name: str) -> float:
    """How much an adapter's saved tensors can change: 0 where they stand at the identity.

    ReFT: the largest edit of standard normal hidden states. LoRA: the largest |A| times the largest |B| of a module,
    for DoRA also the largest distance of a magnitude from the norm of the base's weight.
    """
    config, weights = adapter_paths(subject.directory / name)
    saved, config = load_file(weights), read_config(config)
    if isinstance(config, ReftConfig):
        return _largest_edit(saved, config)
    return most((_largest_product(saved), _largest_stretch(subject, name, saved)))


@torch.no_grad()
def _largest_edit(saved: dict[str, torch.Tensor], config: ReftConfig) -> float:
    units: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in saved.items():
        where, _, parameter = key.rpartition(".")
        units.setdefault(where, {})[parameter] = value
    found = 0.0
    for tensors in units.values():
        size = max(value.shape[-1] for value in tensors.values())
        unit = Intervention(config.intervention, size, config.rank, config.activation).eval()
        unit.load_state_dict(tensors)
        hidden_ND = torch.randn(_HIDDEN_ROWS, size, generator=torch.Generator().manual_seed(0))
        found = most((found, unit(hidden_ND).abs().max().item()))
    return found


def _largest_product(saved: dict[str, torch.Tensor]) -> float:
    downs = {key: value for key, value in saved.items() if _DOWN.search(key)}
    return most(_top(down) * _top(saved[_DOWN.sub(r".\1_B", key)]) for key, down in downs.items())


@torch.no_grad()
def _largest_stretch(subject: AdapterUnderTest, name: str, saved: dict[str, torch.Tensor]) -> float:
    found = 0.0
    for path, layer in subject.model.named_modules():
        key = f"{PEFT_PREFIX}{path}.lora_magnitude_vector"
        if isinstance(layer, LoraLayer) and key in saved:
            weight = dequantize_module_weight(layer.get_base_layer())
            norm = layer.lora_magnitude_vector[name].get_weight_norm(weight, weight.new_zeros(()), 1)
            found = most((found, _top(saved[key] - norm.float().cpu())))
    return found


def _top(tensor: torch.Tensor) -> float:
    return tensor.float().abs().max().item()
