"""The asking side of a measured process: start it, ask it, end it (the protocol is worker.py's)."""

import json
import os
import subprocess
from pathlib import Path
from typing import Self

from envs import PACKAGES

HERE = Path(__file__).resolve().parent


class PeerFailed(Exception):
    """A process could not do what it was asked; the text is its own error."""


class Peer:
    """One measured process, which loads when made and ends with the `with` block.

    Args:
        name: a peer; `peer_<name>.py` is run.
        python: the Python of its environment.
        job: what it is told: model, rows, stage, batch size and so on.
        log: where what it prints is kept.

    Raises:
        PeerFailed: it could not load.
    """

    def __init__(self, name: str, python: str, job: dict, log: Path):
        self._name = name
        command = [python, str(HERE / f"peer_{name}.py"), json.dumps(job | {"packages": PACKAGES[name]})]
        self._log = log.open("a")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=_environment(job)
        )
        try:
            self.versions: dict[str, str] = self._reply()["versions"]
        except PeerFailed:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def ask(self, do: str, **more: object) -> dict:
        """The reply to a request.

        Raises:
            PeerFailed: it answered with an error, or ended.
        """
        try:
            self._process.stdin.write(json.dumps({"do": do, **more}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, which the missing reply tells
        return self._reply()

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._log.close()

    def _reply(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            status, log = self._process.wait(), Path(self._log.name).name
            raise PeerFailed(f"{self._name} ended with status {status}; its output is in {log} among temporary files")
        message = json.loads(line)
        if "error" in message:
            raise PeerFailed(f"{self._name}: {message['error'].strip()}")
        return message


def _environment(job: dict) -> dict[str, str]:
    threads = str(job["threads"])
    own = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "WANDB_MODE": "disabled"}
    if job["device"] == "cpu":
        own["CUDA_VISIBLE_DEVICES"] = ""
    return os.environ | own | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
