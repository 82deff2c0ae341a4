"""The arms, or the stages of one run: what they scored and cost, as a figure and tables."""

from collections.abc import Sequence

from heft.compare.arms import Arm
from heft.compare.results import ArmResult, PairResult
from heft.compare.table import COST_COLUMNS, given_in_words
from heft.report.by_label import arm_f1
from heft.report.curves import why_ended
from heft.report.parts import ONE_SEED, Cell, Heading, Panel, Section, Table, figure, spread
from heft.report.subject import Subject
from heft.results.summary import StageSummary
from heft.text.listing import listed
from heft.text.svg import BOTTOM, CHARACTER, LEFT, RIGHT, TOP, WIDTH, Axis, Drawing, axis, shortened
from heft.text.units import count, in_digits, in_time, interval, percent, points

NO_SEED = "the model before any stage has no seed"
GENERATED = "answers were generated, so there are no classes"
_UNLIKE = "rows have different choices, so there are no labels"
_UNTRAINED = "nothing was trained"
_PART = "only a part of a generated text is compared"
_ROW = 36
_METHODS = {"lora": "LoRA", "reft": "ReFT", "joint": "LoRA and ReFT at once"}


def results(subject: Subject) -> Section:
    """The figures of the arms, with their costs behind a fold."""
    arms = subject.comparison.arms
    labels = [f"{name}: {label}" for name, label in subject.labels.items()]
    about = [f"{'; '.join(labels)}."] if labels else []
    title = "What each stage adds" if subject.is_one_run else "Results"
    tables = [_stages(subject)] if subject.is_one_run else []
    folded = "Balanced accuracy, majority class, answers given" if subject.is_one_run else ""
    tables += [_scores(subject, folded), _costs(arms)]
    return Section("results", title, about, [_accuracies(arms)], tables, side=subject.is_one_run)


def _accuracies(arms: Sequence[ArmResult]) -> Panel:
    """A row for each arm: its accuracy as a dot, its interval as a bar."""
    ends = [100 * end for arm in arms for end in arm.interval]
    spread_out = max(ends) - min(ends) > 40
    low, high = (0.0, 100.0) if spread_out else (max(0.0, min(ends) - 4), min(100.0, max(ends) + 4))
    height = TOP + BOTTOM + _ROW * len(arms)
    x = axis("accuracy, %", ends, low=low, high=high, words=count if spread_out else lambda value: f"{value:g}")
    drawing = Drawing(x, Axis("", 0, len(arms)), height, left=RIGHT, y_axis=False)
    for value in x.ticks():
        drawing.segment((value, 0), (value, len(arms)), "grid")
    for place, arm in enumerate(arms):
        y = len(arms) - place - 0.72
        kind = "quiet" if arm.stage == "base" else "a"
        drawing.segment((100 * arm.interval[0], y), (100 * arm.interval[1], y), f"bar {kind}")
        drawing.dot((100 * arm.accuracy, y), f"fill {kind}", 4.5)
        text = f"{shortened(arm.name, int((WIDTH - LEFT) / CHARACTER) - 8)}  {percent(arm.accuracy)}"
        drawing.text(RIGHT, TOP + _ROW * place + 12, text)
    told = "; ".join(f"{arm.name} {percent(arm.accuracy)} ({interval(arm.interval)})" for arm in arms)
    words = f"Share of {arms[0].n:,} evaluation rows that are answered rightly, with its 95 % interval: {told}."
    return Panel("", drawing.svg("Accuracy with its 95 % interval"), words)


