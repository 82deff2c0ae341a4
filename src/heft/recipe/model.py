"""Which base model, and how it is loaded. No torch."""

import re
from typing import Literal

from pydantic import Field, ValidationInfo, field_validator

from heft.builtin import BUILT_IN_MODELS, TINY
from heft.settings.base import PathOrId, Settings
from heft.text.listing import suggest


class ModelSettings(Settings):
    """The base model, which stays frozen."""

    name: PathOrId = Field(default="embedded:smollm2-135m-instruct", min_length=1)
    """A Hub id, a local directory, `embedded:smollm2-135m-instruct` (from an installed package, no network) or
    `random:tiny-llama` (random weights, for trying things out)."""
    revision: str | None = Field(default=None, min_length=1)
    """Branch, tag or commit of a Hub model; null takes the Hub's default branch."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Number format of the base model's weights and products, whatever its file has (transformers: `dtype`). auto is
    bfloat16 where the hardware multiplies in it (CUDA, CPUs with AMX or AVX512-BF16; see `heft doctor`), else float32.
    Adapters are always float32. A resumed run uses the dtype it began with, a saved adapter the one it was trained in.
    """
    quantization: Literal["8bit", "4bit"] | None = None
    """Quantize the base model's linear weights to 8 or 4 bits, by bitsandbytes (`pip install bitsandbytes`), on cuda or
    cpu. Of a model that bitsandbytes has quantized in its files it is known; files in mxfp4 or fp8 are made plain."""
    trust_remote_code: bool = False
    """Run model code that comes with the model; only for sources you trust."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes the first of cuda, mps and cpu that is available."""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """Implementation of attention (transformers: `attn_implementation`). auto is what transformers picks for the
    model's class, but eager while short rows train in bfloat16 on a CPU, where that is faster, and heft's own on cached
    prefixes, which are read where they lie; any other value computes as it says. flash_attention_2 needs CUDA, dtype
    bfloat16 and the flash-attn package."""

    @field_validator("name")
    @classmethod
    def _built_in_name_exists(cls, value: str) -> str:
        if ":" in value and not re.search(r"[/\\]", value) and value not in BUILT_IN_MODELS:
            raise ValueError(f"no built-in model {value!r}{suggest(value, BUILT_IN_MODELS)}")
        return value

    @field_validator("quantization")
    @classmethod
    def _there_is_a_file_to_quantize(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value and info.data.get("name") == TINY:
            raise ValueError(f"{TINY} is made in memory, and is not quantized; remove quantization")
        return value

    @field_validator("revision", "trust_remote_code")
    @classmethod
    def _source_has_a_use_for_it(cls, value: str | bool | None, info: ValidationInfo) -> str | bool | None:
        if value and info.data.get("name") in BUILT_IN_MODELS:
            raise ValueError(f"has no effect on the built-in model {info.data['name']!r}; remove {info.field_name}")
        return value

    @field_validator("attention")
    @classmethod
    def _flash_attention_can_run(cls, value: str, info: ValidationInfo) -> str:
        if value == "flash_attention_2":
            dtype, device = info.data.get("dtype", "bfloat16"), info.data.get("device", "auto")
            if dtype == "float32" or device in ("cpu", "mps"):
                raise ValueError(f"flash_attention_2 needs dtype bfloat16 on cuda; got dtype {dtype}, device {device}")
        return value
