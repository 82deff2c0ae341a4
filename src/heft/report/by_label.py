"""Label by label: what is taken for what, precision, recall and F1, for tasks whose rows all have the same choices."""

from collections.abc import Sequence

from heft.compare.arms import Arm
from heft.report.examples import Texts, shortened_text
from heft.report.parts import Cell, Confused, Heading, Section, Table, figure
from heft.results.labels import label_of
from heft.results.per_label import LabelFigures, confused, confusion, label_figures, macro_f1
from heft.results.records import Record
from heft.text.units import percent, several

MOST_IN_MATRIX = 16
"""Labels that have a row and a column of their own; of more, those with the most errors, and one for the others."""
MOST_CONFUSED = 3
"""Pairs of labels that are shown with an example."""
MOST_LABELS = 200
"""Labels of which figures are shown, at most."""
_WIDE = 12
_NEVER_GIVEN, _NEVER_RIGHT = "no row was answered with it", "it is the right answer of no row"


def labels_of(arm: Arm) -> list[str] | None:
    """The labels that all runs of an arm have in common; None where there are none."""
    found = {tuple(run.after(arm.stage).summary.labels or ()) for run in arm.runs}
    labels = list(next(iter(found))) if len(found) == 1 else []
    return labels if len(labels) > 1 else None


def arm_f1(arm: Arm) -> float | None:
    """Macro F1 of an arm's answers, those of its seeds together; None where rows have different choices."""
    labels = labels_of(arm)
    return None if labels is None else macro_f1(label_figures(confusion(_records(arm), len(labels))))


def section(best: Arm, texts: Texts) -> Section | None:
    """Matrix, figures and pairs of the best arm; None where there are no labels, or too many to be shown."""
    labels = labels_of(best)
    if labels is None or len(labels) > MOST_LABELS:
        return None
    records = _records(best)
    matrix = confusion(records, len(labels))
    figures = label_figures(matrix)
    before = _before(best, labels)
    seeds = f", the answers of {len(best.runs)} seeds together" if len(best.runs) > 1 else ""
    wrong = len(records) - sum(each.hits for each in figures)
    about = f"{best.name}{seeds}: {wrong:,} of {several(len(records), 'answer')} are wrong. {_weakest(figures, labels)}"
    tables = [_matrix(matrix, labels), _figures(figures, before, labels)]
    return Section(
        "labels", "Label by label", [about], tables=tables, blocks=_pairs(matrix, labels, records, texts), side=True
    )


def _records(arm: Arm) -> list[Record]:
    runs = arm.runs[:1] if arm.stage == "base" else arm.runs
    return [record for run in runs for record in run.after(arm.stage).records]


def _before(best: Arm, labels: Sequence[str]) -> list[LabelFigures] | None:
    """The figures of the base of an arm's first run; None where that is the arm, or has other labels."""
    first = best.runs[0].evaluations[0]
    if best.stage == "base" or first.stage != "base" or first.summary.labels != list(labels):
        return None
    return label_figures(confusion(first.records, len(labels)))


def _weakest(figures: Sequence[LabelFigures], labels: Sequence[str]) -> str:
    found = macro_f1(figures)
    low = min((each for each in figures if each.f1 is not None), key=lambda each: each.f1, default=None)
    if low is None or found is None:
        return ""
    weakest = f"; lowest for {labels[low.label]} ({percent(low.f1)})" if low.f1 < 1 else ""
    return f"Macro F1 {percent(found)}{weakest}."


def _matrix(matrix: Sequence[Sequence[int]], labels: Sequence[str]) -> Table:
    """Rows: right answer; columns: answer given. Shaded by its share of the row."""
    names, counts, left = list(labels), [list(row) for row in matrix], 0
    if len(labels) > MOST_IN_MATRIX:
        errors = [
            sum(row) + sum(column) - 2 * row[i]
            for i, (row, column) in enumerate(zip(matrix, zip(*matrix, strict=True), strict=True))
        ]
        kept = sorted(sorted(range(len(labels)), key=lambda i: -errors[i])[: MOST_IN_MATRIX - 1])
        names, counts, left = _gathered(matrix, labels, kept)
    rows = []
    for name, row in zip(names, counts, strict=True):
        total = sum(row)
        cells = [Cell(f"{n:,}" if n else "·", shade=n / total if total else 0.0) for n in row]
        rows.append([Cell(name), *cells, Cell(f"{total:,}")])
    headings = [Heading("right answer", is_text=True), *map(Heading, names), Heading("rows")]
    upright = len(names) > 6 or max(map(len, names)) > _WIDE
    explained = ""
    if left:
        explained = f"The {len(names) - 1} labels with the most errors; the other {left} are counted together."
    return Table("Confusion matrix (row: right, column: given)", headings, rows, explained, upright=upright)


def _gathered(
    matrix: Sequence[Sequence[int]], labels: Sequence[str], kept: Sequence[int]
) -> tuple[list[str], list[list[int]], int]:
    """A matrix of some labels and, as the last, all others together."""
    rest = [i for i in range(len(labels)) if i not in set(kept)]
    groups = [*([i] for i in kept), rest]
    counts = [[sum(matrix[i][j] for i in one for j in two) for two in groups] for one in groups]
    return [*(labels[i] for i in kept), "(other)"], counts, len(rest)


def _figures(figures: Sequence[LabelFigures], before: Sequence[LabelFigures] | None, labels: Sequence[str]) -> Table:
    headings = [
        Heading("label", is_text=True),
        Heading("rows", "rows whose right answer it is"),
        Heading("precision", "of the rows answered with it, the share where it is right"),
        Heading("recall", "of the rows where it is right, the share answered with it"),
        Heading("F1", "harmonic mean of precision and recall"),
        *([Heading("F1 of the base")] if before else []),
    ]
    rows = []
    for each in figures:
        cells = [
            figure(each.precision, percent, _NEVER_GIVEN),
            figure(each.recall, percent, _NEVER_RIGHT),
            figure(each.f1, percent, _NEVER_RIGHT),
        ]
        cells += [figure(before[each.label].f1, percent, _NEVER_RIGHT)] if before else []
        rows.append([Cell(labels[each.label]), Cell(f"{each.right:,}"), *cells])
    mean = [Cell("macro mean"), Cell(f"{sum(each.right for each in figures):,}")]
    for name in ("precision", "recall"):
        values = [getattr(each, name) or 0.0 for each in figures if each.f1 is not None]
        mean.append(Cell(percent(sum(values) / len(values)) if values else "–"))
    mean.append(figure(macro_f1(figures), percent, _NEVER_RIGHT))
    mean += [figure(macro_f1(before), percent, _NEVER_RIGHT)] if before else []
    return Table("Precision, recall and F1", headings, [*rows, mean])


def _pairs(
    matrix: Sequence[Sequence[int]], labels: Sequence[str], records: Sequence[Record], texts: Texts
) -> list[Confused]:
    blocks = []
    for gold, given, n in confused(matrix)[:MOST_CONFUSED]:
        total = sum(matrix[gold])
        record = next(r for r in records if (r.gold, r.prediction) == (gold, given))
        example = texts.by_id.get(record.id)
        often = f"{n:,} of the {several(total, 'row')} whose right answer is {label_of(gold, labels)}"
        text = None if example is None else shortened_text(example.asked[0])
        blocks.append(Confused(labels[gold], labels[given], often, text))
    return blocks
