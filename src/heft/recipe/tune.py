"""The settings of `heft tune`: which arms it compares, and what it tries in their stages. No torch.

The recipe's stages are templates: what they say of targets, batches, optimizers and the like holds in every trial. How
long a trial trains is the search's business.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError
from pydantic_core import InitErrorDetails

from heft.recipe.training import TrainingSettings
from heft.settings.base import Distinct, Settings, value_error
from heft.settings.words import KeyPath, explain, schema_of, show
from heft.text.listing import suggest

ArmName = Literal["lora", "reft", "lora+reft", "lora+lora", "joint"]
Values = Annotated[list[Any], Field(min_length=1)]

FIXED = {
    "method": "an arm has its methods",
    "from": "trials begin with new adapters",
    **dict.fromkeys(("steps", "epochs"), "the search decides how long a trial trains"),
    **dict.fromkeys(("early_stopping", "best_checkpoint"), "a trial trains its whole schedule"),
    "evaluate_every": "a trial is measured at its end",
    **dict.fromkeys(("schedule", "decay"), "all trials have the stage's own; set it there"),
    "holdout": "all trials are measured on the same rows; set tune.holdout",
    "seed": "trials differ in their settings alone; `heft compare` runs the arms with several seeds",
    "trainable_tokens": "trained embeddings are not searched",
    **dict.fromkeys(
        ("bf16", "fused", "gradient_checkpointing", "micro_batch_size", "reuse", "cache"), "set it in the stage"
    ),
}
"""Settings that no list can be given for, and why."""

OF_A_RUN = {"steps", "epochs", "holdout", "early_stopping", "best_checkpoint", "evaluate_every", "seed"}
"""Settings of a template that trials do not take over."""

RATES = (1.0, 0.3, 3.0)
"""Learning rates to try, as multiples of the template's, or of what `auto` is for the model."""
DEFAULTS: dict[str, dict[str, list[Any]]] = {
    "lora": {"positions": ["l8+", "all"], "rank": [8, 16]},
    "reft": {"positions": ["l4", "l4+", "l1"], "rank": [4, 8]},
}
"""What is tried beside learning rates where neither `tune` nor the template says; the template's own values come first.
Layers are not searched unless a list asks for it."""


class TuneSettings(Settings):
    """What `heft tune` compares and tries. Every setting has a default, so that a recipe needs no `tune`."""

    arms: Annotated[list[ArmName], Distinct] = Field(
        default=["lora", "reft", "lora+reft", "lora+lora", "joint"], min_length=1
    )
    """Which ways to adapt are compared, each with an equal share of the budget: one stage; LoRA, then ReFT; LoRA, then
    a fresh second LoRA (the control for a second schedule); both at once."""
    lora: dict[str, Values] = Field(default={})
    """Settings of LoRA stages with lists of values to try, such as {learning_rate: [5e-4, 1e-3], rank: [8, 16]}; those
    of training, such as batch_size, are tried in joint stages too.
    Without a list for it, learning_rate is tried at 1, 0.3 and 3 times the stage's own (in a second stage at 0.3, 0.1
    and 1 times), positions are l8+ and all, and rank is 8 and 16, each after the stage's own; positions that the
    shortest prompt has not are left out."""
    reft: dict[str, Values] = Field(default={})
    """The same of ReFT stages, but for joint ones, whose training has LoRA's lists; without a list for it, positions
    are l4, l4+ and l1, and rank is 4 and 8."""
    holdout: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Fraction of the training set used as validation rows; null means 0.2, but 100 rows at least (or half of all) and
    1,000 at most."""
    rungs: int = Field(default=3, ge=1, le=6)
    """Rounds of successive halving in an arm; each costs the same, so fewer trials are longer ones."""
    keep: int = Field(default=3, ge=2)
    """Of a round's trials, the best one in so many goes on to the next."""
    most_epochs: float = Field(default=20.0, gt=0)
    """Passes over the training rows that a stage takes at most, whatever the budget."""
    tokens_per_pass: int = Field(default=4096, ge=1)
    """As sweep.tokens_per_pass, for configurations that are trained side by side."""

    @property
    def configurations(self) -> int:
        """Trials of the first round, of which one is left in the last."""
        return self.keep ** (self.rungs - 1)


