"""`heft eval --url` and `heft predict --url`: the server computes, everything else is as for a model that is loaded."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from heft.adapters.manifest import read_manifest
from heft.adapters.safety import adapter_folder, adapter_paths, read_config
from heft.data.checks.base import require_computable
from heft.data.encode import EncodedExample, Encoder
from heft.edits.positions import Positions
from heft.evaluation.evaluator import Answer, Evaluation, compared, evaluation_of
from heft.evaluation.finite import require_finite
from heft.models.limits import BaseLimits, base_limits
from heft.models.load import load_tokenizer
from heft.prediction.predict import Predictions, predict_by
from heft.recipe.recipe import EvaluationRequest, EvaluationSettings
from heft.runtime.reporter import Piece, Reporter
from heft.serving.client import ServerClient
from heft.serving.texts import space_left_out
from heft.tasks import load_examples, task_for
from heft.tasks.base import Task, TaskSettings
from heft.tasks.table import Row


@dataclass(frozen=True)
class RemoteModel:
    """A model that a server has, with what is known of it here.

    Attributes:
        client: that asks it.
        tokenizer: of its base model.
        positions: what its adapters act on, as `positions_of` gives them for a model that is loaded.
        limits: of its base model.
    """

    client: ServerClient
    tokenizer: PreTrainedTokenizerBase
    positions: Sequence[Positions]
    limits: BaseLimits

    @classmethod
    def of(cls, client: ServerClient, settings: EvaluationRequest, directory: Path | None, names: Sequence[str]):
        """The model of a base and of these adapters of a directory; no weights are loaded here.

        Raises:
            HeftError: the server has no such model, or files are missing.
        """
        client.require_model()
        limits, tokenizer = base_limits(settings.model), load_tokenizer(settings.model)
        return cls(client, tokenizer, positions_in(directory, names), limits)

    def evaluate(self, settings: TaskSettings, evaluation: EvaluationSettings, reporter: Reporter) -> Evaluation:
        """As `heft.evaluate`.

        Raises:
            HeftError: the task's data cannot be read, its prompts do not fit, or the server does not answer.
        """
        task, encode = task_for(settings), Encoder.of(self.tokenizer, settings, self.positions)
        examples = encode(load_examples(settings, "eval"))
        require_computable(examples, self.limits, task)
        tokens = sum(example.length for example in examples)
        reporter.expected([Piece("evaluation", "evaluation", len(examples), tokens)])
        start = time.perf_counter()
        answers = self.answers(task, examples, evaluation, reporter, "evaluation")
        losses = None if examples[0].choices else self._losses(examples, evaluation)
        return evaluation_of(task, examples, answers, losses, self.tokenizer, time.perf_counter() - start)

    def predict(
        self,
        settings: TaskSettings,
        evaluation: EvaluationSettings,
        rows: Sequence[Row],
        reporter: Reporter,
        skip_bad_rows: bool = False,
    ) -> Predictions:
        """As `heft.prediction.predict.predict_rows`."""
        task = task_for(settings)

        def answer(usable: list[EncodedExample]) -> list[Answer]:
            return self.answers(task, usable, evaluation, reporter, "prediction")

        encode = Encoder.of(self.tokenizer, settings, self.positions)
        return predict_by(answer, task, encode, self.limits, rows, skip_bad_rows)

    def answers(
        self,
        task: Task,
        examples: Sequence[EncodedExample],
        evaluation: EvaluationSettings,
        reporter: Reporter,
        what: str,
    ) -> list[Answer]:
        """The server's answer to every example, in their order; prompts go there as token ids."""

        def on_done(done: int) -> None:
            reporter.step(what, done, len(examples))

        with reporter.progress(what, len(examples)):
            if examples[0].choices:
                scores = self._scores(examples, evaluation, on_done)
                return [Answer(compared(e, s, evaluation.normalize)) for e, s in zip(examples, scores, strict=True)]
            prompts, size = [example.prompt for example in examples], evaluation.batch_size
            texts = self.client.texts(prompts, task.max_new_tokens, task.stop, size, on_done)
            return [Answer(text=self._alone(each), cut=each["finish_reason"] == "length") for each in texts]

    def _alone(self, found: dict[str, Any]) -> str:
        """A text without the space between its prompt and it, as one that is generated here."""
        return found["text"].removeprefix(space_left_out(self.tokenizer, found.get("token_ids") or ()))

    def _scores(self, examples: Sequence[EncodedExample], evaluation: EvaluationSettings, on_done) -> list[list[float]]:
        asked = [(example.prompt, example.choices) for example in examples]
        scores = self.client.log_likelihoods(asked, evaluation.batch_size, on_done)
        require_finite(examples, scores)
        return scores

    def _losses(self, examples: Sequence[EncodedExample], evaluation: EvaluationSettings) -> list[float]:
        """As `heft.evaluation.references.reference_losses`."""
        rows = [replace(example, choices=(example.answer,)) for example in examples]
        scores = self._scores(rows, evaluation, lambda done: None)
        return [-score[0] / len(row.answer) for row, score in zip(rows, scores, strict=True)]


def positions_in(directory: Path | None, names: Sequence[str]) -> list[Positions]:
    """What adapters of a directory act on, each once, read from their configurations; a LoRA of all tokens has none."""
    found = []
    for name in names if directory is not None else ():
        config = read_config(adapter_paths(adapter_folder(directory, name))[0])
        positions = getattr(config, "edited_positions", None)
        if positions is not None and positions not in found:
            found.append(positions)
    return found


def all_names(directory: Path) -> tuple[str, ...]:
    """The adapters of a directory, in order."""
    return tuple(entry.name for entry in read_manifest(directory).adapters)
