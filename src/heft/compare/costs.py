"""What an arm cost: sums over stages, means over runs."""

from collections.abc import Sequence
from dataclasses import dataclass

from heft.compare.runs import RunFiles

_SUMMED = ("seconds", "flops", "plain_flops", "tokens", "trainable_parameters")


@dataclass(frozen=True)
class Costs:
    """Means over an arm's runs; None where a run does not know.

    Attributes:
        seconds, flops, plain_flops, tokens: of training, sums over the stages up to the arm's.
        trainable_parameters: sum of what each stage trained.
        stored_parameters: numbers in the adapter directory.
        peak_bytes: memory of the stage that took the most.
    """

    seconds: float | None
    flops: float | None
    plain_flops: float | None
    tokens: float | None
    trainable_parameters: float | None
    stored_parameters: float | None
    peak_bytes: float | None


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
