"""An adapter_config.json that PEFT wrote, not heft: what of it is kept, in the form that heft writes, and what is not.

Patterns are replaced by the names of the modules that have weights, so nothing of a stranger is ever matched by a
pattern. What heft cannot keep exactly is refused, all of it at once, with the reason.
"""

from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from peft import LoraConfig, PeftConfig, TaskType
from pydantic import ValidationError

from heft.adapters.safety import LoraFields, is_plain_name, lora_of, read_config
from heft.adapters.weights import read_shapes
from heft.errors import HeftError
from heft.settings.words import faults_of, in_one_line, show
from heft.storage.reading import read_json
from heft.text.listing import listed

_NO_EFFECT = {
    "peft_type",
    "auto_mapping",
    "peft_version",
    "revision",
    "inference_mode",
    "runtime_config",
    "megatron_core",
    "qalora_group_size",
    "eva_config",
}
"""Keys whose value changes nothing in an adapter that is trained already."""
_STARTS = (True, False, "gaussian", "orthogonal", "eva")
"""Values of init_lora_weights that leave the base as it is; saved weights take the place of what they draw."""
_REASONS = {
    "modules_to_save": "holds whole copies of modules beside the update, and heft keeps updates only: merge the adapter"
    " into the base (PEFT's merge_and_unload) and start from that model",
    "bias": "trains biases of the base, which heft keeps frozen",
    "lora_bias": "has a bias in the update",
    "layer_replication": "repeats layers of the base",
    "use_qalora": "groups the inputs (QALoRA)",
    "megatron_config": "is for Megatron's layers",
}
_PREFIX = "base_model.model."
_PARTS = (".lora_A.weight", ".lora_embedding_A")


def read_foreign_config(path: Path, weights: Path) -> PeftConfig:
    """The configuration of an adapter that PEFT or heft saved, as heft writes it; `weights` are the file beside it.

    Raises:
        HeftError: it cannot be read, is of another method than LoRA and ReFT, or asks for something that heft does not
            keep; all of that is named.
    """
    values = read_json(path)
    if values.get("peft_type") != "LORA":
        return read_config(path)
    faults = [f"{key} {text}" for key, text in _refused(values).items()]
    shapes = read_shapes(weights)
    kept = {key: value for key, value in values.items() if key in LoraFields.model_fields and value is not None}
    kept |= {"task_type": "CAUSAL_LM", "init_lora_weights": True, "inference_mode": False}
    kept.pop("revision", None)  # of the base that it was trained on
    if isinstance(tokens := kept.get("trainable_token_indices"), dict) and len(tokens) == 1:
        (kept["trainable_token_indices"],) = tokens.values()  # of another embedding, its weights do not fit the base
    if not faults:
        kept |= _targets(values, shapes, faults)
    if not faults:
        try:
            LoraFields.model_validate(kept, strict=True)
        except ValidationError as error:
            faults.append(in_one_line(faults_of(error, LoraFields)))
    if faults:
        raise HeftError(f"{path} cannot be started from: {'; '.join(faults)}")
    try:
        return lora_of(**{**kept, "task_type": TaskType.CAUSAL_LM})
    except (ValueError, TypeError) as error:
        raise HeftError(f"{path} cannot be started from: {error}") from None


def _refused(values: Mapping[str, Any]) -> dict[str, str]:
    """What the configuration asks for that heft does not keep, by key."""
    blank, found = LoraConfig(), {}
    task, start = values.get("task_type"), values.get("init_lora_weights", True)
    if task not in (None, "CAUSAL_LM"):
        found["task_type"] = f"is {show(task)}; heft adapts models of CAUSAL_LM"
    if start not in _STARTS:
        found["init_lora_weights"] = (
            f"is {show(start)}, which changes the base's weights: save it for the base as it is (PEFT's save_pretrained"
            " with path_initial_model_for_weight_conversion)"
        )
    tokens = values.get("trainable_token_indices")
    if isinstance(tokens, dict) and len(tokens) > 1:
        found["trainable_token_indices"] = (
            f"is of {listed(list(tokens))}; heft trains tokens of the input embedding alone"
        )
    handled = LoraFields.model_fields.keys() | _NO_EFFECT | {"layers_pattern", *found}
    known = {field.name for field in fields(blank)}
    for key, value in values.items():
        if key not in handled and value not in (None, False, [], {}) and value != getattr(blank, key, None):
            what = "which heft does not know" if key in known else "which this version of PEFT does not know"
            found[key] = _REASONS.get(key, f"is {show(value)}, {what}")
    return found


def _targets(values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], faults: list[str]) -> dict[str, Any]:
    """Targets, ranks and alphas by names: those of the file where it has names, else those of the weights."""
    ranks, alphas = values.get("rank_pattern") or {}, values.get("alpha_pattern") or {}
    if not _all(is_plain_name, alphas):
        faults.append("alpha_pattern has patterns, where heft takes names of modules")
    layers = values.get("layers_to_transform")
    named = isinstance(values.get("target_modules"), list) and _all(is_plain_name, values["target_modules"])
    excluded = values.get("exclude_modules")
    named &= excluded is None or (isinstance(excluded, list) and _all(is_plain_name, excluded))
    if named and not values.get("layers_pattern") and _all(is_plain_name, ranks):
        return {"layers_to_transform": [layers] if isinstance(layers, int) else layers}
    if values.get("target_parameters"):
        faults.append("target_modules has a pattern beside target_parameters; give names of modules")
    modules = {
        key.removeprefix(_PREFIX).removesuffix(part): shape[0]
        for key, shape in shapes.items()
        for part in _PARTS
        if key.endswith(part) and shape
    }
    rank = values.get("r", LoraConfig().r)
    return {
        "target_modules": sorted(modules),
        "exclude_modules": None,
        "layers_to_transform": None,
        "rank_pattern": {name: own for name, own in sorted(modules.items()) if own != rank},
    }


def _all(test: Callable[[Any], bool], values: Any) -> bool:
    return isinstance(values, list | dict) and all(isinstance(value, str) and test(value) for value in values)
