"""Trained weights of LoRA's trials, behind which second stages are tried: files while a search runs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file

from heft.storage.atomic import atomic_path, readable_os_errors, save_tensors


@dataclass(frozen=True)
class WeightFiles:
    """One file a trial, in a folder that need not be there yet."""

    folder: Path

    def keep(self, key: str, weights: Mapping[str, torch.Tensor]) -> None:
        """Write the weights of a trial.

        Raises:
            HeftError: they cannot be written.
        """
        with readable_os_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_path(self._of(key)) as partial:
                save_tensors(dict(weights), partial)

    def of(self, key: str) -> dict[str, torch.Tensor] | None:
        """The weights of a trial, by name; None where they are not there."""
        path = self._of(key)
        return load_file(path) if path.is_file() else None

    def _of(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


@dataclass
class WeightsInMemory:
    """The same in a process that sends them to where the search runs."""

    kept: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)

    def keep(self, key: str, weights: Mapping[str, torch.Tensor]) -> None:
        """Hold the weights of a trial."""
        self.kept[key] = dict(weights)

    def of(self, key: str) -> dict[str, torch.Tensor] | None:
        """As of `WeightFiles`."""
        return self.kept.get(key)
