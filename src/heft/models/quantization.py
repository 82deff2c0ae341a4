"""Bases whose weights are quantized: by the recipe, or in their own files."""

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from transformers import (
    BitsAndBytesConfig,
    FineGrainedFP8Config,
    Mxfp4Config,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.utils.quantization_config import QuantizationConfigMixin

from heft.errors import HeftError
from heft.recipe.model import ModelSettings

_DEQUANTIZED = {"mxfp4": Mxfp4Config, "fp8": FineGrainedFP8Config}
"""Methods whose weights are made plain as they are loaded, since none trains through them."""
_DEVICES = ("cuda", "cpu")


def with_own_quantization(settings: ModelSettings, config: PretrainedConfig) -> ModelSettings:
    """The settings with the quantization that a checkpoint's own files have.

    Raises:
        HeftError: it is of another kind than the one asked for, or of one that heft does not train on.
    """
    own = _own(config)
    if not own:
        return settings
    method = own.get("quant_method")
    if method in _DEQUANTIZED:
        found = method
    else:
        found = "4bit" if own.get("load_in_4bit") else "8bit" if own.get("load_in_8bit") else None
    if found is None:
        raise HeftError(
            f"the weights of {settings.name!r} are quantized by {method}, which heft does not train on: give the model"
            " as it was before, if need be with model.quantization: 4bit, or one quantized by bitsandbytes"
        )
    if settings.quantization not in (None, found):
        raise HeftError(
            f"model.quantization is {settings.quantization}, and the weights of {settings.name!r} are in {found}"
            " already; leave it out, or give the model as it was before"
        )
    return settings if found in _DEQUANTIZED else settings.model_copy(update={"quantization": found})


def require_quantization(quantization: str, device: torch.device) -> None:
    """Require what bitsandbytes needs.

    Raises:
        HeftError: it is not installed, or has no kernels for the device.
    """
    if device.type not in _DEVICES:
        raise HeftError(
            f"quantization {quantization} needs model.device {' or '.join(_DEVICES)}; this run is on {device.type}"
        )
    if find_spec("bitsandbytes") is None:
        raise HeftError(f"quantization {quantization} needs bitsandbytes, which is missing: pip install bitsandbytes")
    # else it writes a line for each product of 8-bit weights in bfloat16
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)


def quantization_config(settings: ModelSettings, config: PretrainedConfig) -> QuantizationConfigMixin | None:
    """What transformers is to do with the weights as it loads them; None for what the checkpoint says.

    `settings` are those of `with_own_quantization`, with a dtype that is not auto.
    """
    own = _own(config)
    if own:
        method = _DEQUANTIZED.get(own.get("quant_method"))
        return None if method is None else method(dequantize=True)
    if settings.quantization is None:
        return None
    if settings.quantization == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=getattr(torch, settings.dtype),
        bnb_4bit_use_double_quant=True,
    )


def in_one_dtype(model: PreTrainedModel, config: PretrainedConfig, dtype: torch.dtype) -> None:
    """A model whose weights were made plain comes in float32 from some files, whatever was asked for."""
    if _own(config).get("quant_method") not in _DEQUANTIZED:
        return
    kept = {*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())}
    for name, parameter in model.named_parameters():
        if not kept & set(name.split(".")):
            parameter.data = parameter.data.to(dtype)


def keep_gradients(model: PreTrainedModel) -> None:
    """On some CPUs bitsandbytes packs 4-bit weights in the first pass without gradients, and later passes have none."""
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _own(config: PretrainedConfig) -> Mapping[str, Any]:
    found = getattr(config, "quantization_config", None) or {}
    return found if isinstance(found, Mapping) else found.to_dict()
