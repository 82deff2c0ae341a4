"""When to switch from the coarse to the fine stage: at the fork from which the lowest validation loss was reached.

At each fork both stages say what a unit of budget buys, as a fall of the validation loss: the coarse one by its length
at the next fork, the fine one by the best of a few short trials behind this one. Where the fine stage buys more, a
longer coarse stage, with a fine one behind it, may still end lower; so all forks are looked at.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Offer:
    """What both stages offer at a fork.

    Attributes:
        step: of the coarse stage.
        loss: on the validation rows there.
        coarse_loss, coarse_cost: at the next fork, and what the coarse stage costs more there; None at the last one.
        fine_loss, fine_cost: of the best short trial of the fine stage, trained alone; None where all diverged.
    """

    step: int
    loss: float
    coarse_loss: float | None
    coarse_cost: float | None
    fine_loss: float | None
    fine_cost: float | None

    @property
    def coarse_buys(self) -> float | None:
        """Fall of the loss a unit of cost."""
        return None if self.coarse_loss is None else (self.loss - self.coarse_loss) / self.coarse_cost

    @property
    def fine_buys(self) -> float | None:
        """The same of the fine stage."""
        return None if self.fine_loss is None else (self.loss - self.fine_loss) / self.fine_cost

    @property
    def reached(self) -> float:
        """The lowest loss at this fork, of the coarse stage alone or with a fine one."""
        return self.loss if self.fine_loss is None else min(self.loss, self.fine_loss)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"coarse_buys": self.coarse_buys, "fine_buys": self.fine_buys}


def switch_of(offers: Sequence[Offer]) -> int:
    """The number of the fork where the switch is; of several that reach the same loss the first, which is cheapest."""
    return min(range(len(offers)), key=lambda number: offers[number].reached)
