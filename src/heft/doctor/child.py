"""What `heft doctor` runs in a process of its own: imports that may fail or end it, and torch's view of the machine.

Run by its path with the names of modules; imports nothing of heft. Each line on standard output that begins with
`MARK` is JSON: `{"importing": name}` before an import, `{"imported": name, "error": text or null}` after it, and
`{"torch": {...}}` at the end.
"""

import importlib
import json
import sys

MARK = "heft-doctor "


def main(names: list[str]) -> None:
    """Import the modules in turn, telling before and after each; then ask torch, if it is one of them."""
    for name in names:
        tell({"importing": name})
        error = None
        try:
            importlib.import_module(name)
        except Exception as raised:  # a broken package may raise anything
            error = f"{type(raised).__name__}: {raised}".strip().splitlines()[0]
        tell({"imported": name, "error": error})
    if "torch" in names and "torch" in sys.modules:
        tell({"torch": of_torch(sys.modules["torch"])})


def tell(values: dict) -> None:
    """Write a line at once, so that it is there if the process ends at the next step."""
    print(MARK + json.dumps(values), flush=True)


def of_torch(torch) -> dict:
    """What torch sees; an answer that it does not give is None."""
    return {
        "threads": asked(lambda: torch.get_num_threads()),
        "vector": asked(lambda: torch.backends.cpu.get_cpu_capability()),
        "bfloat16": bfloat16_units(torch),
        "cuda_build": asked(lambda: torch.version.cuda or torch.version.hip),
        "cuda": asked(lambda: torch.cuda.is_available()),
        "mps": asked(lambda: torch.backends.mps.is_available()),
        "devices": asked(lambda: [of_card(torch, i) for i in range(torch.cuda.device_count())]) or [],
    }


def bfloat16_units(torch) -> list[str]:
    """The CPU's units for products of bfloat16; none where they would be emulated."""
    units = {
        "AMX": lambda: torch.cpu._is_amx_tile_supported(),
        "AVX512-BF16": lambda: torch.cpu._is_avx512_bf16_supported(),
    }
    return [name for name, question in units.items() if asked(question)]


def of_card(torch, index: int) -> dict:
    """Name, memory and abilities of a graphics card, and the error with which a small product on it ends."""
    error = None
    try:
        ones = torch.ones(8, 8, device=f"cuda:{index}")
        (ones @ ones).sum().item()
    except Exception as raised:  # no kernel for this card, no memory, a driver that is too old
        error = f"{type(raised).__name__}: {raised}".strip().splitlines()[0]
    free, total = asked(lambda: torch.cuda.mem_get_info(index)) or (None, None)
    return {
        "name": asked(lambda: torch.cuda.get_device_name(index)),
        "free": free,
        "total": total,
        "bfloat16": asked(lambda: torch.cuda.is_bf16_supported(including_emulation=False)),
        "error": error,
    }


def asked(question):
    """The answer, or None where there is none, or no such question: parts of torch come and go between versions."""
    try:
        return question()
    except Exception:
        return None


if __name__ == "__main__":
    main(sys.argv[1:])
