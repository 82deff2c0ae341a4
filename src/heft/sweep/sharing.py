"""Which configurations of a sweep run behind shared prompt prefixes: decided here, for the sweep and for its plan."""

from collections.abc import Sequence
from dataclasses import dataclass

from heft.edits.positions import parse_positions
from heft.recipe.recipe import LoraStage, ReftStage
from heft.training.reuse.plan import PREFIXES, ReusePlan, nothing
from heft.training.stage import planned_passes


@dataclass(frozen=True)
class Sharing:
    """How configurations go through the model.

    Attributes:
        suffixes: of each configuration, how many tokens from a prompt's end it acts on behind the prefix; None for
            those that run whole rows.
        plan: the prefixes that are shared, not stored yet; or why none are.
        uses: how often each row's prefix is needed.
    """

    suffixes: list[int | None]
    plan: ReusePlan
    uses: float

    @property
    def behind(self) -> frozenset[int]:
        """Numbers of the configurations that run behind the prefix."""
        return frozenset(number for number, suffix in enumerate(self.suffixes) if suffix is not None)


def decide_sharing(
    stages: Sequence[LoraStage | ReftStage],
    seeds: Sequence[int],
    rows: int,
    validation_rows: int,
    model_allows: bool,
    least: int = 0,
) -> Sharing:
    """Decide for the stages of all configurations, which have one setting of `reuse`.

    Args:
        seeds: of their orders of rows; configurations of one seed and batch size see equal rows at every step.
        rows, validation_rows: how many there are.
        model_allows: whether items can stand side by side behind a prefix (`can_stand_side_by_side`).
        least: tokens from a prompt's end on which a stage before them acts, where prefixes are the base's.
    """
    reusable = stages[0].reuse and model_allows
    reaches = [parse_positions(stage.positions).reach_back() if reusable else None for stage in stages]
    suffixes = [None if reach is None else max(reach, least) for reach in reaches]
    behind = [n for n, suffix in enumerate(suffixes) if suffix is not None]
    if not behind:
        why = "all configurations act on first tokens" if model_allows else "a prefix cannot stand for its tokens here"
        return Sharing(suffixes, nothing(why if stages[0].reuse else "reuse is false"), 0.0)
    orders = {(seeds[n], stages[n].batch_size) for n in behind}
    seen = max(planned_passes(stages[n], rows) * rows for n in behind)
    plan = ReusePlan(PREFIXES, min(suffixes[n] for n in behind))
    return Sharing(suffixes, plan, len(orders) * seen / (rows + validation_rows))
