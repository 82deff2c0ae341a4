"""torch's view of the machine, for `heft doctor`: asked in a child process, since an import may fail or end it.

Both sides are here and need nothing but Python: `probe` starts the child, and `main` is the child, run with the names
of modules. Each line of its output that begins with `MARK` is JSON: `{"importing": name}` before an import,
`{"imported": name, "error": text or null}` after it, and `{"torch": {...}}` at the end.
"""

import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from heft.models.precision import answer, auto_dtype, bfloat16_units
from heft.text.units import in_bytes

OK, NOTE, FAULT = "ok", "note", "fault"
MARK = "heft-doctor "
IMPORT_SECONDS = 300


@dataclass(frozen=True)
class Line:
    """One finding: `state` is `OK`, `NOTE` (it works, but know this) or `FAULT`; `advice` is what to do about it."""

    state: str
    text: str
    advice: str | None = None
    topic: str = ""


@dataclass
class Facts:
    """What the child process reports.

    Attributes:
        errors: why each module that was tried cannot be imported; None where it can.
        torch: see `torch_facts`; empty where torch cannot be imported.
    """

    errors: dict[str, str | None] = field(default_factory=dict)
    torch: dict[str, Any] = field(default_factory=dict)


def probe(packages: Sequence[str]) -> Facts:
    """Import all packages in a child process; one that ends the process is named, and the rest are tried in another."""
    facts, left = Facts(), [package.replace("-", "_") for package in packages]
    while left:
        lines, end = _run_child(left)
        importing = None
        for values in lines:
            importing = values.get("importing", importing)
            if "imported" in values:
                facts.errors[values["imported"]] = values["error"]
                importing = None
            facts.torch = values.get("torch", facts.torch)
        if importing is not None:
            facts.errors[importing] = f"the import ended the process: {end}"
        remaining = [name for name in left if name not in facts.errors]
        if remaining == left:  # the process did not even start
            facts.errors |= dict.fromkeys(left, f"no import could be tried: {end}")
            break
        left = remaining
    return facts


def _run_child(names: Sequence[str]) -> tuple[list[dict], str]:
    """What the child reports, and how it ended, in words."""
    paths = [*filter(None, [os.environ.get("PYTHONPATH")]), str(Path(__file__).parents[1])]
    command = [sys.executable, "-P", "-m", "heft.doctor_child", *names]
    options = {"capture_output": True, "text": True, "errors": "replace", "timeout": IMPORT_SECONDS}
    try:
        done = subprocess.run(command, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, **options)
        output, end = done.stdout, f"exit status {done.returncode}"
        if done.returncode < 0:
            end = f"signal {signal.Signals(-done.returncode).name}"
        elif done.stderr.strip():
            end += f", {done.stderr.strip().splitlines()[-1]}"
    except subprocess.TimeoutExpired as error:
        output, end = error.stdout or "", f"not done after {IMPORT_SECONDS} seconds"
        output = output.decode(errors="replace") if isinstance(output, bytes) else output
    return [json.loads(line.removeprefix(MARK)) for line in output.splitlines() if line.startswith(MARK)], end


def check_device(facts: Facts) -> Iterator[Line]:
    """What `device: auto` takes here, and whether it computes."""
    torch = facts.torch
    if not torch:
        yield Line(NOTE, "not known, since torch cannot be imported; see versions")
        return
    for number, gpu in enumerate(torch["devices"]):
        yield _gpu(f"cuda:{number} {gpu['name']}", gpu)
    if torch["mps"]:
        yield Line(OK, "mps: Apple's GPU")
    if not torch["cuda"] and shutil.which("nvidia-smi") is not None:
        yield _unused_gpu(torch["cuda_build"])
    units = torch["bfloat16"]
    bfloat16 = f"bfloat16 in hardware ({', '.join(units)})" if units else "bfloat16 emulated, slower than float32"
    text = f"cpu: {torch['vector'] or 'unknown vector unit'}, {bfloat16}"
    yield Line(OK, f"{text}; model.dtype auto is {auto_dtype('cpu', bool(units))}")


def _gpu(name: str, gpu: dict) -> Line:
    if gpu["error"] is not None:
        advice = "install the torch build that fits this GPU and its driver, or set model.device: cpu"
        return Line(FAULT, f"{name} cannot compute: {gpu['error']}", advice)
    memory = "" if gpu["total"] is None else f", {in_bytes(gpu['free'])} of {in_bytes(gpu['total'])} free"
    bfloat16 = "bfloat16 in hardware" if gpu["bfloat16"] else "no bfloat16"
    auto = auto_dtype("cuda", bool(gpu["bfloat16"]))
    return Line(OK, f"{name}{memory}, {bfloat16}; model.dtype auto is {auto}")


def _unused_gpu(cuda_build: str | None) -> Line:
    """Why torch does not use an NVIDIA GPU whose driver is there."""
    if cuda_build is None:
        advice = "install a CUDA build of torch in place of the CPU one"
        return Line(NOTE, "there is an NVIDIA driver, and torch is a build for the CPU only", advice)
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all") in ("", "-1"):
        return Line(NOTE, "CUDA_VISIBLE_DEVICES hides all GPUs", "unset CUDA_VISIBLE_DEVICES")
    advice = "see what nvidia-smi says: a driver older than torch's CUDA, or no GPU"
    return Line(NOTE, f"torch is built for CUDA {cuda_build} and finds no GPU", advice)


def main(names: list[str]) -> None:
    """Import the modules in turn, reporting before and after each; then ask torch, if it is one of them."""
    for name in names:
        report({"importing": name})
        error = None
        try:
            importlib.import_module(name)
        except Exception as raised:  # a broken package may raise anything
            error = f"{type(raised).__name__}: {raised}".strip().splitlines()[0]
        report({"imported": name, "error": error})
    if "torch" in names and "torch" in sys.modules:
        report({"torch": torch_facts(sys.modules["torch"])})


def report(values: dict) -> None:
    """Write a line at once, so that it is there if the process ends at the next step.

    A line of its own, whatever an import has printed before.
    """
    print(f"\n{MARK}{json.dumps(values)}", flush=True)


def torch_facts(torch) -> dict:
    """What torch sees; an answer that it does not give is None."""
    return {
        "threads": answer(lambda: torch.get_num_threads()),
        "vector": answer(lambda: torch.backends.cpu.get_cpu_capability()),
        "bfloat16": bfloat16_units(torch),
        "cuda_build": answer(lambda: torch.version.cuda or torch.version.hip),
        "cuda": answer(lambda: torch.cuda.is_available()),
        "mps": answer(lambda: torch.backends.mps.is_available()),
        "devices": answer(lambda: [_gpu_facts(torch, i) for i in range(torch.cuda.device_count())]) or [],
    }


def _gpu_facts(torch, index: int) -> dict:
    """Name, memory and abilities of a GPU, and the error with which a small product on it ends."""
    error = None
    try:
        ones = torch.ones(8, 8, device=f"cuda:{index}")
        (ones @ ones).sum().item()
    except Exception as raised:  # no kernel for this GPU, no memory, a driver that is too old
        error = f"{type(raised).__name__}: {raised}".strip().splitlines()[0]
    free, total = answer(lambda: torch.cuda.mem_get_info(index)) or (None, None)
    return {
        "name": answer(lambda: torch.cuda.get_device_name(index)),
        "free": free,
        "total": total,
        "bfloat16": answer(lambda: torch.cuda.is_bf16_supported(including_emulation=False)),
        "error": error,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
