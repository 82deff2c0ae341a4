"""The verdict, the arms, what they cost, and the pairs, as words and tables."""

from collections.abc import Sequence

from heft.compare.comparison import ArmResult, Comparison, PairResult
from heft.compare.table import COST_COLUMNS
from heft.report.parts import Cell, Heading, Section, Table, figure
from heft.report.subject import Subject
from heft.text.listing import listed
from heft.text.units import interval, p_text, percent, points, points_interval, several, unsigned_points

ONE_SEED = "one seed says nothing of the spread over seeds"
NO_SEED = "the model before any stage has no seed"
GENERATED = "answers were generated, so there are no classes"


def verdict(subject: Subject) -> Section:
    """What was found, in sentences, and what to be wary of."""
    comparison = subject.comparison
    found = [pair.words for pair in comparison.pairs] or ["There is one arm only, so nothing is compared."]
    return Section("verdict", "Verdict", found, blocks=[*_warnings(comparison), *subject.notes])


def _warnings(comparison: Comparison) -> list[str]:
    arms = comparison.arms
    warnings = [
        f"{arm.name} gives one and the same answer to every question in {several(len(arm.collapsed), 'run')}"
        f" of {len(arm.seeds)}."
        for arm in arms
        if arm.collapsed and not comparison.pairs  # pairs' own sentences say it
    ]
    weak = [arm.name for arm in arms if arm.majority is not None and arm.interval[0] <= arm.majority]
    if weak:
        majority = next(arm.majority for arm in arms if arm.majority is not None)
        warnings.append(f"Not shown to beat always giving the commonest answer ({percent(majority)}): {listed(weak)}.")
    return warnings


def results(subject: Subject, choices: Sequence[str] | None) -> Section:
    """The arms' figures and costs. `choices` are the answers, where all questions have the same."""
    arms = subject.comparison.arms
    labels = [f"{name}: {label}" for name, label in subject.labels.items()]
    about = [f"{'; '.join(labels)}."] if labels else []
    return Section("results", "Results", about, tables=[_scores(arms, choices), _costs(arms)])


def _scores(arms: Sequence[ArmResult], choices: Sequence[str] | None) -> Table:
    order = f" ({', '.join(choices)})" if choices else ", in the order of a question’s choices"
    headings = [
        Heading("arm", is_text=True),
        Heading("seeds"),
        Heading("accuracy"),
        Heading("95 % interval"),
        Heading("balanced", "mean over the classes of the share answered rightly"),
        Heading("majority", "share of the commonest right answer"),
        Heading("answers, %", "share of each answer among those given"),
        Heading("collapsed", "runs that give one answer only"),
        Heading("seeds’ spread", "standard deviation of the accuracy over seeds, in points"),
    ]
    rows = [
        [
            Cell(arm.name),
            figure(None if arm.stage == "base" else len(arm.seeds), str, NO_SEED),
            Cell(percent(arm.accuracy)),
            Cell(interval(arm.interval)),
            figure(arm.balanced_accuracy, percent, GENERATED),
            figure(arm.majority, percent, GENERATED),
            figure(arm.predictions, _shares, GENERATED),
            _collapsed(arm),
            figure(arm.seed_sd, _spread, NO_SEED if arm.stage == "base" else ONE_SEED),
        ]
        for arm in arms
    ]
    numbers = {f"{arm.n:,}" for arm in arms}
    explained = (
        f"Accuracy on {listed(sorted(numbers))} questions that were not trained on. Balanced: mean over the"
        " classes of the share answered rightly. Majority: what always giving the commonest right answer would score."
        f" Answers: the share of each answer among those given{order}."
    )
    return Table("Accuracy", headings, rows, explained)


def _shares(predictions: dict[str, float]) -> str:
    return " · ".join(f"{100 * share:.0f}" for share in predictions.values())


def _spread(deviation: float) -> str:
    return f"{100 * deviation:.2f}"


