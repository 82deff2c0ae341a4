"""`/v1/classify`: the likeliest choice and the probability of each, by heft's own prediction code."""

import time
import uuid
from collections.abc import Sequence

from fastapi import Request

from heft.data.encode import EncodedExample
from heft.errors import HeftError
from heft.evaluation.evaluator import Answer, compared
from heft.prediction.predict import prediction_of
from heft.prediction.questions import questions_of
from heft.serving.catalog import Served
from heft.serving.engine import Engine
from heft.serving.http.asking import Asking
from heft.serving.http.errors import ApiError
from heft.serving.http.schemas import ClassifyRequest, EncodedQuestion
from heft.serving.http.wording import Wording
from heft.serving.requests import Event, Scoring


class Classifying:
    """Answers `/v1/classify`."""

    def __init__(self, engine: Engine, wording: Wording):
        self._engine, self._wording = engine, wording

    async def classify(self, body: ClassifyRequest, request: Request) -> dict:
        """The answer to each input, in order."""
        served = self._wording.find(body.model)
        given = [body.input] if isinstance(body.input, str) else body.input
        self._wording.require_count(len(given))
        questions = self._encoded(served, given)
        work = [self._scoring(served, question) for question in questions]
        found = await Asking(self._engine, work).all(request)
        scores = [_log_likelihoods(events) for events in found]
        data = [self._answer(served, n, *pair) for n, pair in enumerate(zip(questions, scores, strict=True))]
        tokens = sum(len(each.prompt) for each in work)
        return {
            "id": f"classify-{uuid.uuid4().hex}",
            "object": "list",
            "created": int(time.time()),
            "model": body.model,
            "data": data,
            "usage": {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens},
        }

    def _encoded(
        self, served: Served, given: Sequence[EncodedQuestion | str | dict]
    ) -> list[EncodedExample | EncodedQuestion]:
        """Every input as token ids.

        Raises:
            ApiError: some cannot be asked; they are named by their number.
        """
        asked = [n for n, each in enumerate(given) if not isinstance(each, EncodedQuestion)]
        if not asked:
            return list(given)
        if served.task is None or served.encode is None:
            what = "the base model has no task" if served.directory is None else "the adapter's task is not known here"
            raise ApiError(400, f"{what}, so only token ids (prompt_ids, choice_ids) can be classified by it", "input")
        try:
            found = dict(zip(asked, self._of_task(served, [given[n] for n in asked], asked), strict=True))
        except HeftError as error:
            raise ApiError(400, str(error), "input") from None
        return [found.get(n, each) for n, each in enumerate(given)]

    def _of_task(self, served: Served, given: Sequence[str | dict], places: Sequence[int]) -> list[EncodedExample]:
        task = served.task
        texts = [each for each in given if isinstance(each, str)]
        if texts and task.common_choices is None:
            raise HeftError(f"rows of {task.name} have choices of their own, so a text alone is no question: give rows")
        if any(not text.strip() for text in texts):
            raise HeftError("an input is empty; give some text")
        prompted = served.encode([task.prompted(text) for text in texts]) if texts else []
        rows = [(f"input {n}", each) for n, each in zip(places, given, strict=True) if isinstance(each, dict)]
        questions = questions_of(rows, task, served.encode, self._wording.catalog.limits) if rows else None
        if questions is not None and questions.faults:
            raise HeftError("; ".join(f"{place}: {why}" for place, why in questions.faults[:10]))
        of_texts, of_rows = iter(prompted), iter(questions.encoded if questions is not None else ())
        encoded = [next(of_texts) if isinstance(each, str) else next(of_rows) for each in given]
        if not all(each.choices for each in encoded):
            raise HeftError(f"answers of {task.name} are generated: ask /v1/completions")
        return encoded

    def _scoring(self, served: Served, question: EncodedExample | EncodedQuestion) -> Scoring:
        if isinstance(question, EncodedQuestion):
            prompt, choices = tuple(question.prompt_ids), [tuple(each) for each in question.choice_ids]
        else:
            prompt, choices = question.prompt, list(question.choices)
        if len(choices) > self._wording.limits.prompts:
            raise ApiError(400, f"{len(choices)} choices; the server takes {self._wording.limits.prompts}", "input")
        for choice in choices:
            self._wording.require_room((*prompt, *choice), 0)
        seconds = self._wording.limits.seconds
        return Scoring(served=served, prompt=prompt, seconds=seconds, continuations=choices)

    def _answer(
        self, served: Served, index: int, question: EncodedExample | EncodedQuestion, scores: list[float]
    ) -> dict:
        if isinstance(question, EncodedQuestion):
            answer = Answer(tuple(scores))
            found = {"label": None, "labels": None, "choice": answer.choice, "probs": answer.probabilities}
        else:
            answer = Answer(compared(question, scores, served.evaluation.normalize))
            words = prediction_of(served.task, question, answer)
            found = {"label": words.answer, "labels": list(words.labels), "choice": answer.choice}
            found["probs"] = list(words.probabilities)
        return {"index": index, **found, "num_classes": len(scores), "log_likelihoods": scores}


def _log_likelihoods(events: Sequence[Event]) -> list[float]:
    """ln p of each choice."""
    return [sum(chosen.log_probability for chosen in score) for score in events[-1].scores]
