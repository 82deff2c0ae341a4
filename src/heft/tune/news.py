"""What a person hears of a search on its way."""

from collections.abc import Sequence
from typing import Any

from heft.text.units import percent, several
from heft.tune.budget import in_unit
from heft.tune.chosen_by import ChosenBy
from heft.tune.halving import best_of
from heft.tune.ledger import Account
from heft.tune.prices import LEAST_STEPS
from heft.tune.switch import Offer
from heft.tune.trial import Outcome


def trial_in_words(outcome: Outcome, by: ChosenBy) -> str:
    """A trial's figures and values, such as `expected errors 21.3 %, accuracy 81.0 % (learning_rate 0.001, rank 8)`."""
    accuracy = "" if outcome.accuracy is None else f", accuracy {percent(outcome.accuracy)}"
    return f"{by.name} {by.figure(outcome.loss)}{accuracy} ({values_in_words(outcome.values)})"


def values_in_words(values: dict[str, Any]) -> str:
    """`learning_rate 0.001, rank 8`."""
    return ", ".join(f"{key} {value}" for key, value in values.items())


def round_in_words(account: Account, rung: int, outcomes: Sequence[Outcome], part: str | None = None) -> str:
    """A round of an arm, or a part of one: how many trials of which length, the best of them, and what the arm has
    spent."""
    best, steps = best_of(outcomes), sorted({outcome.steps for outcome in outcomes})
    long = f"{steps[0]:,}" if len(steps) == 1 else f"{steps[0]:,} to {steps[-1]:,}"
    found = "all diverged" if best is None else f"best: {trial_in_words(best, account.chosen_by)}"
    name = ", ".join([account.arm, f"round {rung + 1}", *([part] if part else [])])
    return (
        f"{name}: {several(len(outcomes), 'trial')} of {long} steps; {found};"
        f" {percent(account.spent / account.amount)} of its budget spent"
    )


def repeats_in_words(account: Account, repeated: Sequence[Outcome]) -> str:
    """The best trials of an arm again: the figures of each, and whose mean is the lowest."""
    by, best = account.chosen_by, best_of(repeated)
    losses = "; ".join(", ".join(map(by.figure, each.seed_losses)) or "diverged" for each in repeated)
    found = "" if best is None else f"; lowest mean: {trial_in_words(best, by)}"
    spent = percent(account.spent / account.amount)
    return f"{account.arm}, its best {len(repeated)} again, on other rows: {losses}{found}; {spent} of its budget spent"


def too_little_in_words(account: Account, what: str) -> str:
    """That what an arm has left does not pay for something, such as "no trial"."""
    left = in_unit(max(0.0, account.left), account.unit)
    return f"{account.arm}: what is left of its budget, {left}, pays for {what} of {LEAST_STEPS} steps"


def offer_in_words(account: Account, offer: Offer) -> str:
    """What both stages offer at a fork."""
    unit, scale = {"seconds": ("second", 1.0), "flops": ("10¹² FLOP", 1e12)}[account.unit]
    by = account.chosen_by

    def worth(value: float | None) -> str:
        return "nothing" if value is None else by.fall(scale * value)

    return (
        f"{account.arm}, fork at step {offer.step:,}: {by.name} {by.figure(offer.loss)}; a {unit} buys"
        f" {worth(offer.fine_buys)} in the second stage, {worth(offer.coarse_buys)} in the first"
    )


def switch_in_words(account: Account, offer: Offer) -> str:
    """Where second stages are searched."""
    by = account.chosen_by
    return f"{account.arm}: the switch is at step {offer.step:,}: {by.name} {by.figure(offer.reached)}, the lowest"
