"""The settings of a ReFT adapter: declared, documented and checked once, without torch.

`heft.reft.ReftConfig` (what PEFT stores) and the recipe's `reft` stages (what people write) both take their fields,
defaults and checks from here.
"""

from typing import Literal

from pydantic import Field, field_validator

from heft.edits.bounds import Rank
from heft.edits.equations import EQUATIONS
from heft.edits.positions import parse_positions
from heft.settings.base import Settings

InterventionName = Literal[tuple(EQUATIONS)]
Site = Literal["block", "attention", "mlp"]
ActivationName = Literal["relu", "gelu", "silu", "tanh", "sigmoid"]


class ReftSettings(Settings):
    """A representation-space adapter (ReFT)."""

    intervention: InterventionName = Field(
        default="loreft",
        description=f"The edit: {', '.join(f'{name} {each.text}' for name, each in EQUATIONS.items())}.",
    )
    rank: Rank = 4
    """Rank r of the edit: dimensions of the edited subspace, at most the hidden size (pyreft: `low_rank_dimension`)."""
    layers: Literal["all"] | list[int] = "all"
    """Layers that are edited, counted from 0; negative numbers count from the end."""
    site: Site = "block"
    """Which output is edited: the block's, its attention's or its MLP's (pyreft: `component`)."""
    positions: str = "f1+l1"
    """Tokens that are edited: all, fN (first N of the prompt), lN (last N), lN+ (last N and every later token, of the
    answer in training and generated in use), fN+lN or fN+lN+ (pyreft: `position`)."""
    tied: bool = True
    """Share one set of weights between first and last positions; matters for fN+lN only (pyreft: `share_weights`)."""
    activation: ActivationName | None = None
    """Activation function on Wh+b (loreft, noreft, direft); null is the published form."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout on the low-rank difference, never on the hidden state itself."""

    @field_validator("positions")
    @classmethod
    def _positions_are_readable(cls, value: str) -> str:
        parse_positions(value)
        return value

    @field_validator("tied")
    @classmethod
    def _untied_has_two_kinds(cls, value: bool, info) -> bool:
        spec = info.data.get("positions")
        if not value and spec is not None and len(parse_positions(spec).groups(tied=False)) < 2:
            raise ValueError(
                f"tied: false needs first and last positions to tell apart (fN+lN); got positions {spec!r}"
            )
        return value

    @field_validator("layers")
    @classmethod
    def _layers_are_distinct(cls, value: str | list[int]) -> str | list[int]:
        if isinstance(value, list) and (not value or len(set(value)) != len(value)):
            raise ValueError(f"layers must be 'all' or a list of distinct layer numbers; got {value}")
        return value

    @field_validator("activation")
    @classmethod
    def _activation_has_a_place(cls, value: str | None, info) -> str | None:
        name = info.data.get("intervention")
        if value is not None and name is not None and not EQUATIONS[name].has_projection:
            raise ValueError(f"{name} has no Wh+b to apply an activation to; remove activation")
        return value