def _collapsed(arm: ArmResult) -> Cell:
    if arm.predictions is None:
        return figure(None, str, GENERATED)
    if arm.stage == "base":
        return Cell("yes" if arm.collapsed else "no")
    return Cell(f"{len(arm.collapsed)} of {len(arm.seeds)}" if arm.collapsed else "no")


def _costs(arms: Sequence[ArmResult]) -> Table:
    headings = [Heading("arm", is_text=True), *(Heading(heading) for heading, _, _ in COST_COLUMNS)]
    rows = []
    for arm in arms:
        why = "nothing was trained" if arm.stage == "base" else "the run does not record it"
        rows.append([Cell(arm.name), *(figure(getattr(arm.costs, key), show, why) for _, key, show in COST_COLUMNS)])
    explained = (
        "What training cost: means over an arm’s runs, sums over its stages. Without reuse: what the FLOPs had been,"
        " had nothing been reused that no edit changes. Trained and stored count numbers: those that trained, and those"
        " kept in the adapter directory."
    )
    return Table("Costs of training", headings, rows, explained)


def pairs(subject: Subject) -> list[Table]:
    """Each pair's figures, and where there are several seeds, those of each."""
    found = subject.comparison.pairs
    tables = [_differences(found)] if found else []
    if any(len(pair.mcnemar) > 1 for pair in found):
        tables.append(_by_seed(found))
    return tables


def pair_name(pair: PairResult) -> str:
    """How a pair is called: the first minus the second."""
    return f"{pair.first} − {pair.second}"


def _differences(found: Sequence[PairResult]) -> Table:
    headings = [
        Heading("pair", is_text=True),
        *map(Heading, ("difference", "95 % interval", "p", "p, Holm", "won / lost", "detectable")),
        *map(Heading, ("seeds’ spread", "questions’ spread")),
        Heading("verdict", is_text=True),
    ]
    undecided = "nothing can be decided; the verdict says why"
    rows = [
        [
            Cell(pair_name(pair)),
            Cell(points(pair.difference)),
            figure(pair.interval, points_interval, undecided),
            figure(pair.p_value, p_text, undecided),
            figure(pair.p_holm, p_text, undecided),
            figure(pair.mcnemar or None, _won_lost, "no seed is common to both arms"),
            figure(pair.smallest_difference, unsigned_points, "this sample could hardly have shown any difference"),
            figure(pair.seed_sd, _spread, ONE_SEED if len(pair.seeds) == 1 else "the arms are not paired by seed"),
            figure(pair.question_se, _spread, undecided),
            Cell(pair.verdict),
        ]
        for pair in found
    ]
    explained = (
        "First minus second, in percentage points, question by question. Won: answered rightly by the first only; lost:"
        " by the second only; sums over seeds. Detectable: the difference that this sample would have shown four"
        " times out of five. Seeds’ spread: standard deviation over seeds; questions’ spread: standard error for these"
        " very runs. Holm: corrected for the number of pairs."
    )
    return Table("Differences", headings, rows, explained)


def _won_lost(by_seed: list[dict]) -> str:
    return f"{sum(row['won'] for row in by_seed)} / {sum(row['lost'] for row in by_seed)}"


def _by_seed(found: Sequence[PairResult]) -> Table:
    seeds = sorted({row["seed"] for pair in found for row in pair.mcnemar})
    rows = []
    for pair in found:
        by_seed = {row["seed"]: row for row in pair.mcnemar}
        cells = [figure(by_seed.get(seed), _one_seed, "this seed is not common to both arms") for seed in seeds]
        rows.append([Cell(pair_name(pair)), *cells])
    headings = [Heading("pair", is_text=True), *(Heading(f"seed {seed}") for seed in seeds)]
    return Table("Won / lost by seed, McNemar’s exact p", headings, rows)


def _one_seed(row: dict) -> str:
    tested = "no test" if row["p"] is None else f"p {p_text(row['p'])}"
    return f"{row['won']} / {row['lost']}, {tested}"
