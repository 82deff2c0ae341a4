"""Whether a search keeps the base's prefixes for all of its trials, decided once."""

import time
from collections.abc import Sequence
from typing import Any

from heft.models.load import Base
from heft.recipe.recipe import Stage
from heft.tune.kept import SHARE, SearchPrefixes, keep_prefixes, least_reaching
from heft.tune.ledger import Ledger
from heft.tune.prices import Counter

_NAME = "prefixes"


def prefixes_for(
    base: Base, tried: Sequence[tuple[str, Stage]], counter: Counter, ledger: Ledger, amount: float, unit: str
) -> SearchPrefixes | None:
    """The base's prefixes; None where no trial would take them, they have no room, or cost too much of the budget.

    Args:
        tried: every candidate with its stage's name.
        amount: the budget, in `unit`, "seconds" or "flops".
    """
    made: list[SearchPrefixes] = []

    def keep(lacks: int, **limit: float) -> float:
        """Seconds that it took; they are in `made` where it was done."""
        started = time.perf_counter()
        found = keep_prefixes(base.model, counter.rows, lacks, base.tokenizer.pad_token_id, **limit)
        made.extend([found] if found else [])
        return found.seconds if found else time.perf_counter() - started

    def decide() -> dict[str, Any]:
        reaching = least_reaching(tried)
        if reaching is None:
            return {}
        lacks, name, stage = reaching
        most = SHARE * amount
        if unit == "seconds":
            cost = keep(lacks, at_most=most)  # paid too where it took too long
        else:
            cost = counter.prefix_flops(name, stage, lacks)
            if cost > most:
                return {}
            keep(lacks)
        return {"lacks": lacks, "cost": cost} if made else {"cost": cost if unit == "seconds" else 0.0}

    decision = ledger.decided(_NAME, decide)
    if "lacks" in decision and not made:  # a resumed search
        keep(decision["lacks"])
    return made[0] if made else None


def cost_of_prefixes(ledger: Ledger) -> float:
    """What they cost the search."""
    return ledger.decisions.get(_NAME, {}).get("cost", 0.0)
