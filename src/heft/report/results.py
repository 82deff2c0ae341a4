"""The verdict, the arms and what they cost, as words and tables."""

from collections.abc import Sequence

from heft.compare.results import ArmResult, Comparison
from heft.compare.table import COST_COLUMNS
from heft.report.parts import Cell, Heading, Section, Table, figure
from heft.report.subject import Subject
from heft.text.listing import listed
from heft.text.units import interval, percent, several

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
        *map(Heading, ("seeds", "accuracy", "95 % interval")),
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
            figure(arm.seed_sd, spread, NO_SEED if arm.stage == "base" else ONE_SEED),
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


def spread(deviation: float) -> str:
    """A standard deviation or error, in percentage points."""
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
