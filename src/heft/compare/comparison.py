"""Compare arms: what each scored and cost, how they differ, and whether the difference could be chance."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations

import numpy as np

from heft.compare import statistics, verdicts
from heft.compare.arms import Arm
from heft.compare.costs import Costs, costs_of, mean_or_none
from heft.compare.pairing import Answers, align
from heft.errors import HeftError
from heft.results.metrics import wilson


@dataclass(frozen=True)
class ArmResult:
    """What an arm scored and cost; shares from 0 to 1, means over its runs.

    Attributes:
        name, stage: as in the arm.
        seeds: of its runs.
        n: questions.
        accuracy: share of right answers.
        interval: 95 %, of questions and, with several seeds, of seeds.
        wilson: Wilson's interval of each run.
        balanced_accuracy, majority, predictions: see heft.results.metrics.Metrics.
        collapsed: seeds of runs that give one answer only.
        seed_sd: standard deviation of the runs' accuracies; None with one seed.
        costs: see Costs.
    """

    name: str
    stage: str
    seeds: list[int]
    n: int
    accuracy: float
    interval: tuple[float, float]
    wilson: list[tuple[float, float]]
    balanced_accuracy: float | None
    majority: float | None
    predictions: dict[str, float] | None
    collapsed: list[int]
    seed_sd: float | None
    costs: Costs


@dataclass(frozen=True)
class PairResult:
    """First minus second, in accuracy. What is undefined is None.

    Attributes:
        first, second: names of arms.
        n, groups: questions, and texts that they are about.
        seeds: those of both, if they were paired by seed; else none.
        difference: mean over questions and seeds.
        interval: 95 %, of questions and, with several seeds, of seeds.
        standard_error: of the difference, from the same two sources.
        p_value: two-sided, of no difference; with one seed and questions that share no text, McNemar's exact one.
        p_holm: after Holm's correction over all pairs.
        mcnemar: for each pair of runs of one seed, {seed, won, lost, p}: questions that only the first answered
            rightly, that only the second did, and the exact p-value (None where both are 0).
        seed_sd: standard deviation of the difference over seeds; None with one seed or unpaired seeds.
        question_se: the standard error for these very runs, from questions alone.
        smallest_difference: what would have been shown with 80 % power; None where no difference would have been.
        verdict: "better", "worse", "no difference shown" or "undecidable", of the first.
        words: the verdict as a sentence, with its figures.
    """

    first: str
    second: str
    n: int
    groups: int
    seeds: list[int]
    difference: float
    interval: tuple[float, float] | None
    standard_error: float | None
    p_value: float | None
    p_holm: float | None
    mcnemar: list[dict]
    seed_sd: float | None
    question_se: float | None
    smallest_difference: float | None
    verdict: str
    words: str


@dataclass(frozen=True)
class Comparison:
    """Arms and pairs of them; `reference` is the arm that all others were set against, None for all pairs."""

    arms: list[ArmResult]
    pairs: list[PairResult]
    reference: str | None

    def to_dict(self) -> dict:
        """For JSON."""
        return asdict(self)


def compare(
    arms: Sequence[Arm], reference: str | None = None, pairs: Sequence[tuple[str, str]] | None = None
) -> Comparison:
    """Compare arms question by question.

    Args:
        arms: with names that differ.
        reference: name of the arm that every other is set against; None for all pairs.
        pairs: names of the arms to set against each other, instead.

    Raises:
        HeftError: the arms did not answer the same questions, or there is no arm of that name.
    """
    by_name = {arm.name: arm for arm in arms}
    if len(by_name) < len(arms):
        raise HeftError(f"two arms have the same name; got {', '.join(arm.name for arm in arms)}")
    if reference is not None and reference not in by_name:
        raise HeftError(f"there is no arm {reference!r} to compare with; there are {', '.join(by_name)}")
    answers = align(arms)
    if pairs is None and reference is not None:
        pairs = [(name, reference) for name in by_name if name != reference]
    elif pairs is None:
        pairs = list(combinations(by_name, 2))
    results = {arm.name: _arm_result(arm, answers) for arm in arms}
    return Comparison(list(results.values()), _pair_results(by_name, results, pairs, answers), reference)


def stage_pairs(arms: Sequence[Arm]) -> list[tuple[str, str]]:
    """What `stage_arms` are compared on: each stage against the one before it, and the last against the base."""
    names = [arm.name for arm in arms]
    steps = [(after, before) for before, after in zip(names, names[1:], strict=False)]
    return steps + ([(names[-1], names[0])] if len(names) > 2 else [])


def _arm_result(arm: Arm, answers: Answers) -> ArmResult:
    seeds, found = [run.seed for run in arm.runs], [run.after(arm.stage) for run in arm.runs]
    right = answers.right[arm.name]
    same = [len(each.records) > 1 and len({record.prediction for record in each.records}) == 1 for each in found]
    if arm.stage == "base":  # it has no seed: its runs are one
        right, found, same = right[:1], found[:1], same[:1] * len(seeds)
    shares = [evaluation.summary.predictions for evaluation in found]
    return ArmResult(
        name=arm.name,
        stage=arm.stage,
        seeds=seeds,
        n=right.shape[1],
        accuracy=float(right.mean()),
        interval=statistics.accuracy_interval(right, answers.groups),
        wilson=[wilson(int(row.sum()), len(row)) for row in answers.right[arm.name]],
        balanced_accuracy=mean_or_none([e.summary.balanced_accuracy for e in found]),
        majority=mean_or_none([e.summary.majority for e in found]),
        predictions=None if None in shares else {k: mean_or_none([s.get(k) for s in shares]) for k in shares[0]},
        collapsed=[seed for seed, one in zip(seeds, same, strict=True) if one],
        seed_sd=float(right.mean(1).std(ddof=1)) if len(right) > 1 else None,
        costs=costs_of(arm.runs, arm.stage),
    )


def _pair_results(
    arms: dict[str, Arm], results: dict[str, ArmResult], pairs: Sequence[tuple[str, str]], answers: Answers
) -> list[PairResult]:
    if not pairs:
        return []
    matched = [_matched(arms[first], arms[second], answers) for first, second in pairs]
    samples = [
        [rows[1] - rows[2]] if rows else [answers.right[first], -answers.right[second]]
        for rows, (first, second) in zip(matched, pairs, strict=True)
    ]
    found = statistics.estimates(samples, answers.groups)
    corrected = statistics.holm([estimate.p_value for estimate in found])
    return [
        _pair_result((results[first], results[second]), rows, estimate, p, len(pairs), answers)
        for (first, second), rows, estimate, p in zip(pairs, matched, found, corrected, strict=True)
    ]


def _matched(first: Arm, second: Arm, answers: Answers) -> tuple[list[int], np.ndarray, np.ndarray] | None:
    """Seeds, and both arms' answers in the rows of these seeds; None where their seeds are not the same.

    A base fits any seed: its runs are one, the first, as in its own figures.
    """
    seeds = [[run.seed for run in arm.runs] for arm in (first, second)]
    right = [answers.right[arm.name] for arm in (first, second)]
    bases = [arm.stage == "base" for arm in (first, second)]
    if all(bases):
        return seeds[0][:1], right[0][:1], right[1][:1]
    if any(bases):
        base = bases.index(True)
        seeds[base] = seeds[1 - base]
        right[base] = np.repeat(right[base][:1], len(seeds[base]), axis=0)
    if sorted(seeds[0]) != sorted(seeds[1]):
        return None
    return seeds[0], right[0], right[1][[seeds[1].index(seed) for seed in seeds[0]]]


def _pair_result(
    arms: tuple[ArmResult, ArmResult],
    matched: tuple[list[int], np.ndarray, np.ndarray] | None,
    estimate: statistics.Estimate,
    p_holm: float | None,
    comparisons: int,
    answers: Answers,
) -> PairResult:
    first, second = arms
    seeds = matched[0] if matched else []
    tests = _tests(*(matched or _in_common(first, second, answers)))
    groups = int(answers.groups.max()) + 1
    base_only = {first.stage, second.stage} == {"base"}
    scope = verdicts.scope_of(first.n, groups, seeds, (first.seeds, second.seeds), base_only)
    names, accuracies = (first.name, second.name), (first.accuracy, second.accuracy)
    notes = _notes(arms, estimate, groups, any(test["won"] or test["lost"] for test in tests) or not matched)
    return PairResult(
        first=first.name,
        second=second.name,
        n=first.n,
        groups=groups,
        seeds=seeds,
        difference=estimate.difference,
        interval=estimate.interval,
        standard_error=estimate.standard_error,
        p_value=estimate.p_value,
        p_holm=p_holm,
        mcnemar=tests,
        seed_sd=estimate.seed_sd,
        question_se=estimate.question_se,
        smallest_difference=estimate.smallest_difference(comparisons),
        verdict=verdicts.verdict_of(estimate, p_holm),
        words=verdicts.sentence(names, accuracies, estimate, p_holm, comparisons, scope, notes),
    )


def _in_common(
    first: ArmResult, second: ArmResult, answers: Answers
) -> tuple[list[int], list[np.ndarray], list[np.ndarray]]:
    """Seeds of both arms, where each has others too, and both arms' answers in the rows of these seeds."""
    seeds = [seed for seed in first.seeds if seed in second.seeds]
    rows = [[answers.right[arm.name][arm.seeds.index(seed)] for seed in seeds] for arm in (first, second)]
    return seeds, *rows


def _tests(seeds: Sequence[int], first: Iterable[np.ndarray], second: Iterable[np.ndarray]) -> list[dict]:
    tests = []
    for seed, one, two in zip(seeds, first, second, strict=True):
        won, lost = int((one > two).sum()), int((one < two).sum())
        tests.append({"seed": seed, "won": won, "lost": lost, "p": statistics.mcnemar(won, lost)})
    return tests


def _notes(arms: Sequence[ArmResult], estimate: statistics.Estimate, groups: int, discordant: bool) -> list[str]:
    notes = []
    if not discordant:
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
