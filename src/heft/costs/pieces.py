"""The pieces of work that a run is made of, with what each costs, so that a person is told how long it will take."""

from collections.abc import Collection
from math import ceil

import torch
from transformers import PreTrainedModel

from heft.costs.amounts import ModelCosts
from heft.costs.evaluation import Evaluations
from heft.costs.stage import StageCosts, stage_costs
from heft.data.rows import Data
from heft.recipe.recipe import Recipe
from heft.runtime.reporter import Piece
from heft.training.reuse.activation_cache import ROWS_PER_PASS
from heft.training.reuse.plan import PREFIXES


def evaluation_name(name: str) -> str:
    """What the evaluation of the base, or after a stage, is called in progress."""
    return f"evaluation of {name}"


def pieces_of(
    recipe: Recipe,
    base: PreTrainedModel,
    data: Data,
    evaluated: Collection[str] = (),
    trained: Collection[str] = (),
) -> list[Piece]:
    """The evaluations and trainings of a run that are left, in order.

    Args:
        base: the model, with or without weights, and nothing attached.
        evaluated, trained: names of what is done already, "base" among them.
    """
    pieces = []
    evaluations = Evaluations(recipe, base, data.eval, _device_of(base), evaluated)
    if "base" not in evaluated:
        pieces.append(_evaluation("base", evaluations, evaluations.base_costs))
    for name, stage in recipe.stages.items():
        if name in evaluated and (name in trained or stage.is_frozen):
            continue
        costs = stage_costs(recipe, name, data.train)
        if name not in trained and not stage.is_frozen:
            pieces.append(training_piece(name, costs))
        pieces.append(_evaluation(name, evaluations, costs.shape.costs))
    return pieces


def training_piece(name: str, costs: StageCosts) -> Piece:
    """The training of a stage; its validation is not in it."""
    passes, steps = costs.planned_passes, costs.planned_steps
    flops, once, share = costs.flops(passes), 0.0, 1.0
    if flops is not None and passes > 1 and costs.reuse.store != "off":
        once, share = 2 * costs.flops(1) - costs.flops(2), _filling_steps(costs) / steps
    return Piece(
        name,
        "prefixes" if costs.reuse.kind == PREFIXES else "training",
        rows=passes * len(costs.rows),
        tokens=passes * sum(row.length for row in costs.rows),
        flops=flops,
        once_flops=once,
        once_share=share,
    )


def _filling_steps(costs: StageCosts) -> int:
    """Steps in which most of what is cached is computed: each row brings along those that are computed with it."""
    rows, batch_size = len(costs.rows), costs.stage.batch_size
    return min(ceil(rows / batch_size), ceil(2 * rows / (batch_size * ROWS_PER_PASS)))


def _device_of(base: PreTrainedModel) -> torch.device:
    return base.device if base.device.type != "meta" else torch.device("cpu")


def _evaluation(name: str, evaluations: Evaluations, costs: ModelCosts | None) -> Piece:
    rows = evaluations.examples
    tokens = sum(row.length for row in rows)
    return Piece(evaluation_name(name), "evaluation", len(rows), tokens, evaluations.flops(name, costs))