def _stages(subject: Subject) -> Table:
    """A run's stages in order, with what each changed and took."""
    run = subject.runs[0]
    pairs = {(pair.first, pair.second): pair for pair in subject.comparison.pairs}
    results = subject.comparison.arms
    texts = run.final.summary.loss is not None
    beside = ("loss", "ROUGE-L", "chrF") if texts else ("macro F1",)
    headings = [
        Heading("after", is_text=True),
        Heading("method", is_text=True),
        *map(Heading, ("accuracy", "95 % interval", "change, points", *beside, "trained", "steps", "time")),
    ]
    early = any(run.after(arm.stage).summary.ended == "early_stopping" for arm in subject.arms)
    headings += [Heading("ended because", is_text=True)] if early else []
    rows = []
    for place, (arm, result) in enumerate(zip(subject.arms, results, strict=True)):
        summary = run.after(arm.stage).summary
        trained = None if arm.stage == "base" else summary
        pair = pairs[arm.name, results[place - 1].name] if place else None
        method = run.recipe["stages"].get(arm.stage, {}).get("method", "")
        rows.append(
            [
                Cell(arm.name),
                figure(trained and _METHODS.get(method, str(method)), str, _UNTRAINED),
                Cell(percent(result.accuracy)),
                Cell(interval(result.interval)),
                figure(pair, _change, "there is nothing before it"),
                *(_of_texts(summary) if texts else (_f1(arm),)),
                figure(trained and trained.trainable_parameters, count, _UNTRAINED),
                figure(trained and trained.steps, count, _UNTRAINED),
                figure(trained and trained.seconds, in_time, _UNTRAINED),
                *([figure(trained and why_ended(summary), str, _UNTRAINED)] if early else []),
            ]
        )
    explained = (
        "Loss: of the reference answers, nats a token. ROUGE-L and chrF: likeness to them, of 100." if texts else ""
    )
    return Table("Stages", headings, rows, explained)


def _of_texts(summary: StageSummary) -> tuple[Cell, Cell, Cell]:
    """Loss of the reference answers, and how like the generated texts are to them."""
    shares = (summary.rouge_l, summary.chrf)
    likeness = (figure(share, lambda value: f"{100 * value:.1f}", _PART) for share in shares)
    return figure(summary.loss, in_digits, "it was not measured"), *likeness


def _f1(arm: Arm) -> Cell:
    generated = not arm.runs[0].after(arm.stage).records[0].log_likelihoods
    return figure(arm_f1(arm), percent, GENERATED if generated else _UNLIKE)


def _change(pair: PairResult) -> str:
    if not any(row["won"] or row["lost"] for row in pair.mcnemar):
        return "none"
    clear = "" if pair.verdict in ("better", "worse") else " (could be chance)"
    return f"{points(pair.difference)}{clear}"


def _scores(subject: Subject, folded: str) -> Table:
    arms = subject.comparison.arms
    headings = [
        Heading("arm", is_text=True),
        *map(Heading, ("seeds", "accuracy", "95 % interval", "macro F1")),
        Heading("balanced", "mean over the classes of the share answered rightly"),
        Heading("majority", "share of the commonest right answer"),
        Heading("answers", "share of each answer among those given", is_text=True),
        Heading("collapsed", "runs that give one answer only"),
        Heading("seeds’ spread", "standard deviation of the accuracy over seeds, in points"),
    ]
    rows = [
        [
            Cell(arm.name),
            figure(None if arm.stage == "base" else len(arm.seeds), str, NO_SEED),
            Cell(percent(arm.accuracy)),
            Cell(interval(arm.interval)),
            _f1(own),
            figure(arm.balanced_accuracy, percent, GENERATED),
            figure(arm.majority, percent, GENERATED),
            figure(arm.predictions and given_in_words(arm.predictions, arm.labels), str, GENERATED),
            _collapsed(arm),
            figure(arm.seed_sd, spread, NO_SEED if arm.stage == "base" else ONE_SEED),
        ]
        for arm, own in zip(arms, subject.arms, strict=True)
    ]
    numbers = {f"{arm.n:,}" for arm in arms}
    order = "" if arms[0].labels else ", in the order of a question’s choices"
    explained = (
        f"Accuracy on {listed(sorted(numbers))} questions that were not trained on. Balanced: mean over the"
        " classes of the share answered rightly. Majority: what always giving the commonest right answer would score."
        f" Answers: the share of each answer among those given{order}."
    )
    return Table("Accuracy", headings, rows, explained, folded)


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
        why = _UNTRAINED if arm.stage == "base" else "the run does not record it"
        rows.append([Cell(arm.name), *(figure(getattr(arm.costs, key), show, why) for _, key, show in COST_COLUMNS)])
    explained = (
        "What training cost: means over an arm’s runs, sums over its stages. Without reuse: what the FLOPs had been,"
        " had nothing been reused that no edit changes. Trained and stored count numbers: those that trained, and those"
        " kept in the adapter directory."
    )
    return Table("Costs of training", headings, rows, explained, "Costs of training: time, FLOPs, tokens, memory")
