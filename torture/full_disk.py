"""Runs on a small disk that fills up, or is read-only of a sudden, and must lose nothing that was kept.

python torture/full_disk.py [--sizes N]: mounts a tmpfs of N different sizes (needs root and Linux), from too small for
anything to large enough for all. A run must end well or with an error that names the file, the cause and the way out;
with room again it must go on to the result that it would have had. Exit status 1 on any fault.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from ends import RECIPES, Wanted, in_a_child, results, run

NAME = "coarse, then fine"
LARGEST_KB = 1400


def mounted(options: str, folder: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)


def outcome(wanted: Wanted, directory: Path, log: Path) -> str:
    """Run; "finished", the error's first line, or what is wrong about it."""
    log.unlink(missing_ok=True)
    child = in_a_child(lambda: run(wanted.recipe, directory), log)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return "finished" if status == 0 else log.read_text().splitlines()[0] if status == 1 else f"FAULT: status {status}"


def full(wanted: Wanted, size_kb: int, log: Path) -> tuple[str, list[str]]:
    """What a run on a disk of that size says, and faults."""
    with tempfile.TemporaryDirectory(prefix="heft-torture-") as name:
        disk = Path(name)
        mounted(f"size={size_kb}k", disk)
        try:
            said = outcome(wanted, disk / "run", log)
            faults = []
            if said != "finished":
                if (
                    not said.startswith("HeftError: ")
                    or "No space left on device" not in said
                    or "free some" not in said
                ):
                    faults.append(f"{size_kb} kB: {said}\n{log.read_text()}")
                mounted("remount,size=100m", disk)
                again = outcome(wanted, disk / "run", log)
                if again != "finished":
                    faults.append(f"{size_kb} kB, then room: {again}")
            if not faults and results(disk / "run") != wanted.results:
                faults.append(f"{size_kb} kB: another result")
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)
    return said, faults


def read_only(wanted: Wanted, seconds: float, log: Path) -> tuple[str, list[str]]:
    """As `full`, for a disk that becomes read-only after some seconds."""
    with tempfile.TemporaryDirectory(prefix="heft-torture-") as name:
        disk = Path(name)
        mounted("size=100m", disk)
        try:
            stop = threading.Event()
            thread = threading.Thread(target=_make_read_only, args=(disk, seconds, stop))
            thread.start()
            said = outcome(wanted, disk / "run", log)
            stop.set()
            thread.join()
            faults = []
            if said != "finished" and not ("Read-only file system" in said and "--output DIR" in said):
                faults.append(f"read-only after {seconds:.1f} s: {said}\n{log.read_text()}")
            mounted("remount,rw,size=100m", disk)
            if outcome(wanted, disk / "run", log) != "finished" or results(disk / "run") != wanted.results:
                faults.append(f"read-only after {seconds:.1f} s: does not go on to the same result")
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=True)
    return said, faults


def _make_read_only(disk: Path, seconds: float, stop: threading.Event) -> None:
    """Remount as soon as no file is open for writing, from that moment on."""
    time.sleep(seconds)
    while not stop.is_set():
        if subprocess.run(["mount", "-o", "remount,ro", str(disk)], capture_output=True).returncode == 0:
            return
        time.sleep(0.001)


def main() -> None:
    """Try every size, then some moments, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, default=25)
    arguments = parser.parse_args()
    if os.geteuid() != 0 or sys.platform != "linux":
        sys.exit("full_disk.py mounts small disks and needs root on Linux; not run")
    wanted, every_fault, ends = Wanted(RECIPES[NAME]), [], []
    with tempfile.TemporaryDirectory(prefix="heft-torture-") as name:
        log = Path(name) / "log"
        start = time.monotonic()
        outcome(wanted, Path(name) / "timed", log)
        duration = time.monotonic() - start
        for number in range(arguments.sizes):
            ends.append(full(wanted, 4 + 4 * round(number * (LARGEST_KB - 4) / arguments.sizes / 4), log))
        for number in range(arguments.sizes // 3):
            ends.append(read_only(wanted, duration * (number + 0.5) / (arguments.sizes // 3), log))
    every_fault = [fault for _, faults in ends for fault in faults]
    ended = sum(said != "finished" for said, _ in ends)
    print("| disks | runs ended by them | runs gone on with to the same result | faults |\n|---|---|---|---|")
    print(f"| {len(ends)} | {ended} | {ended - len(every_fault)} | {len(every_fault)} |")
    print("\n".join(every_fault), file=sys.stderr)
    sys.exit(bool(every_fault))


if __name__ == "__main__":
    main()
