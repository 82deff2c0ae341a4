"""What `model.dtype: auto` resolves to: the one place where that is decided. Imports no package until it is asked.

bfloat16 where the hardware multiplies in it, that is on CUDA cards from Ampere on and on CPUs with AMX or AVX512-BF16;
float32 elsewhere. It says how the base computes, whatever format its file has: a checkpoint saved in bfloat16 is
computed in float32 where that is faster, and one saved in float32 is rounded to bfloat16 where the hardware has it.
Adapters are float32 always. benchmarks/PRECISION.md has the measurements behind the rule for CPUs.
"""

from typing import TYPE_CHECKING, Any, Literal

from heft.errors import HeftError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    import torch

    from heft.recipe.model import ModelSettings

Dtype = Literal["float32", "bfloat16"]


def auto_dtype(kind: str, multiplies_bfloat16: bool) -> Dtype:
    """What dtype auto is on a device of that kind ("cpu", "cuda", "mps")."""
    return "bfloat16" if kind in ("cpu", "cuda") and multiplies_bfloat16 else "float32"


def resolved_dtype(settings: "ModelSettings", device: "torch.device") -> Dtype:
    """The dtype that a base is loaded in.

    Raises:
        HeftError: attention is flash_attention_2, and dtype auto is not bfloat16 on cuda here.
    """
    if settings.dtype != "auto":
        return settings.dtype
    dtype = auto_dtype(device.type, multiplies_bfloat16(device))
    if settings.attention == "flash_attention_2" and (dtype, device.type) != ("bfloat16", "cuda"):
        raise HeftError(
            f"model.attention is flash_attention_2, which computes in bfloat16 on cuda; model.dtype auto is {dtype} on"
            f" {device} here: set model.attention: auto"
        )
    return dtype


def multiplies_bfloat16(device: "torch.device") -> bool:
    """Whether a device has units for products of bfloat16, rather than emulating them."""
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(bfloat16_units(torch))


def bfloat16_units(torch: "ModuleType") -> list[str]:
    """The CPU's units for products of bfloat16; none where they would be emulated."""
    units = {
        "AMX": lambda: torch.cpu._is_amx_tile_supported(),
        "AVX512-BF16": lambda: torch.cpu._is_avx512_bf16_supported(),
    }
    return [name for name, question in units.items() if answer(question)]


def answer(question: "Callable[[], Any]") -> "Any | None":
    """What torch answers, or None where it does not know the question: parts of it differ between versions."""
    try:
        return question()
    except Exception:
        return None
