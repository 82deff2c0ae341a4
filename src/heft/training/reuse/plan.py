"""What a stage computes once, decided in one place: training carries the plan out, `heft plan` counts what it costs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from heft.data.encode import EncodedExample
from heft.recipe.recipe import JointStage, Stage
from heft.text.units import in_bytes
from heft.training.reuse.facts import ReuseFacts
from heft.training.reuse.shared import SharedPrefix
from heft.training.reuse.stores import choose_store

PREFIXES, LOWER_LAYERS, NOTHING = "prefixes", "lower layers", "nothing"


@dataclass(frozen=True)
class ReusePlan:
    """What is computed without gradients, and once where it is cached.

    Attributes:
        kind: `PREFIXES`, `LOWER_LAYERS` or `NOTHING`.
        start: tokens from a prompt's end on which something acts (prefixes), or the first layer that trains (lower
            layers).
        tokens: that are cached, of all rows, validation rows included.
        bytes: that caching them takes.
        store: where: "memory", "disk", or "off", which computes them again at every step.
        stages: that share the prefixes, which are then the base's; none where they are one stage's.
        why_not: in words, where the kind is `NOTHING`.
    """

    kind: str
    start: int = 0
    tokens: int = 0
    bytes: int = 0
    store: str = "off"
    stages: tuple[str, ...] = ()
    why_not: str | None = None

    def lengths(self, rows: Sequence[EncodedExample]) -> list[int]:
        """How many tokens of each row are cached."""
        if self.kind == PREFIXES:
            return [len(row.prompt) - self.start for row in rows]
        return [row.length for row in rows]

    def stored(
        self, rows: Sequence[EncodedExample], bytes_per_token: int, cache: str, uses: float, folder: Path
    ) -> "ReusePlan":
        """The plan with a store for training and validation rows; arguments as for `choose_store`."""
        tokens = sum(self.lengths(rows))
        store = choose_store(cache, tokens * bytes_per_token, uses, folder)
        if self.kind == LOWER_LAYERS and store == "off":  # the plain loss runs the lower layers at every step, too
            why = "cache is off" if cache == "off" else "no row is used twice" if uses <= 1 else "there is no room"
            return nothing(f"what enters layer {self.start}, the first that trains, is not cached: {why}")
        return replace(self, tokens=tokens, bytes=tokens * bytes_per_token, store=store)

    def in_words(self) -> str:
        """What is reused and where it is cached; or why nothing is reused."""
        if self.kind == NOTHING:
            return f"nothing is reused, {self.why_not}"
        what = "prefixes reused" if self.kind == PREFIXES else f"layers 0 to {self.start - 1} skipped"
        where = "computed at every step" if self.store == "off" else f"cached in {self.store}"
        whose = f" for {' and '.join(self.stages)}" if self.stages else ""
        return f"{what}, {self.tokens:,} tokens, {in_bytes(self.bytes)}, {where}{whose}"


def nothing(why_not: str) -> ReusePlan:
    """No reuse, for a reason in words."""
    return ReusePlan(NOTHING, why_not=why_not)


def decide_reuse(
    stage: Stage, facts: ReuseFacts, shared: SharedPrefix | None = None, is_sharded: bool = False
) -> ReusePlan:
    """What a stage reuses; `stored` chooses where it is cached.

    Args:
        shared: what it shares with other stages of its run; None for nothing.
        is_sharded: whether each process has a slice of the model (heft.models.sharding).
    """
    if not stage.reuse:
        return nothing("reuse is false")
    if stage.gradient_checkpointing:
        return nothing("gradient checkpointing runs the blocks again")
    if facts.has_dropout:
        return nothing("the base model has dropout of its own")
    if is_sharded:  # and what is cached differs
        return nothing("the model is sharded, and all processes have to run the same passes")
    plan = what_can_be_reused(facts) or nothing(_from_the_start(stage))
    if shared is None or plan.kind != PREFIXES:
        return plan
    return replace(plan, start=shared.start, stages=shared.stages)


def _from_the_start(stage: Stage) -> str:
    """Why nothing stays the same."""
    if isinstance(stage, JointStage):
        positions = f"{stage.lora.positions} (lora) and {stage.reft.positions} (reft)"
    else:
        positions = stage.positions
    return f"positions {positions} act from the first token and the first layer on"


def what_can_be_reused(facts: ReuseFacts) -> ReusePlan | None:
    """The larger saving that a model allows, whatever its stage asks for; None where it allows none."""
    if facts.edited_suffix is not None:
        return ReusePlan(PREFIXES, facts.edited_suffix)
    return None if facts.first_edited_layer is None else ReusePlan(LOWER_LAYERS, facts.first_edited_layer)
