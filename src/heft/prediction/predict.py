"""Predictions: the model's answer to each row, with the probability of each label."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from heft.data.encode import EncodedExample, Encoder
from heft.errors import HeftError
from heft.evaluation.evaluator import Answer, answer_examples, answer_record
from heft.models.limits import BaseLimits, limits_of
from heft.prediction.opening import Answering
from heft.prediction.prediction import Prediction, columns_of, require_free_columns
from heft.prediction.questions import questions_of
from heft.reft.tracker import positions_of
from heft.results.metrics import Metrics, measure
from heft.runtime.reporter import Reporter
from heft.tasks import Task, task_for
from heft.tasks.loading import require_all_or_no_choices
from heft.tasks.table import Row, faults_by_cause
from heft.text.units import several


@dataclass(frozen=True)
class Predictions:
    """The answers to rows.

    Attributes:
        rows: what was asked about: places and fields.
        answers: one for each row, in order; None where the row could not be used.
        faults: of each row that could not be used, its place and why.
        metrics: figures of the rows whose right answer is known; None where none is.
        unusable_answers: rows whose given answer is none that the task knows.
        prompts_cut: rows whose prompt was shortened to the limit.
        answers_cut: rows whose generated answer reached the limit of tokens before an end.
        seconds: how long answering took.
        task: that was asked.
    """

    rows: Sequence[Row]
    answers: list[Prediction | None]
    faults: list[tuple[str, str]]
    metrics: Metrics | None
    unusable_answers: int
    prompts_cut: int
    answers_cut: int
    seconds: float
    task: Task

    @property
    def notes(self) -> list[str]:
        """What there is to say beside the figures, in sentences: the rate first, then what is odd."""
        done = len(self.rows) - len(self.faults)
        rate = done / max(self.seconds, 1e-9)
        notes = [f"{several(done, 'row')} in {self.seconds:.1f} s ({rate:,.1f} rows per second)"]
        if self.prompts_cut:
            cut = f"{several(self.prompts_cut, 'prompt')} {'was' if self.prompts_cut == 1 else 'were'} cut"
            notes.append(f"{cut} to {self.task.settings.max_length} tokens")
        if self.answers_cut:
            cut = f"{several(self.answers_cut, 'answer')} {'was' if self.answers_cut == 1 else 'were'} cut"
            notes.append(f"{cut} at task.max_new_tokens ({self.task.max_new_tokens})")
        if self.unusable_answers:
            have = f"{several(self.unusable_answers, 'row')} {'has' if self.unusable_answers == 1 else 'have'}"
            notes.append(f"{have} an answer that the task {self.task.name} does not know")
        if self.faults:
            verb = "was" if len(self.faults) == 1 else "were"
            heading = f"{len(self.faults):,} of {several(len(self.rows), 'row')} {verb} left out:"
            notes.append(str(faults_by_cause(heading, self.faults)))
        return notes


def predict_rows(
    answering: Answering, rows: Sequence[Row], reporter: Reporter | None = None, skip_bad_rows: bool = False
) -> Predictions:
    """A model's answers to rows.

    Args:
        answering: the model and the task.
        rows: with the task's fields; the right answer need not be there.
        reporter: hears of the progress.
        skip_bad_rows: whether rows that cannot be used are left without an answer.

    Raises:
        HeftError: there are no rows, or some cannot be used, and all are counted; some have choices and others
            none; they have a column of the name that predictions are to have; the model computes NaN or infinity.
    """
    model, tokenizer, task = answering.model, answering.tokenizer, task_for(answering.task)
    reporter = reporter or Reporter()

    def answer(usable: list[EncodedExample]) -> list[Answer]:
        return answer_examples(model, tokenizer, task, usable, answering.evaluation, reporter, "prediction")

    encode = Encoder.of(tokenizer, answering.task, positions_of(model))
    return predict_by(answer, task, encode, limits_of(model), rows, skip_bad_rows)


def predict_by(
    answer: Callable[[list[EncodedExample]], list[Answer]],
    task: Task,
    encode: Encoder,
    limits: BaseLimits,
    rows: Sequence[Row],
    skip_bad_rows: bool = False,
) -> Predictions:
    """As `predict_rows`, whatever it is that answers.

    Args:
        answer: gives the answer to each encoded question, in order.
        task: that is asked.
        encode: the encoder of the task's rows.
        limits: of the model that answers.
        rows: as for `predict_rows`, and `skip_bad_rows` likewise.
    """
    if not rows:
        raise HeftError("there are no rows to predict on")
    questions = questions_of(rows, task, encode, limits)
    if questions.faults and not skip_bad_rows:
        heading = f"{len(questions.faults):,} of {len(rows):,} rows cannot be used, and nothing was predicted:"
        report = faults_by_cause(heading, questions.faults)
        raise HeftError(f"{report}\n--skip-bad-rows (in Python skip_bad_rows=True) leaves their predictions empty")
    if not questions.usable:
        raise faults_by_cause(f"none of {len(rows):,} rows can be used:", questions.faults)
    usable = questions.usable
    places = [place for (place, _), each in zip(rows, questions.encoded, strict=True) if each is not None]
    require_all_or_no_choices(zip(places, (each.example for each in usable), strict=True))
    require_free_columns(rows, columns_of(task, [each.example.labels for each in usable]))
    start = time.perf_counter()
    found = answer(usable)
    seconds = time.perf_counter() - start
    known = [
        answer_record(task, example, each, encode.tokenizer)
        for example, each in zip(usable, found, strict=True)
        if example.example.answered
    ]
    left = iter(found)
    return Predictions(
        rows=rows,
        answers=[None if each is None else prediction_of(task, each, next(left)) for each in questions.encoded],
        faults=questions.faults,
        metrics=measure(known) if known else None,
        unusable_answers=questions.unusable_answers,
        prompts_cut=sum(each.cut > 0 for each in usable),
        answers_cut=sum(each.cut for each in found),
        seconds=seconds,
        task=task,
    )


def prediction_of(task: Task, encoded: EncodedExample, answer: Answer) -> Prediction:
    """An evaluator's answer in words."""
    if answer.text is not None:
        return Prediction(task.prediction(answer.text), text=answer.text)
    labels = encoded.example.labels
    return Prediction(labels[answer.choice], labels, tuple(answer.probabilities))
