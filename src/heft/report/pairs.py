"""Pairs of arms: their differences as points with intervals, zero marked, and as tables."""

from collections.abc import Sequence

from heft.compare.results import PairResult
from heft.report.parts import ONE_SEED, Cell, Heading, Panel, Section, Table, figure, spread
from heft.report.subject import Subject
from heft.text.svg import BOTTOM, CHARACTER, LEFT, RIGHT, TOP, WIDTH, Axis, Drawing, axis, shortened
from heft.text.units import in_digits, p_text, points, points_interval, unsigned_points

_ROW = 40


def section(subject: Subject) -> Section:
    """One panel and one table of all pairs; where there are several seeds, a table of each seed too."""
    found = subject.comparison.pairs
    tables = [_differences(found)]
    about = [_plain(found), *(pair.words for pair in found)]
    if any(len(pair.mcnemar) > 1 for pair in found):
        tables.append(_by_seed(found))
    panels = _panels([pair for pair in found if pair.interval is not None])
    return Section("pairs", "Statistics", about, panels, tables, folded="Intervals, p-values, power", side=True)


def _plain(found: Sequence[PairResult]) -> str:
    """What the tests say, in one sentence."""
    clear = sum(pair.verdict in ("better", "worse") for pair in found)
    if len(found) == 1:
        pair = found[0]
        shown = "is more than chance would give" if clear else "could be chance"
        return f"The difference between {pair.first} and {pair.second} {shown}; both answered the same {pair.n:,} rows."
    could = len(found) - clear
    return (
        f"{clear} of {len(found)} differences {'is' if clear == 1 else 'are'} more than chance would give, and {could}"
        f" could be chance; all arms answered the same {found[0].n:,} rows."
    )


def pair_name(pair: PairResult) -> str:
    """How a pair is called: the first minus the second."""
    return f"{pair.first} − {pair.second}"


def _panels(pairs: Sequence[PairResult]) -> list[Panel]:
    """One panel; none where no pair has an interval."""
    if not pairs:
        return []
    ends = [100 * end for pair in pairs for end in (*pair.interval, 0.0)]
    x = axis("points of accuracy", ends, words=_spoken)
    height = TOP + BOTTOM + _ROW * len(pairs)
    drawing = Drawing(x, Axis("", 0, len(pairs)), height, left=RIGHT, y_axis=False)
    drawing.segment((0, 0), (0, len(pairs)), "reference")
    most = int((WIDTH - LEFT) / CHARACTER)
    for place, pair in enumerate(pairs):
        y = len(pairs) - place - 0.7
        low, high = (100 * end for end in pair.interval)
        kind = "a" if pair.verdict in ("better", "worse") else "quiet"
        drawing.segment((low, y), (high, y), f"bar {kind}")
        drawing.dot((100 * pair.difference, y), f"fill {kind}", 4)
        drawing.text(RIGHT, TOP + _ROW * place + 12, shortened(pair_name(pair), most))
    svg = drawing.svg("Differences in accuracy with their 95 % intervals")
    told = "; ".join(
        f"{pair_name(pair)}: {points(pair.difference)} ({points_interval(pair.interval)})" for pair in pairs
    )
    return [Panel("", svg, f"Difference in points, with its 95 % interval; grey where nothing is shown. {told}.")]


def _spoken(value: float) -> str:
    return in_digits(value) if value <= 0 else f"+{in_digits(value)}"


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
            figure(pair.seed_sd, spread, ONE_SEED if len(pair.seeds) == 1 else "the arms are not paired by seed"),
            figure(pair.question_se, spread, undecided),
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