def templates(
    stages: Mapping[str, TrainingSettings], kinds: Mapping[str, type[TrainingSettings]]
) -> dict[str, TrainingSettings]:
    """What LoRA and ReFT stages have in common with the recipe's; `kinds` are the classes of both by method."""
    joint = next((stage for stage in stages.values() if stage.method == "joint"), None)
    found = {}
    for method, kind in kinds.items():
        own = [stage for stage in stages.values() if stage.method == method and not stage.is_frozen]
        if own:
            given = own[0].model_dump(exclude_unset=True)
        elif joint is not None:
            given = _of_training(joint) | getattr(joint, method).model_dump(exclude_unset=True)
            rate = joint.reft_learning_rate if method == "reft" else joint.learning_rate
            given |= {"learning_rate": rate} if rate not in (None, "auto") else {}
        else:
            given = _of_training(next(iter(stages.values())))
        given = {key: value for key, value in given.items() if key not in OF_A_RUN}
        found[method] = kind.model_validate({**given, "method": method, "epochs": 1.0}, by_alias=True)
    return found


def _of_training(stage: TrainingSettings) -> dict[str, Any]:
    """What a stage says of training, whatever it trains, but for the rate, which is another one for each method."""
    common = TrainingSettings.model_fields.keys() - {"learning_rate"}
    return stage.model_dump(include=common & stage.model_fields_set)


def check_tune(
    tune: TuneSettings, stages: Mapping[str, TrainingSettings], kinds: Mapping[str, type[TrainingSettings]]
) -> TuneSettings:
    """Check every value as a setting of a stage.

    Raises:
        pydantic.ValidationError: all that is wrong, each at its key or value.
    """
    faults: dict[KeyPath, str] = {}
    for path, text in _faults(tune, templates(stages, kinds)):
        faults.setdefault(path, text)
    if faults:
        details = [InitErrorDetails(type=value_error(text), loc=path, input=None) for path, text in faults.items()]
        raise ValidationError.from_exception_data("tune", details)
    return tune


def _faults(tune: TuneSettings, base: Mapping[str, TrainingSettings]) -> Iterator[tuple[KeyPath, str]]:
    for method, template in base.items():
        known = [field.alias or key for key, field in type(template).model_fields.items()]
        known = [key for key in known if key not in FIXED]
        for key, values in getattr(tune, method).items():
            if key in FIXED:
                yield (method, key), f"cannot be tried: {FIXED[key]}"
            elif key not in known:
                yield (method, key), f"unknown key{suggest(key, known)}"
            else:
                yield from _faults_of_values(method, key, values, template)


def _faults_of_values(
    method: str, key: str, values: list[Any], template: TrainingSettings
) -> Iterator[tuple[KeyPath, str]]:
    same: dict[str, Any] = {}
    for number, value in enumerate(values):
        if any(value == other and type(value) is type(other) for other in values[:number]):
            yield (method, key, number), "is repeated"
        if key == "learning_rate" and value == "auto":
            yield (method, key, number), "give a number; without a list the rates to try follow from auto"
            continue
        try:
            stage = type(template).model_validate(template.model_dump(exclude_unset=True) | {key: value}, strict=True)
            other = same.setdefault(stage.model_dump_json(), value)
            if other is not value:
                yield (method, key, number), f"{show(value)} means the same as {show(other)}; remove one of them"
        except ValidationError as error:
            for details in error.errors(include_url=False):
                if details["type"] != "default_factory_not_called":
                    _, text = explain(details, schema_of(type(template)))
                    yield (method, key, number), text
