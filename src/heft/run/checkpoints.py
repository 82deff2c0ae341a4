"""A run's checkpoints, from which an interrupted run is resumed:

    checkpoints/<number>-<stage>/
      step-<n>/     values.json, tensors.safetensors: a stage in the middle of its training
      trained/      a folder in PEFT's format for each adapter, figures.json: a stage after its training
        checkpoint.json   in each of them: SHA-256 of every other file, and how long metrics.jsonl was

A checkpoint appears whole or not at all. One that was altered afterwards is found by its hashes, named, and the one
before it is used: the last steps of a stage stay until the next stage is trained.
"""

import hashlib
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file

from heft.errors import HeftError
from heft.storage.atomic import atomic_folder, save_tensors, sha256_of, to_json
from heft.storage.reading import read_json
from heft.training.checkpointing import StageCheckpoint

FORMAT = 3
VALUES_LIMIT = 2**28
"""Bytes of values.json that are read at most."""
_ABOUT = "checkpoint.json"


@dataclass(frozen=True)
class StepCheckpoint:
    """A stage in the middle of its training.

    Attributes:
        state: what the next step depends on.
        cache: the store that the stage's `cache: auto` meant; None where it caches nothing.
        metrics_bytes: length of metrics.jsonl then.
    """

    state: StageCheckpoint
    cache: str | None
    metrics_bytes: int


@dataclass(frozen=True)
class TrainedCheckpoint:
    """A stage after its training.

    Attributes:
        folder: holds a folder in PEFT's format for each of its adapters.
        figures: of the training, as they were given.
        metrics_bytes: length of metrics.jsonl then.
    """

    folder: Path
    figures: dict
    metrics_bytes: int


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a run.

    Attributes:
        folder: that holds them; need not be there yet.
        stages: names of the recipe's stages, in order.
        keep: how many checkpoints of steps stay.
        note: hears of damage.
    """

    folder: Path
    stages: Sequence[str]
    keep: int
    note: Callable[[str], None]

    def write_step(self, stage: str, checkpoint: StepCheckpoint) -> None:
        """Write a checkpoint in the middle of a stage; of its earlier ones the newest stay.

        Raises:
            HeftError: it cannot be written; all checkpoints are as they were.
        """
        values, tensors = checkpoint.state.packed()
        about = {"cache": checkpoint.cache, "metrics_bytes": checkpoint.metrics_bytes}
        with _written(self._of(stage) / f"step-{checkpoint.state.progress.step:08d}", about) as partial:
            (partial / "values.json").write_text(to_json(values), encoding="utf-8")
            save_tensors(tensors, partial / "tensors.safetensors")
        for old in self._steps(stage)[: -self.keep]:
            shutil.rmtree(old)

    def write_trained(
        self, stage: str, figures: dict, save_adapters: Callable[[Path], None], metrics_bytes: int
    ) -> None:
        """Write a checkpoint of a trained stage; those within the stages before it are removed.

        Raises:
            HeftError: it cannot be written; all checkpoints are as they were.
        """
        with _written(self._of(stage) / "trained", {"metrics_bytes": metrics_bytes}) as partial:
            (partial / "figures.json").write_text(to_json(figures), encoding="utf-8")
            save_adapters(partial)
        for earlier in self.stages[: self.stages.index(stage)]:
            for old in self._steps(earlier):
                shutil.rmtree(old)

    def trained(self, stage: str) -> TrainedCheckpoint | None:
        """The stage after its training, if that is there and intact."""
        folder = self._of(stage) / "trained"
        about = self._intact(folder)
        if about is None:
            return None
        return TrainedCheckpoint(folder, read_json(folder / "figures.json"), about["metrics_bytes"])

    def last_step(self, stage: str) -> StepCheckpoint | None:
        """The stage after the most steps for which there is an intact checkpoint."""
        for folder in reversed(self._steps(stage)):
            about = self._intact(folder)
            if about is not None:
                values = read_json(folder / "values.json", VALUES_LIMIT)
                state = StageCheckpoint.unpacked(values, load_file(folder / "tensors.safetensors"))
                return StepCheckpoint(state, about["cache"], about["metrics_bytes"])
        return None

    def forget_after(self, stage: str, step: int) -> None:
        """Remove checkpoints of a stage after that step, and of all later stages."""
        for each in self._steps(stage):
            if each.name > f"step-{step:08d}":
                shutil.rmtree(each)
        shutil.rmtree(self._of(stage) / "trained", ignore_errors=True)
        for later in self.stages[self.stages.index(stage) + 1 :]:
            shutil.rmtree(self._of(later), ignore_errors=True)

    def _of(self, stage: str) -> Path:
        return self.folder / f"{self.stages.index(stage)}-{stage}"

    def _steps(self, stage: str) -> list[Path]:
        found = self._of(stage).glob("step-*")
        return sorted(each for each in found if re.fullmatch(r"step-\d{8}", each.name) and each.is_dir())

    def _intact(self, folder: Path) -> dict | None:
        if not folder.is_dir():
            return None
        try:
            return _checked(folder)
        except (OSError, KeyError, TypeError, AttributeError, HeftError) as error:
            self.note(f"checkpoint {folder} is damaged ({error}); the one before it is used")
            return None


@contextmanager
def _written(folder: Path, about: dict) -> Iterator[Path]:
    shutil.rmtree(folder, ignore_errors=True)  # one of the same name is damaged, else the run would have used it
    with atomic_folder(folder) as partial:
        yield partial
        hashes = {each.relative_to(partial).as_posix(): sha256_of(each) for each in _files(partial)}
        whole = {"format": FORMAT, **about, "sha256": hashes}
        (partial / _ABOUT).write_text(to_json({**whole, "own_sha256": _own_hash(whole)}), encoding="utf-8")


def _checked(folder: Path) -> dict:
    """What checkpoint.json says.

    Raises:
        HeftError: it is of another format, or the files are not those that it names.
    """
    about = read_json(folder / _ABOUT)
    if about["format"] != FORMAT:
        raise HeftError(f"it has format {about['format']}; this version of heft reads format {FORMAT}")
    if about.pop("own_sha256") != _own_hash(about):
        raise HeftError(f"{_ABOUT} is not what was written")
    there = {each.relative_to(folder).as_posix(): each for each in _files(folder) if each.name != _ABOUT}
    if there.keys() != about["sha256"].keys():
        raise HeftError(f"it lacks or adds {', '.join(sorted(there.keys() ^ about['sha256'].keys()))}")
    for name, each in there.items():
        if sha256_of(each) != about["sha256"][name]:
            raise HeftError(f"{name} is not what was written")
    return about


def _own_hash(about: dict) -> str:
    return hashlib.sha256(to_json(about).encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(each for each in folder.rglob("*") if each.is_file())
