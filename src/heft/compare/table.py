"""A comparison as tables: the verdicts first, then what each arm scored and cost, then the pairs."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from heft.compare.results import ArmResult, Comparison, PairResult
from heft.results.labels import label_of
from heft.text.escape import escape_controls
from heft.text.listing import first_of
from heft.text.units import (
    count,
    in_bytes,
    in_flops,
    in_time,
    interval,
    p_text,
    percent,
    points,
    points_interval,
    unsigned_points,
)

NONE = "–"
MOST_LABELS = 6
"""Labels that are named in a cell of a table."""
COST_COLUMNS = (
    ("time", "seconds", in_time),
    ("FLOPs", "flops", in_flops),
    ("without reuse", "plain_flops", in_flops),
    ("tokens", "tokens", count),
    ("trained", "trainable_parameters", count),
    ("stored", "stored_parameters", count),
    ("memory", "peak_bytes", in_bytes),
)
"""Heading, field of heft.compare.results.Costs, and the figure in words."""


@dataclass(frozen=True)
class Table:
    """Headings and rows of text; the first `texts` columns are words, the others figures."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: int


def markdown(comparison: Comparison, notes: Sequence[str] = ()) -> str:
    """Verdicts, arms and pairs in Markdown; `notes` follow the verdicts, such as which runs failed."""
    verdicts, others = [_inline(pair.words) for pair in comparison.pairs], [_inline(note) for note in notes]
    parts = ["\n".join(f"- {sentence}" for sentence in some) for some in (verdicts, others) if some]
    for table in tables(comparison):
        parts.append(f"{table.title}\n\n" + "\n".join(_lines(table)))
    return "\n\n".join(parts) + "\n"


def tables(comparison: Comparison) -> list[Table]:
    """The tables of a comparison: scores, costs and, where arms were set against each other, pairs."""
    arms = comparison.arms
    found = [_scores(arms), _costs(arms)]
    return [*found, _pairs(comparison.pairs), _sources(comparison.pairs)] if comparison.pairs else found


def _scores(arms: Sequence[ArmResult]) -> Table:
    rows = [
        [
            arm.name,
            arm.stage,
            ", ".join(map(str, arm.seeds)),
            percent(arm.accuracy),
            interval(arm.interval),
            percent(arm.balanced_accuracy),
            percent(arm.majority),
            _or_none(arm.seed_sd, unsigned_points),
            _answers(arm),
        ]
        for arm in arms
    ]
    headings = ["arm", "after", "seeds", "accuracy", "95 % interval", "balanced", "majority", "seed SD", "answers"]
    return Table(f"Accuracy on {arms[0].n:,} questions; the seeds' standard deviation in points.", headings, rows, 3)


def _answers(arm: ArmResult) -> str:
    if arm.collapsed:
        whose = "" if len(arm.collapsed) == len(arm.seeds) else f" (seed {', '.join(map(str, arm.collapsed))})"
        return f"one only{whose}"
    if arm.predictions is None:
        return NONE
    return given_in_words(arm.predictions, arm.labels)


def given_in_words(predictions: dict[str, float], labels: Sequence[str] | None, most: int = MOST_LABELS) -> str:
    """How often each choice was given, in per cent: by its label, the commonest first, where labels are known."""
    if labels is None:
        return " / ".join(f"{100 * share:.0f}" for share in predictions.values()) + " %"
    ranked = sorted(predictions.items(), key=lambda item: -item[1])
    return first_of([f"{label_of(int(i), labels)} {100 * share:.0f} %" for i, share in ranked], most)


def _costs(arms: Sequence[ArmResult]) -> Table:
    rows = [[arm.name, *(_or_none(getattr(arm.costs, key), show) for _, key, show in COST_COLUMNS)] for arm in arms]
    headings = ["arm", *(heading for heading, _, _ in COST_COLUMNS)]
    return Table("Cost of training, the mean of an arm's runs; parameters trained and stored.", headings, rows, 1)


def _pairs(pairs: Sequence[PairResult]) -> Table:
    rows = [
        [
            pair.first,
            pair.second,
            pair.verdict,
            points(pair.difference),
            _or_none(pair.interval, points_interval),
            _or_none(pair.p_value, p_text),
            _or_none(pair.p_holm, p_text),
            _or_none(pair.smallest_difference, unsigned_points),
        ]
        for pair in pairs
    ]
    headings = ["first", "second", "the first is", "difference", "95 % interval", "p", "p Holm", "detectable"]
    title = "First minus second, in points; p before and after Holm's correction; detectable with 80 % power."
    return Table(title, headings, rows, 3)


def _sources(pairs: Sequence[PairResult]) -> Table:
    rows = [
        [
            pair.first,
            pair.second,
            "; ".join(f"{test['won']}:{test['lost']}" for test in pair.mcnemar) or NONE,
            "; ".join(_or_none(test["p"], p_text) for test in pair.mcnemar) or NONE,
            _or_none(pair.question_se, unsigned_points),
            _or_none(pair.seed_sd, unsigned_points),
        ]
        for pair in pairs
    ]
    headings = ["first", "second", "won:lost", "McNemar p", "question SE", "seed SD"]
    title = "Questions won and lost with each seed, McNemar's exact p, and what spreads the difference, in points."
    return Table(title, headings, rows, 2)


def _lines(table: Table) -> list[str]:
    rule = ["---"] * table.texts + ["---:"] * (len(table.headings) - table.texts)
    rows = ([_inline(cell).replace("|", "\\|") for cell in row] for row in (table.headings, rule, *table.rows))
    return [f"| {' | '.join(row)} |" for row in rows]


def _inline(text: str) -> str:
    """Text on one line of Markdown, in which no name becomes a tag or an entity."""
    return escape_controls(re.sub(r"<(?=[A-Za-z/!?])", "&lt;", text.replace("&", "&amp;").replace("\n", " ")))


def _or_none(value, show) -> str:
    return NONE if value is None else show(value)
