"""`heft plan --probe-layers`: at which layers and tokens of a recipe's rows an edit could move the loss.

The model is the recipe's base, with its weights, and the adapters that stages take as they are (`from`); what other
stages will train is not there yet. The measure is in heft.training.layer_probe.
"""

from collections.abc import Sequence

from heft.adapters.attach import activate
from heft.adapters.existing import check_sources, take_as_it_is
from heft.adapters.methods import adapters_of, edited_positions
from heft.data.rows import read_data
from heft.edits.positions import Positions, parse_positions
from heft.errors import HeftError
from heft.models.load import load_base
from heft.recipe.grid import configurations, recipe_of
from heft.recipe.recipe import Recipe
from heft.reft.editable import require_editable
from heft.runtime.reporter import Reporter
from heft.training.layer_probe import LayerProbe, probe_layers, sampled

WITHOUT_EDITS = "l4"
"""Positions by which layers are compared where no stage of the recipe edits hidden states."""


def probe_recipe(recipe: Recipe, rows: int, reporter: Reporter | None = None) -> LayerProbe:
    """Probe the layers of a recipe's base on so many of its training rows, drawn by the recipe's seed.

    Layers are compared by edits of the positions of the last stage that has some (of a sweep's first configuration).

    Raises:
        HeftError: the data or the model cannot be loaded, its layers cannot be edited, or memory does not suffice for a
            row.
    """
    reporter = reporter or Reporter()
    tried = [recipe] if recipe.sweep is None else [recipe_of(recipe, each) for each in configurations(recipe)]
    positions = positions_probed(tried[0])
    everywhere = [each for one in tried for each in edited_positions(one)]
    train = read_data(tried[0], Reporter(), everywhere).train
    base = load_base(recipe.model)
    try:
        require_editable(base.model)
    except ValueError as error:
        raise HeftError(f"layers cannot be probed, for ReFT cannot edit them: {error}") from None
    check_sources(base.model, tried[0], base.fingerprint, reporter.warn)
    taken = _take_what_is_there(base.model, tried[0])
    chosen = sampled(train, rows, recipe.seed)
    behind = f" behind {', '.join(taken)}" if taken else ""
    reporter.note(f"probing layers on {len(chosen):,} of {len(train):,} training rows{behind}")
    return probe_layers(base.model, chosen, base.tokenizer.pad_token_id, positions)


def positions_probed(recipe: Recipe) -> Positions:
    """Positions of the recipe's last stage that edits hidden states and trains."""
    found: Sequence[Positions] = [
        adapter.positions
        for name, stage in recipe.stages.items()
        if not stage.is_frozen
        for adapter in adapters_of(name, stage)
        if adapter.method == "reft"
    ]
    return found[-1] if found else parse_positions(WITHOUT_EDITS)


def _take_what_is_there(model, recipe: Recipe) -> list[str]:
    """Attach the adapters of stages that train nothing, frozen and active; returns their names."""
    taken = []
    for name, stage in recipe.stages.items():
        if stage.is_frozen:
            taken += take_as_it_is(model, name, stage)
    if taken:
        activate(model, taken)
    return taken
