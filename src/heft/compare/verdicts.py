"""A comparison in words that say no more than its interval does."""

from collections.abc import Sequence
from typing import Literal

from heft.compare.results import ArmResult
from heft.compare.statistics import ALPHA, Estimate
from heft.text.units import p_text, percent, points, points_interval, unsigned_points

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
    arms: tuple[ArmResult, ArmResult],
    seeds: Sequence[int],
    groups: int,
    estimate: Estimate,
    p_holm: float | None,
    comparisons: int,
    agree: bool,
) -> str:
    """The verdict with its figures, and what casts doubt on an arm.

    Args:
        arms: the first and the second.
        seeds: by which their runs are paired, if they are.
        groups: texts that the questions are about.
        estimate: first minus second.
        p_holm: its p-value after Holm's correction.
        comparisons: how many that correction is over.
        agree: whether the arms are right on the same questions.
    """
    verdict = verdict_of(estimate, p_holm)
    first, second = arms
    scope, notes = _scope(arms, seeds, groups), _notes(arms, estimate, groups, agree)
    scores = f"{percent(first.accuracy)} against {percent(second.accuracy)}"
    if verdict == "undecidable":
        return " ".join([f"{first.name} against {second.name}: nothing can be decided ({scores}; {scope}).", *notes])
    figures = (
        f"{scores}, a difference of {points(estimate.difference)} points (95 % interval"
        f" {points_interval(estimate.interval)}; p {p_text(estimate.p_value)}"
        + (f", {p_text(p_holm)} after Holm over {comparisons} comparisons" if comparisons > 1 else "")
        + f"; {scope})."
    )
    if verdict != "no difference shown":
        return " ".join([f"{first.name} is {verdict} than {second.name}: {figures}", *notes])
    parts = [f"No difference shown between {first.name} and {second.name}: {figures}"]
    if estimate.interval[0] > 0 or estimate.interval[1] < 0:
        corrected = ", corrected for the number of comparisons" if comparisons > 1 else ""
        parts.append(f"The interval leaves out 0, but p is above 0.05{corrected}.")
    power = estimate.smallest_difference(comparisons)
    if power is None:
        parts.append("This sample could hardly have shown any difference.")
    else:
        shown = f"A true difference of {unsigned_points(power)} points would have been shown"
        parts.append(f"{shown} with 80 % power; less, seldom.")
    return " ".join([*parts, *notes])


def _scope(arms: tuple[ArmResult, ArmResult], seeds: Sequence[int], groups: int) -> str:
    """What a comparison's figures speak of, such as "300 questions, 3 seeds"."""
    questions = arms[0].n
    asked = f"{questions:,} questions" + (f" about {groups:,} texts" if groups < questions else "")
    if all(arm.stage == "base" for arm in arms):
        return asked
    if (len(seeds) if seeds else min(len(arm.seeds) for arm in arms)) == 1:
        return f"{asked}; of these runs: one seed, so nothing is said of other seeds"
    if seeds:
        return f"{asked}, {len(seeds)} seeds"
    unlike = " against ".join(", ".join(map(str, sorted(arm.seeds))) for arm in arms)
    return f"{asked}; seeds {unlike}, so not paired by seed"


def _notes(arms: Sequence[ArmResult], estimate: Estimate, groups: int, agree: bool) -> list[str]:
    notes = []
    if agree:
        notes.append("Both are right, or both wrong, on every question.")
    elif estimate.interval is None and groups < 2:
        notes.append("All questions are about one text, so nothing can be said of others.")
    elif estimate.interval is None:
        notes.append("Won and lost questions cancel out in every text.")
    return notes + _collapses(arms)


def _collapses(arms: Sequence[ArmResult]) -> list[str]:
    if all(arm.collapsed == arm.seeds for arm in arms):
        return ["Each of them gives one and the same answer to every question."]
    sentences = []
    for arm in arms:
        if arm.collapsed:
            seeds = ", ".join(map(str, arm.collapsed))
            which = "" if arm.collapsed == arm.seeds else f" with seed{'s' * (len(arm.collapsed) > 1)} {seeds}"
            sentences.append(f"{arm.name} gives one and the same answer to every question{which}.")
    return sentences
