"""A comparison in words that say no more than its interval does."""

from collections.abc import Sequence
from typing import Literal

from heft.compare.statistics import ALPHA, Estimate
from heft.text.units import p_text, points, points_interval

Verdict = Literal["better", "worse", "no difference shown", "undecidable"]


def verdict_of(estimate: Estimate, p_holm: float | None) -> Verdict:
    """Better or worse only where the interval leaves out 0 and the corrected p-value is at most 0.05."""
    if estimate.interval is None or p_holm is None:
        return "undecidable"
    low, high = estimate.interval
    if p_holm <= ALPHA and low > 0:
        return "better"
    return "worse" if p_holm <= ALPHA and high < 0 else "no difference shown"


def sentence(
    names: tuple[str, str],
    accuracies: tuple[float, float],
    estimate: Estimate,
    p_holm: float | None,
    comparisons: int,
    scope: str,
    notes: Sequence[str] = (),
) -> str:
    """The verdict with its figures.

    Args:
        names, accuracies: of the first and the second.
        estimate: first minus second.
        p_holm: its p-value after Holm's correction.
        comparisons: how many that correction is over.
        scope: what the figures speak of, such as "300 questions, 3 seeds".
        notes: further sentences, such as what casts doubt on an arm.
    """
    verdict = verdict_of(estimate, p_holm)
    first, second = names
    scores = f"{100 * accuracies[0]:.1f} % against {100 * accuracies[1]:.1f} %"
    if verdict == "undecidable":
        return " ".join([f"{first} against {second}: nothing can be decided ({scores}; {scope}).", *notes])
    figures = (
        f"{scores}, a difference of {points(estimate.difference)} points (95 % interval"
        f" {points_interval(estimate.interval)}; p {p_text(estimate.p_value)}"
        + (f", {p_text(p_holm)} after Holm over {comparisons} comparisons" if comparisons > 1 else "")
        + f"; {scope})."
    )
    if verdict != "no difference shown":
        return " ".join([f"{first} is {verdict} than {second}: {figures}", *notes])
    parts = [f"No difference shown between {first} and {second}: {figures}"]
    if estimate.interval[0] > 0 or estimate.interval[1] < 0:
        corrected = ", corrected for the number of comparisons" if comparisons > 1 else ""
        parts.append(f"The interval leaves out 0, but p is above 0.05{corrected}.")
    power = estimate.smallest_difference(comparisons)
    if power is None:
        parts.append("This sample could hardly have shown any difference.")
    else:
        parts.append(
            f"A true difference of {100 * power:.1f} points would have been shown with 80 % power; less, seldom."
        )
    return " ".join([*parts, *notes])


def scope_of(
    questions: int, groups: int, seeds: Sequence[int], own_seeds: tuple[Sequence[int], Sequence[int]], base_only: bool
) -> str:
    """What a comparison's figures speak of.

    Args:
        questions, groups: how many, and texts that they are about.
        seeds: by which runs are paired, if they are.
        own_seeds: of the first arm and of the second.
        base_only: whether both arms are the base.
    """
    asked = f"{questions:,} questions" + (f" about {groups:,} texts" if groups < questions else "")
    if base_only:
        return asked
    if (len(seeds) if seeds else min(map(len, own_seeds))) == 1:
        return f"{asked}; of these runs: one seed, so nothing is said of other seeds"
    if seeds:
        return f"{asked}, {len(seeds)} seeds"
    unlike = " against ".join(", ".join(map(str, sorted(each))) for each in own_seeds)
    return f"{asked}; seeds {unlike}, so not paired by seed"
