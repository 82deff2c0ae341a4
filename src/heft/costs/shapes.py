"""What stages' models are like. A process looks once at each base with each set of adapters, which takes seconds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from transformers import PreTrainedModel

from heft.adapters.methods import StageAdapter, adapters_of
from heft.adapters.source import AdapterSource
from heft.costs.amounts import ModelCosts
from heft.costs.operations import Uncountable, model_costs
from heft.costs.skeleton import skeleton_of
from heft.models.forward import attention_of
from heft.models.load import choose_device
from heft.models.precision import resolved_dtype
from heft.models.source import local_folder
from heft.recipe.model import ModelSettings
from heft.recipe.recipe import Recipe
from heft.recipe.training import TrainingSettings
from heft.storage.reading import is_file
from heft.training.attention import reads_in_place
from heft.training.reuse.facts import ReuseFacts

Seen = TypeVar("Seen")

_MOST_KEPT = 1024
NO_SHAPE = {*TrainingSettings.model_fields, "source", "reft_learning_rate"}
"""Settings of a stage on which its model does not depend."""


@dataclass(frozen=True)
class Shape:
    """What a stage's model is like while it trains.

    Attributes:
        costs: of one pass, the layers below the first edited one counted separately; None where it cannot be counted.
        uncounted: why not, in words; None where it is counted.
        trainable_parameters: how many numbers train.
        reuse: what of it can be computed once.
    """

    costs: ModelCosts | None
    uncounted: str | None
    trainable_parameters: int
    reuse: ReuseFacts


_shapes: dict[str, Shape] = {}
_bases: dict[str, ModelCosts | None] = {}


def shape_of_stage(recipe: Recipe, name: str, eager: bool = False) -> Shape:
    """The shape of a stage's model behind the stages before it.

    Args:
        eager: whether eager attention replaces sdpa: products are the same, and what is kept for them is not.

    Raises:
        HeftError: the model's config cannot be loaded, or an adapter cannot be attached to it.
    """
    names = list(recipe.stages)
    stages = [(each, recipe.stages[each]) for each in names[: names.index(name) + 1]]
    adapters = [[_described(adapter) for adapter in adapters_of(*stage)] for stage in stages]

    def look() -> Shape:
        model = skeleton_of(recipe, name)
        if eager and attention_of(model) == "sdpa":
            model.set_attn_implementation("eager")
        return shape_of(model, recipe.model.attention)

    return _once(_shapes, repr([_base(recipe.model), eager, adapters]), look)


def base_costs(recipe: Recipe) -> ModelCosts | None:
    """Of one pass through the base alone; None where it cannot be counted.

    Raises:
        HeftError: the model's config cannot be loaded.
    """

    def look() -> ModelCosts | None:
        try:
            return model_costs(skeleton_of(recipe, None))
        except Uncountable:
            return None

    return _once(_bases, repr(_base(recipe.model)), look)


def forget_shapes() -> None:
    """Look again at every model, as where something was counted otherwise meanwhile."""
    _shapes.clear()
    _bases.clear()


def _once(seen: dict[str, Seen], key: str, look: Callable[[], Seen]) -> Seen:
    """What was seen under a key, or is seen now; what was seen first goes where there is too much."""
    if key not in seen:
        found = look()
        if len(seen) == _MOST_KEPT:
            del seen[next(iter(seen))]
        seen[key] = found
    return seen[key]


def _base(settings: ModelSettings) -> list:
    """What a model's shape depends on; of a folder, its config as it is now."""
    folder, state = local_folder(settings.name), None
    if folder is not None and is_file(folder / "config.json"):
        config = (folder / "config.json").stat()
        state = [str(folder), config.st_mtime_ns, config.st_size]
    dtype = resolved_dtype(settings, choose_device(settings.device))
    return [state, dtype, settings.model_dump(mode="json", exclude={"dtype", "device"})]


def _described(adapter: StageAdapter) -> list:
    if isinstance(adapter.settings, AdapterSource):
        values = vars(adapter.settings.config)  # with sets, which have no order, and equal ones are to be one text
        found = [(key, sorted(value) if isinstance(value, set) else value) for key, value in values.items()]
    else:
        found = adapter.settings.model_dump(mode="json", exclude=NO_SHAPE)
    return [adapter.name, adapter.method, found]


def shape_of(model: PreTrainedModel, attention: str) -> Shape:
    """Look at a skeleton (see heft.costs.skeleton), which cannot run afterwards; `attention` is model.attention."""
    about = (model.num_parameters(only_trainable=True), ReuseFacts.of(model))
    try:
        costs = model_costs(model, about[1].first_edited_layer or 0)
        costs.copies_prefixes = not reads_in_place(model, attention)
        return Shape(costs, None, *about)
    except Uncountable as error:
        return Shape(None, str(error), *about)
