"""Where heft computes: device, threads, memory."""

import os
import re
import shutil

from heft.doctor.limits import available_memory, usable_cores
from heft.doctor.line import Line, fault, in_gigabytes, note, ok
from heft.doctor.probing import Facts
from heft.models.precision import auto_dtype

TOO_LITTLE_MEMORY = 1.5e9
LITTLE_MEMORY = 5e9
"""A stage on the embedded model takes about 4 GB at its defaults (docs/plan.md)."""


def check_device(facts: Facts) -> list[Line]:
    """What `device: auto` takes here, and whether it computes."""
    torch = facts.torch
    if not torch:
        return [note("device", "not known, since torch cannot be asked; see versions")]
    lines = [_card(number, card) for number, card in enumerate(torch["devices"])]
    if torch["mps"]:
        lines.append(ok("device", "mps: Apple's graphics processor"))
    if not torch["cuda"]:
        lines += _no_cuda(torch["cuda_build"])
    units = torch["bfloat16"]
    bfloat16 = f"bfloat16 in hardware ({', '.join(units)})" if units else "bfloat16 emulated, slower than float32"
    text = f"cpu: {torch['vector'] or 'unknown vector unit'}, {bfloat16}"
    return [*lines, ok("device", f"{text}; model.dtype auto is {auto_dtype('cpu', bool(units))}")]


def _card(number: int, card: dict) -> Line:
    if card["error"] is not None:
        advice = "install the torch build that fits this card and its driver, or set model.device: cpu"
        return fault("device", f"cuda:{number} {card['name']} cannot compute: {card['error']}", advice)
    memory = "" if card["total"] is None else f", {in_gigabytes(card['free'])} of {in_gigabytes(card['total'])} free"
    bfloat16 = "bfloat16 in hardware" if card["bfloat16"] else "no bfloat16"
    auto = auto_dtype("cuda", bool(card["bfloat16"]))
    return ok("device", f"cuda:{number} {card['name']}{memory}, {bfloat16}; model.dtype auto is {auto}")


def _no_cuda(build: str | None) -> list[Line]:
    """What keeps a card that is there from being used."""
    if shutil.which("nvidia-smi") is None:
        return []
    if build is None:
        advice = "install a CUDA build of torch in place of the CPU one"
        return [note("device", "there is an NVIDIA driver, and torch is a build for the CPU only", advice)]
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return [note("device", "CUDA_VISIBLE_DEVICES hides all cards", "unset CUDA_VISIBLE_DEVICES")]
    advice = "see what nvidia-smi says: a driver older than torch's CUDA, or no card"
    return [note("device", f"torch is built for CUDA {build} and finds no card", advice)]


def check_threads(facts: Facts) -> list[Line]:
    """Threads that torch computes with against the cores that it gets."""
    cores, why = usable_cores()
    seen = f"{cores} cores ({why})"
    asked = os.environ.get("OMP_NUM_THREADS")
    if asked is not None and not re.fullmatch(r"\s*\d+(\s*,\s*\d+)*\s*", asked):
        return [
            fault("threads", f"OMP_NUM_THREADS is {asked!r}, which is no number", f"export OMP_NUM_THREADS={cores}")
        ]
    threads = facts.torch.get("threads")
    if threads is None:
        return [note("threads", f"{seen}; torch cannot be asked, see versions")]
    said = f", OMP_NUM_THREADS={asked}" if asked is not None else ""
    if threads > cores:
        text = f"torch computes with {threads} threads on {seen}{said}: they wait for one another"
        return [fault("threads", text, f"export OMP_NUM_THREADS={cores}")]
    lines = [ok("threads", f"torch computes with {threads} threads on {seen}{said}")]
    if 2 * threads < cores:
        lines = [
            note("threads", f"torch computes with {threads} threads on {seen}{said}", f"export OMP_NUM_THREADS={cores}")
        ]
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if busy > (os.cpu_count() or 1):
        lines.append(note("threads", f"the machine is busy: {busy:.1f} processes want to run; times will be longer"))
    return lines


def check_memory() -> list[Line]:
    """Main memory that can still be had."""
    free = available_memory()
    if free is None:
        return [note("memory", "how much is free is not known here")]
    text = f"{in_gigabytes(free)} available"
    if free < TOO_LITTLE_MEMORY:
        return [fault("memory", f"{text}: too little to train even the embedded model", "end other programs")]
    if free < LITTLE_MEMORY:
        advice = "smaller micro_batch_size, gradient_checkpointing: true; heft plan says what a recipe takes"
        return [note("memory", f"{text}: the embedded model fits, larger ones may not", advice)]
    return [ok("memory", text)]
