"""Runs that are ended on the way, and what must come of them; shared by kill.py and full_disk.py."""

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch

from resuming import RECIPE, START, in_a_child, results, run, write

__all__ = ["RECIPES", "START", "Wanted", "in_a_child", "results", "run", "write"]

torch.set_num_threads(1)

RECIPES = {
    "coarse, then fine": RECIPE,
    "joint, then three positions on disk": START
    + """
  both: {method: joint, lora: {rank: 2, dora: true}, reft: {rank: 2, positions: f1+l1}, reft_learning_rate: 3e-3,
         steps: 6, batch_size: 6, optimizer: adafactor}
  fine: {method: reft, rank: 2, positions: l3, intervention: direft, steps: 8, batch_size: 7, cache: disk}
""",
    "pissa, then upper layers, until early stopping": START
    + """
  coarse: {method: lora, rank: 2, init: pissa, steps: 6, batch_size: 6, bf16: true, schedule: cosine}
  fine: {method: reft, rank: 2, positions: all, layers: [1], steps: 12, batch_size: 8, holdout: 0.2,
         evaluate_every: 2, early_stopping: {patience: 2, min_delta: 0.05}, schedule: constant, epochs: null}
""",
    "fine, then coarse with sgd": START
    + """
  fine: {method: reft, rank: 2, positions: l2, dropout: 0.2, epochs: 2.5, batch_size: 5, cache: "off"}
  coarse: {method: lora, rank: 2, rslora: true, dropout: 0.2, epochs: 1, batch_size: 4, micro_batch_size: 2,
           optimizer: sgd, gradient_checkpointing: true}
""",
}


class Wanted:
    """The results that a recipe has when nothing ends it, computed once."""

    def __init__(self, text: str):
        self._folder = tempfile.TemporaryDirectory(prefix="heft-torture-")
        self.recipe = write(Path(self._folder.name), text)
        run(self.recipe, Path(self._folder.name) / "whole")
        self.results = results(Path(self._folder.name) / "whole")
