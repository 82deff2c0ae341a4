"""Every kind of file that heft reads, with inputs that try to break it: `python torture/fuzz.py [KIND...] [--runs N]`.

Each kind is fuzzed in a process and an empty folder of its own (fuzz_one.py); it may read its input or refuse it with a
`HeftError`, in bounded time, without writing, connecting or starting anything outside. Exit status 1 on any fault;
the inputs are then in torture/corpus, which the tests replay.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from targets import TARGETS

HERE = Path(__file__).parent
ALLOWED = {"input", "corpus", "home", "faults.json", "faults.partial", "log"}


@dataclass
class Found:
    """What the fuzzing of one kind came to; `edges` are places in the code that were reached, of one after another."""

    kind: str
    tried: int = 0
    accepted: int = 0
    seconds: float = 0.0
    edges: int = 0
    faults: dict[str, dict] = field(default_factory=dict)


def fuzz(kind: str, runs: int, seed: int) -> Found:
    """Fuzz one kind of input."""
    with tempfile.TemporaryDirectory(prefix=f"heft-fuzz-{kind}-") as name:
        folder = Path(name)
        (folder / "home").mkdir()
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "XDG_"))}
        environment |= {"HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(HERE / "fuzz_one.py"), kind, str(runs), str(folder), str(seed)]
        started = time.monotonic()
        with (folder / "log").open("wb") as log:
            status = subprocess.run(command, cwd=folder, env=environment, stdout=log, stderr=log).returncode
        found = Found(kind, seconds=time.monotonic() - started)
        log_text = (folder / "log").read_text(errors="replace")
        found.edges = max(map(int, re.findall(r"cov: (\d+)", log_text)), default=0)
        if (folder / "faults.json").is_file():
            told = json.loads((folder / "faults.json").read_text())
            found.tried, found.accepted, found.faults = told["tried"], told["accepted"], told["faults"]
        for path in (path for kind in ("timeout", "crash", "oom") for path in folder.glob(f"stopped-{kind}-*")):
            what = f"{path.name.split('-')[1]}: the process was ended"
            found.faults[what] = {"input": path.read_bytes().hex(), "told": log_text[-2000:], "count": 1}
        if status and not found.faults:
            found.faults[f"exit status {status}"] = {"input": "", "told": log_text[-3000:], "count": 1}
        strays = {path.name for path in folder.iterdir() if not path.name.startswith("stopped-")} - ALLOWED
        strays |= {f"home/{path.name}" for path in (folder / "home").iterdir()}
        if strays:
            found.faults[f"files were written: {', '.join(sorted(strays))}"] = {"input": "", "told": "", "count": 1}
        if found.tried < runs and not found.faults:
            found.faults[f"only {found.tried} of {runs} inputs were tried"] = {
                "input": "",
                "told": log_text[-2000:],
                "count": 1,
            }
        return found


def keep(found: Found) -> None:
    """Put the inputs of faults where the tests replay them."""
    for fault in found.faults.values():
        data = bytes.fromhex(fault["input"])
        if data:
            folder = HERE / "corpus" / found.kind
            folder.mkdir(parents=True, exist_ok=True)
            (folder / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)


def main() -> int:
    """Fuzz and print a table; 1 on any fault."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", choices=[[], *TARGETS], help="kinds of input; all if none is given")
    parser.add_argument("--runs", type=int, default=100_000, help="inputs of each kind")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    print(f"{'kind':<16}{'inputs':>10}{'accepted':>10}{'seconds':>9}{'edges':>7}{'faults':>8}", flush=True)
    faulty = 0
    for kind in options.kinds or TARGETS:
        found = fuzz(kind, options.runs, options.seed)
        counts = f"{found.tried:>10,}{found.accepted:>10,}{found.seconds:>9.0f}{found.edges:>7,}{len(found.faults):>8}"
        print(f"{kind:<16}{counts}", flush=True)
        for place, fault in found.faults.items():
            told = fault["told"].replace("\n", "\n      ")
            print(
                f"  {place} ({fault['count']} inputs), such as {bytes.fromhex(fault['input'])[:200]!r}\n      {told}",
                flush=True,
            )
        keep(found)
        faulty += len(found.faults)
    return 1 if faulty else 0


if __name__ == "__main__":
    sys.exit(main())
