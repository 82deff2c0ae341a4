"""Peak memory of a piece of work."""

from pathlib import Path

import torch


class PeakMemory:
    """The most memory that was in use since this was made.

    On CUDA what torch had allocated on the device. On a CPU under Linux the resident memory of the whole process,
    libraries and base model included, whose high-water mark (VmHWM, proc(5)) is reset at the start. Elsewhere it is
    unknown. Of several processes, each sees its own.
    """

    def __init__(self, device: torch.device):
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        self._is_known = device.type == "cuda" or (device.type == "cpu" and _reset())

    def bytes(self) -> int | None:
        """The peak so far; None where it is unknown."""
        if not self._is_known:
            return None
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return _resident_peak()


def _reset() -> bool:
    """Reset the high-water mark to what is resident now; returns whether that is possible here."""
    before = _resident_peak()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return before is not None


def _resident_peak() -> int | None:
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), None)
