"""An environment of its own for each peer, under .envs/, built with venv and pip and kept while its pins stay."""

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
TORCH = "torch==2.13.0"
PACKAGES = {
    "heft": ["heft", "torch", "transformers", "peft", "accelerate"],
    "peft": ["peft", "transformers", "torch", "accelerate"],
    "trl": ["trl", "peft", "transformers", "torch"],
    "pyreft": ["pyreft", "pyvene", "transformers", "torch"],
    "adapters": ["adapters", "transformers", "torch"],
    "lmeval": ["lm_eval", "transformers", "torch"],
}
"""What each peer's versions are told of."""
UNUSABLE = {"vllm": ["torchvision", "torchaudio", "torchcodec"]}
"""What a peer's requirements bring in that its torch, of another build, cannot load; taken out again."""
WITH_HEFT = ("vllm",)
"""Peers in whose environment heft is, from this checkout, without its own requirements."""


class CannotBuild(Exception):
    """An environment could not be built; the text is pip's own last words."""


@dataclass(frozen=True)
class Environments:
    """Finds or builds the Python of each peer.

    Attributes:
        folder: where environments are built.
        given: Pythons to take as they are, by peer, such as on a machine that reaches no package index.
    """

    folder: Path
    given: dict[str, str]

    def python(self, peer: str) -> str:
        """The peer's Python.

        Raises:
            CannotBuild: pip failed.
        """
        if peer in self.given:
            return self.given[peer]
        return sys.executable if peer == "heft" else str(self._built(peer))

    def _built(self, peer: str) -> Path:
        pins = [path for path in (_pins(peer), _pins(f"{peer}.no-deps")) if path.is_file()]
        digest = hashlib.sha256(b"".join([TORCH.encode(), *(path.read_bytes() for path in pins)])).hexdigest()
        home = self.folder / peer
        python, ready = home / "bin" / "python", home / "ready"
        if ready.is_file() and ready.read_text() == digest:
            return python
        print(f"building the environment of {peer}", file=sys.stderr, flush=True)
        _call([sys.executable, "-m", "venv", "--clear", str(home)])
        # The same torch for everybody, first, so that none of them brings another build of it.
        _pip(python, TORCH)
        _pip(python, TORCH, "-r", str(_pins(peer)))
        if _pins(f"{peer}.no-deps").is_file():
            _pip(python, "--no-deps", "-r", str(_pins(f"{peer}.no-deps")))
        if peer in UNUSABLE:
            _call([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", *UNUSABLE[peer]])
        if peer in WITH_HEFT:
            _pip(python, "--no-deps", "-e", str(HERE.parent))
        ready.write_text(digest)
        return python


def _pins(name: str) -> Path:
    return HERE / "requirements" / f"{name}.txt"


def _pip(python: Path, *what: str) -> None:
    options = ["--quiet", "--disable-pip-version-check", "--no-compile"]
    _call([str(python), "-m", "pip", "install", *options, *what])


def _call(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        words = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
        raise CannotBuild("\n".join(words[-6:]) or f"status {done.returncode}")


if __name__ == "__main__":  # make pyreft-env
    for name in sys.argv[1:]:
        try:
            print(Environments(HERE / ".envs", {}).python(name))
        except CannotBuild as error:
            sys.exit(f"the environment of {name} cannot be built:\n{error}")
