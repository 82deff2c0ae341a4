"""Compare arms: what each scored and cost, how they differ, and whether the difference could be chance."""

from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np

from heft.compare import statistics, verdicts
from heft.compare.arms import Arm
from heft.compare.pairing import Answers, align
from heft.compare.results import ArmResult, Comparison, Costs, PairResult
from heft.compare.runs import RunFiles
from heft.errors import HeftError
from heft.results.proportions import mcnemar, wilson

_SUMMED = ("seconds", "flops", "plain_flops", "tokens", "trainable_parameters")
_OF_ESTIMATE = ("difference", "interval", "standard_error", "p_value", "seed_sd", "question_se")


def compare(
    arms: Sequence[Arm], reference: str | None = None, pairs: Sequence[tuple[str, str]] | None = None
) -> Comparison:
    """Compare arms question by question: every other with `reference`, or those of `pairs`, or else all pairs.

    Raises:
        HeftError: the arms did not answer the same questions, two have one name, or there is no arm `reference`.
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
        labels=found[0].summary.labels,
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
    agree = matched is not None and not any(test["won"] or test["lost"] for test in tests)
    return PairResult(
        first=first.name,
        second=second.name,
        n=first.n,
        groups=groups,
        seeds=seeds,
        **{name: getattr(estimate, name) for name in _OF_ESTIMATE},
        p_holm=p_holm,
        mcnemar=tests,
        smallest_difference=estimate.smallest_difference(comparisons),
        verdict=verdicts.verdict_of(estimate, p_holm),
        words=verdicts.sentence(arms, seeds, groups, estimate, p_holm, comparisons, agree),
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
        tests.append({"seed": seed, "won": won, "lost": lost, "p": mcnemar(won, lost)})
    return tests


def costs_of(runs: Sequence[RunFiles], stage: str) -> Costs:
    """The costs of runs up to a stage."""
    found = [_run_costs(run, stage) for run in runs]
    return Costs(**{key: mean_or_none([costs[key] for costs in found]) for key in found[0]})


def mean_or_none(values: Sequence[float | None]) -> float | None:
    """The mean; None where a value is None."""
    return None if None in values else sum(values) / len(values)


def _run_costs(run: RunFiles, stage: str) -> dict[str, float | None]:
    names = [evaluation.stage for evaluation in run.evaluations]
    trained = [evaluation.summary for evaluation in run.evaluations[1 : names.index(stage) + 1]]
    costs = {key: _sum_or_none([getattr(summary, key) for summary in trained]) for key in _SUMMED}
    costs["stored_parameters"] = trained[-1].stored_parameters if trained else 0
    peaks = [summary.peak_bytes for summary in trained]
    costs["peak_bytes"] = max(peaks) if peaks and None not in peaks else None
    return costs


def _sum_or_none(values: Sequence[float | None]) -> float | None:
    return None if None in values else sum(values)
