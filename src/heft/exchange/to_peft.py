"""One LoRA in PEFT's format, in a flat folder: for PEFT, vLLM, llama.cpp's converter, MLX.

It is the coarse stage's own files with the base's name in them; several LoRA adapters, and edits that fold into linear
layers, become one LoRA of their added ranks (heft.exchange.factors).
"""

import copy
import shutil
import warnings
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, set_peft_model_state_dict

from heft.adapters.attach import inject
from heft.adapters.detach import detach
from heft.adapters.directory import PEFT_PREFIX, Loaded, save_config, stored_config
from heft.adapters.safety import WEIGHTS
from heft.builtin import TINY
from heft.errors import HeftError
from heft.exchange.checking import Before
from heft.exchange.factors import add_folded, lora_factors, one_lora
from heft.exchange.folding import plan_folding
from heft.exchange.subject import Subject
from heft.models.source import local_folder, source_of
from heft.storage.atomic import save_tensors

_TRIED = "heft_export"


def write_as_it_is(folder: Path, subject: Subject) -> None:
    """Write the one LoRA adapter that is exported."""
    (name,) = subject.loras
    shutil.copyfile(subject.folder(name) / WEIGHTS, folder / WEIGHTS)
    _write_config(folder, subject, stored_config(subject.configs[name]))


def combined(subject: Subject, loaded: Loaded) -> tuple[LoraConfig, dict[str, torch.Tensor], float]:
    """The LoRA adapters, and the ReFT adapters that are on the model, as one LoRA, which the model carries afterwards.

    Returns:
        Its configuration, its tensors, and how far the model's logits are from the adapted one's.

    Raises:
        HeftError: a ReFT adapter is no part of a linear layer; all reasons are given.
    """
    model = loaded.model
    plan = plan_folding(model, needs_bias=False)
    if plan.reasons:
        raise HeftError("\n".join(f"{reason}, so it is no part of a LoRA" for reason in plan.reasons.values()))
    before = Before(model, loaded.tokenizer, loaded.manifest)
    factors = lora_factors(model, list(subject.loras))
    add_folded(factors, model, plan)
    config, tensors = one_lora(factors)
    detach(model, list(subject.configs))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*merging LoRA weights won't be possible")
        inject(model, _TRIED, config)
    set_peft_model_state_dict(model, {k.removeprefix(PEFT_PREFIX): v for k, v in tensors.items()}, adapter_name=_TRIED)
    before.require_same(model)
    return config, tensors, before.difference


def write_combined(folder: Path, subject: Subject, config: LoraConfig, tensors: dict[str, torch.Tensor]) -> None:
    """Write what `combined` gave."""
    save_tensors(tensors, folder / WEIGHTS)
    _write_config(folder, subject, config)


def base_name(subject: Subject) -> str:
    """The base as others load it: its Hub id, or the folder where it is on this machine."""
    name = subject.model.name
    if name == TINY:
        return name
    folder = local_folder(name)
    return str(folder) if folder is not None else source_of(name)


def _write_config(folder: Path, subject: Subject, config: PeftConfig) -> None:
    config = copy.copy(config)
    config.base_model_name_or_path, config.revision = base_name(subject), subject.model.revision
    save_config(folder, config)
