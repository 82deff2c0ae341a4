"""Questions on which two arms part, with their text.

Records hold ids only. The text comes from the task, whose rows are read again; where that cannot be had, the ids are
shown and why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import TypeAdapter, ValidationError

from heft.compare.results import PairResult
from heft.compare.runs import Evaluated, RunFiles
from heft.errors import HeftError
from heft.recipe.files import with_paths_from
from heft.report.pairs import pair_name
from heft.report.parts import DASH, Section
from heft.report.subject import Subject
from heft.results.labels import label_of
from heft.results.records import Record
from heft.tasks import AnyTask, Example, load_examples
from heft.text.units import count

MOST_SHOWN = 4
"""Examples of each kind, won and lost, that are shown of a pair; fewer where there are many pairs."""
_MOST_CHARACTERS = 1500


@dataclass(frozen=True)
class Texts:
    """The evaluation rows by id; none, and why, where they cannot be had."""

    by_id: Mapping[str, Example]
    why_none: str | None = None


def load_texts(run: RunFiles) -> Texts:
    """The evaluation rows of a run's task, read where the run read them, or has them itself."""
    try:
        settings = TypeAdapter(AnyTask).validate_python(with_paths_from(run.recipe.get("task", {}), run.path))
        return Texts({example.id: example for example in load_examples(settings, "eval")})
    except ValidationError:
        return Texts({}, "the task’s settings are of another version of heft")
    except (HeftError, OSError) as error:
        return Texts({}, str(error).splitlines()[0])


@dataclass(frozen=True)
class Shown:
    """One example as a person reads it. `prompt` is None where its text is not known."""

    id: str
    prompt: str | None
    right: str
    first: str
    second: str


@dataclass(frozen=True)
class Parted:
    """What two arms answered differently, one rightly.

    Attributes:
        title: of the pair.
        first, second: names of the arms.
        about: which runs, and how many examples there are.
        kinds: (heading, examples that are shown) of those won, and of those lost.
    """

    title: str
    first: str
    second: str
    about: str
    kinds: Sequence[tuple[str, Sequence[Shown]]]
    kind: ClassVar[str] = "parted"


def section(subject: Subject, texts: Texts) -> Section:
    """A block for each pair, of one seed."""
    pairs = subject.comparison.pairs
    if subject.is_one_run:  # each stage against the one before it; the last against the base repeats these
        pairs = pairs[: len(subject.arms) - 1]
    most = min(MOST_SHOWN, max(2, 12 // max(1, len(pairs))))
    blocks = [_parted(subject, pair, texts, most) for pair in pairs]
    notes = []
    if texts.why_none:
        notes.append(f"Ids alone are shown, without text, since the rows cannot be read now: {texts.why_none}")
    elif missing := _missing(subject, texts):
        notes.append(
            f"{missing:,} evaluated questions have no text here: the data are not what they were when the run was made."
        )
    if not blocks:
        notes.append("There is one arm only, so nothing was won or lost.")
    return Section("examples", "Answers that changed" if subject.is_one_run else "Won and lost", notes, blocks=blocks)


def _missing(subject: Subject, texts: Texts) -> int:
    ids = {record.id for arm in subject.arms for record in arm.runs[0].after(arm.stage).records}
    return len(ids - texts.by_id.keys())


def _parted(subject: Subject, pair: PairResult, texts: Texts, most: int) -> Parted:
    seed, first, second = subject.sides(pair)
    both = _both(first, second)
    won = [rows for rows in both if rows[0].correct and not rows[1].correct]
    lost = [rows for rows in both if rows[1].correct and not rows[0].correct]
    runs = f"Of seed {seed}" if seed is not None else "Of the first run of each"
    about = f"{runs}, {len(both):,} questions: {len(won):,} won, {len(lost):,} lost."
    labels, kinds = first.summary.labels, []
    for what, rows in ((f"Right with {pair.first} only", won), (f"Right with {pair.second} only", lost)):
        part = f", {most} of {len(rows):,}" if len(rows) > most else ""
        if rows:
            kinds.append((f"{what}{part}", [_shown(*row, texts.by_id.get(row[0].id), labels) for row in rows[:most]]))
    return Parted(pair_name(pair), pair.first, pair.second, about, kinds)


def _both(first: Evaluated, second: Evaluated) -> list[tuple[Record, Record]]:
    by_id = {record.id: record for record in second.records}
    return [(record, by_id[record.id]) for record in first.records if record.id in by_id]


def _shown(first: Record, second: Record, example: Example | None, labels: Sequence[str] | None) -> Shown:
    return Shown(
        first.id,
        None if example is None else shortened_text(example.prompt),
        _answer(first.gold, example, labels) if example is None or example.target is None else example.target,
        _given(first, example, labels),
        _given(second, example, labels),
    )


def _given(record: Record, example: Example | None, labels: Sequence[str] | None) -> str:
    if not record.log_likelihoods:
        found = DASH + " (none found)" if record.prediction is None else str(record.prediction)
        return f"{found}, in: {shortened_text(record.text.strip())}" if record.text else found
    return _answer(record.prediction, example, labels)


def _answer(choice: int | str | None, example: Example | None, labels: Sequence[str] | None) -> str:
    """The label of an answer, from its row or from the summary; the letter before an option stands for the option."""
    if isinstance(choice, int) and example is not None and choice in range(len(example.choices)):
        return label_of(choice, example.labels)
    return label_of(choice, labels) if choice is not None else DASH


def shortened_text(text: str) -> str:
    """A long text loses its middle, and says so."""
    if len(text) <= _MOST_CHARACTERS:
        return text
    half = _MOST_CHARACTERS // 2
    left_out = count(len(text) - 2 * half)
    return f"{text[:half]} […{left_out} characters…] {text[-half:]}"
