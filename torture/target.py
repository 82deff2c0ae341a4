"""What every kind of fuzzed input has in common."""

from pathlib import Path


class Target:
    """One kind of input."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.setup()

    def setup(self) -> None:
        """Write what stands around the input, once."""

    def seeds(self) -> list[bytes]:
        """Valid inputs, from which others are made."""
        raise NotImplementedError

    def run(self, data: bytes) -> None:
        """Let heft read one input."""
        raise NotImplementedError
