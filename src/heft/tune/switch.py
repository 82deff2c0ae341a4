"""When to switch from the coarse to the fine stage: where a unit of budget buys more in the fine one.

What it buys is a fall of the validation loss: in the coarse stage that of its next segment, in the fine one that of the
best of a few short trials which start where the segment does.
"""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Offer:
    """What both stages offer at a fork.

    Attributes:
        step: of the coarse stage.
        loss: on the validation rows there.
        coarse_loss, coarse_cost: after the next segment, and what that costs; None at the last fork, or where the
            segment diverged.
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
    def is_the_switch(self) -> bool:
        """Whether the fine stage buys more; so it does where the coarse one cannot go on."""
        if self.coarse_buys is None:
            return True
        return self.fine_buys is not None and self.fine_buys > self.coarse_buys

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"coarse_buys": self.coarse_buys, "fine_buys": self.fine_buys}
