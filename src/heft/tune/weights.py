"""Trained coarse stages, behind which second stages are tried; their weights are files while a search runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file

from heft.recipe.recipe import Stage
from heft.storage.atomic import atomic_path, readable_os_errors, save_tensors


@dataclass(frozen=True)
class Before:
    """The stage below those that are tried: trained, frozen.

    Attributes:
        name: of the stage.
        stage: as a recipe has it that trains just this far.
        seconds: of training it.
        flops: the same.
        weights: gives those of its adapter at the end of training, by name.
        is_estimated: whether the seconds are, since it was trained side by side with others.
    """

    name: str
    stage: Stage
    seconds: float
    flops: float
    weights: Callable[[], Mapping[str, torch.Tensor]]
    is_estimated: bool = False

    @property
    def stages(self) -> dict[str, Stage]:
        """As the beginning of a recipe's stages."""
        return {self.name: self.stage}

    def cost(self, unit: str) -> float:
        """Of training it, in "seconds" or "flops"."""
        return self.seconds if unit == "seconds" else self.flops


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
