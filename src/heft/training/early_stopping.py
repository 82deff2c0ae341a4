"""What the validation loss decides: when a stage ends early, and which of its weights stay."""

import sys
from collections.abc import Mapping
from typing import Any

import torch

from heft.recipe.training import TrainingSettings
from heft.training.snapshot import copied, restore_weights


class EarlyStopping:
    """Follows the validation loss for `early_stopping` and `best_checkpoint`, as far as a stage asks for them.

    Attributes:
        reason: why the stage ends early, in a sentence; None while it does not.
        state: what a resumed stage needs: the lowest loss and its step, evaluations since it improved, best weights.
    """

    def __init__(self, stage: TrainingSettings):
        self.reason: str | None = None
        self.state: dict[str, Any] = {"lowest": sys.float_info.max, "step": 0, "without_gain": 0, "best": {}}
        self._settings, self._keeps_best = stage.early_stopping, stage.best_checkpoint

    def update(self, step: int, loss: float, parameters: Mapping[str, torch.Tensor]) -> None:
        """Take in the validation loss of these weights, after that step."""
        lowest, lowest_at = self.state["lowest"], self.state["step"]
        if loss < lowest:
            best = copied(dict(parameters)) if self._keeps_best else {}
            self.state |= {"lowest": loss, "step": step, "best": best}
        if self._settings is None:
            return
        patience, min_delta = self._settings.patience, self._settings.min_delta
        self.state["without_gain"] = 0 if loss < lowest - min_delta else self.state["without_gain"] + 1
        if self.state["without_gain"] >= patience:
            evaluations = "evaluation" if patience == 1 else f"{patience} evaluations"
            self.reason = (
                f"the validation loss did not fall by {min_delta:g} in the last {evaluations} (patience {patience}):"
                f" it is {loss:.4f} at step {step:,}, its lowest before was {lowest:.4f} at step {lowest_at:,}"
            )

    def restore_best(self, parameters: Mapping[str, torch.Tensor]) -> None:
        """Set the weights to those of the lowest validation loss, if `best_checkpoint` asks for that."""
        restore_weights(parameters, self.state["best"])
