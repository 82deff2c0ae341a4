"""The results of a comparison: of each arm, and of each pair of arms."""

from dataclasses import asdict, dataclass


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
        labels: what the choices stand for, by their index, where all questions have the same; else None.
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
    labels: list[str] | None
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
        p_value: two-sided, of no difference; with one seed and questions that share no text, McNemar's exact one within
            the error of the draws.
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
