"""`orthogonal_to`: a ReFT stage whose edits keep out of the directions that an earlier LoRA stage writes."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from heft.edits.equations import EQUATIONS
from heft.settings.base import Settings
from heft.text.listing import suggest


class OrthogonalSettings(Settings):
    """What a new ReFT adapter keeps out of."""

    orthogonal_to: str | None = Field(default=None, min_length=1)
    """An earlier `lora` or `joint` stage: edits keep out of the directions that its LoRA writes to the hidden state, in
    each layer those of its own (docs/method.md). Null keeps out of nothing."""
    orthogonal_side: Literal["read", "write", "both"] = "both"
    """Which side of the edit keeps out of these directions: what it reads of the hidden state (W, and R where R reads),
    what it adds to it (R, W₂), or both."""

    @field_validator("orthogonal_side")
    @classmethod
    def _side_has_a_meaning(cls, value: str, info: ValidationInfo) -> str:
        if value == "both":
            return value
        if info.data.get("orthogonal_to") is None and "orthogonal_to" in info.data:
            raise ValueError("has no effect without orthogonal_to; name the stage there, or remove orthogonal_side")
        name, activation = info.data.get("intervention"), info.data.get("activation")
        if value != "read" or name is None:
            return value
        equation = EQUATIONS[name]
        if not equation.has_projection and not equation.subtracts_basis:
            raise ValueError(f"{name}, {equation.text}, reads nothing of the hidden state; use orthogonal_side: write")
        if equation.subtracts_basis and (activation is not None or not equation.has_projection):
            with_activation = f" with {activation}" if activation else ""
            raise ValueError(
                f"{name}{with_activation} reads by the matrix that it writes by too ({equation.text}), so what it reads"
                " cannot be kept out of alone; use orthogonal_side: both or write"
            )
        return value


def stage_fault(name: str, stages: Mapping[str, Any], wanted: str | None) -> str | None:
    """Why a stage cannot be orthogonal to the one that it names, in words; None where it can."""
    earlier = list(stages)[: list(stages).index(name)]
    if wanted is None:
        return None
    if wanted not in earlier:
        there_are = f"earlier stages: {', '.join(earlier)}" if earlier else "there is none before this one"
        return f"{wanted!r} is no earlier stage{suggest(wanted, earlier)}; {there_are}"
    named = stages[wanted]
    if named.method == "reft":
        return f"stage {wanted} trains a ReFT adapter; name one that trains LoRA"
    if getattr(named, "lora", named).dora:
        return (
            f"stage {wanted} trains with dora, which changes the lengths of all rows of a weight, and so writes in"
            " other directions than LoRA's; use dora: false there"
        )
    return None


def faults_of_grid(name: str, stages: Mapping[str, Any], values: Sequence[Any]) -> dict[int, str]:
    """Faults of values that a sweep tries for `orthogonal_to`, by their numbers."""
    found = {number: stage_fault(name, stages, value) for number, value in enumerate(values) if isinstance(value, str)}
    return {number: text for number, text in found.items() if text is not None}
