"""What the held-back loss decides: when a stage ends, and which of its weights stay."""

import math

import torch
from transformers import TrainerCallback, TrainerControl

from heft.recipe.training import TrainingSettings
from heft.training.snapshot import Snapshot, restore_weights, trained_weights


class HeldBack(TrainerCallback):
    """Ends a stage on a plateau of the held-back loss and keeps the weights of its minimum, where these are asked for.

    Attributes:
        plateau: what was seen when it ended the stage, in a sentence; None before.
    """

    def __init__(self, stage: TrainingSettings):
        self.plateau: str | None = None
        self._until, self._keep_best = stage.until and stage.until.plateau, stage.best_checkpoint
        self._lowest, self._without_gain = math.inf, 0
        self._best: dict[str, torch.Tensor] | None = None
        self._best_loss = math.inf

    def on_evaluate(self, args, state, control, metrics=None, model=None, **kwargs):
        loss = metrics["eval_loss"]
        if self._keep_best and loss < self._best_loss:
            self._best_loss = loss
            self._best = trained_weights(model)
        if self._until is not None:
            self._watch(loss, self._until.patience, self._until.minimum_gain, control)

    def _watch(self, loss: float, patience: int, minimum_gain: float, control: TrainerControl) -> None:
        self._without_gain = 0 if loss < self._lowest - minimum_gain else self._without_gain + 1
        if self._without_gain >= patience:
            looks = "evaluation" if patience == 1 else f"{patience} evaluations"
            self.plateau = (
                f"the held-back loss did not fall by {minimum_gain:g} in the last {looks}:"
                f" it is {loss:.4f}, its lowest before was {self._lowest:.4f}"
            )
            control.should_training_stop = True
        self._lowest = min(self._lowest, loss)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        if self._best is not None:
            restore_weights(model, self._best)

    def snapshot(self) -> Snapshot:
        """What was seen so far; infinities, which JSON has not, are left out."""
        values = {"lowest": self._lowest, "best_loss": self._best_loss}
        seen = {key: value for key, value in values.items() if math.isfinite(value)}
        return Snapshot(seen | {"without_gain": self._without_gain}, self._best or {})

    def restore(self, snapshot: Snapshot) -> None:
        """Go on from what was seen."""
        self._lowest = snapshot.values.get("lowest", math.inf)
        self._best_loss = snapshot.values.get("best_loss", math.inf)
        self._without_gain = snapshot.values["without_gain"]
        self._best = snapshot.tensors or None
