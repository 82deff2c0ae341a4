"""The settings of a ReFT adapter: declared, documented and checked once, without torch.

`heft.reft.ReftConfig` (what PEFT stores) and the recipe's `reft` stages (what people write) both take their fields,
defaults and checks from here.
"""

import re
from dataclasses import dataclass
from typing import Literal

from pydantic import Field, field_validator

from heft.settings.base import Settings

InterventionName = Literal["loreft", "noreft", "direft", "consreft", "lobireft"]
Site = Literal["block", "attention", "mlp"]
ActivationName = Literal["relu", "gelu", "silu", "tanh", "sigmoid"]


@dataclass(frozen=True)
class Positions:
    """Which prompt tokens are edited.

    `first` and `last` count tokens from the start and from the end of the prompt; `every` means all tokens, prompt,
    answer and generated ones alike. Padding is never edited.
    """

    first: int = 0
    last: int = 0
    every: bool = False

    @property
    def needed(self) -> int:
        """The shortest prompt, in tokens, in which every position asked for exists."""
        return self.first + self.last


def parse_positions(text: str) -> Positions:
    """Read `all`, `fN`, `lN` or `fN+lN`.

    Raises:
        ValueError: the text is none of these, or a count is 0.
    """
    if text == "all":
        return Positions(every=True)
    match = re.fullmatch(r"(?:f([1-9]\d*))?(?:(?<=\d)\+(?=l))?(?:l([1-9]\d*))?", text)
    if not text or match is None or ("+" in text) != (match[1] is not None and match[2] is not None):
        expected = "'all', 'fN', 'lN' or 'fN+lN' with N at least 1, such as 'f7+l7'"
        raise ValueError(f"positions must be {expected}; got {text!r}")
    return Positions(first=int(match[1] or 0), last=int(match[2] or 0))


class ReftSettings(Settings):
    """A representation-space adapter (ReFT)."""

    intervention: InterventionName = "loreft"
    """The edit: loreft h+(Wh+b-Rh)R, noreft h+(W1h+b-W2h)W2, direft h+(W1h+b)W2, consreft h+(b-Rh)R, lobireft h+bR."""
    rank: int = Field(default=4, ge=1)
    """Rank r of the edit: dimensions of the edited subspace, at most the hidden size (pyreft: `low_rank_dimension`)."""
    layers: Literal["all"] | list[int] = "all"
    """Layers that are edited, counted from 0; negative numbers count from the end."""
    site: Site = "block"
    """Which output is edited: the block's, its attention's or its MLP's (pyreft: `component`)."""
    positions: str = "f1+l1"
    """Tokens that are edited: all, fN (first N of the prompt), lN (last N) or fN+lN (pyreft: `position`)."""
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
        if not value and spec is not None and not ("f" in spec and "+" in spec):
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
        if value is not None and info.data.get("intervention") in ("consreft", "lobireft"):
            raise ValueError(f"{info.data['intervention']} has no Wh+b to apply an activation to; remove activation")
        return value
