"""What a sweep is told. `heft.recipe.grid` checks the values in `grid` as settings of the stage they belong to."""

from typing import Annotated, Any

from pydantic import Field

from heft.settings.base import Settings


class SweepSettings(Settings):
    """Values to try for settings of the last stage, which must be a `reft` stage. `heft sweep` trains every
    combination side by side and ranks them on validation rows."""

    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(min_length=1)
    """Settings of the last stage, each with the list of its values, such as {rank: [4, 8], positions: [l4, l8]}; every
    combination is trained."""
    holdout: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Share of the training rows that no configuration trains on and all are ranked on; null means the stage's
    holdout, or 0.1 where that is 0."""
    tokens_per_pass: int = Field(default=4096, ge=1)
    """Most tokens of all configurations together in one forward pass; fewer need less memory. One configuration's
    (micro-)batch is split only where memory runs out."""
    evaluate_winner: bool = False
    """Evaluate the winner, and it alone, on the task's evaluation split at the end."""
