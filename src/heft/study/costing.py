"""What the stages of a study's arms cost. What arms have in common is read, encoded and counted once."""

import json

from transformers import PreTrainedModel

from heft.adapters.attach import check_targets
from heft.adapters.methods import edited_positions
from heft.costs.skeleton import skeleton_of, tokenizer_for
from heft.costs.stage import StageCosts, stage_costs
from heft.data.rows import Data, read_data
from heft.data.validation import split_validation
from heft.errors import HeftError
from heft.recipe.defaults import Facts, with_defaults
from heft.recipe.recipe import Recipe
from heft.runtime.reporter import Reporter
from heft.training.stage import planned_steps


class Costing:
    """Counts the stages of recipes as `heft plan` does, evaluations left out.

    Rows are read, encoded and checked once for each distinct model, task, set of edited positions and validation share.
    """

    def __init__(self):
        self._data: dict[str, Data | HeftError] = {}
        self._bases: dict[str, PreTrainedModel] = {}

    def steps(self, recipe: Recipe) -> list[int]:
        """Optimiser steps of each stage, as its recipe has it; a HeftError where its rows cannot be read."""
        rows, recipe = self._read(recipe).train, self._settled(recipe)
        seed = recipe.holdout_seed
        trained = [split_validation(rows, stage.holdout, seed)[0] for stage in recipe.stages.values()]
        return [planned_steps(stage, len(own)) for stage, own in zip(recipe.stages.values(), trained, strict=True)]

    def stages(self, recipe: Recipe) -> list[StageCosts]:
        """What each stage costs.

        Raises:
            HeftError: its rows or its model's config cannot be read, an adapter does not fit the model, or the model
                cannot be counted.
        """
        rows, recipe = self._read(recipe).train, self._settled(recipe)
        check_targets(self._base(recipe), recipe, tokenizer_for(recipe))
        counted = [stage_costs(recipe, name, rows) for name in recipe.stages]
        for name, costs in zip(recipe.stages, counted, strict=True):
            if costs.shape.costs is None:
                raise HeftError(f"FLOPs of stage {name} cannot be counted: {costs.shape.uncounted}")
        return counted

    def _settled(self, recipe: Recipe) -> Recipe:
        return with_defaults(recipe, Facts(len(self._read(recipe).train), self._base(recipe).num_parameters()))

    def _read(self, recipe: Recipe) -> Data:
        positions = sorted({repr(each) for each in edited_positions(recipe)})
        shares = sorted({stage.holdout for stage in recipe.stages.values()})
        key = json.dumps([recipe.model.model_dump(), recipe.task.model_dump(), recipe.allow, positions, shares])
        if key not in self._data:
            try:
                self._data[key] = read_data(recipe, Reporter())
            except HeftError as error:  # once is enough to know
                self._data[key] = error
        found = self._data[key]
        if isinstance(found, HeftError):
            raise HeftError(str(found))
        return found

    def _base(self, recipe: Recipe) -> PreTrainedModel:
        key = json.dumps(recipe.model.model_dump())
        if key not in self._bases:
            self._bases[key] = skeleton_of(recipe, None)
        return self._bases[key]
