"""Evaluate a model on a task: records of every example, and figures from them."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heft.data.answers import is_right
from heft.data.checks.base import require_computable
from heft.data.encode import EncodedExample, Encoder
from heft.data.padding import padding_matters
from heft.errors import HeftError
from heft.evaluation.finite import explain_singular_rotation
from heft.evaluation.generation import generate_texts
from heft.evaluation.kept import as_in_a_run
from heft.evaluation.references import reference_losses
from heft.evaluation.scoring import in_fitting_batches, score_choices
from heft.evaluation.shared_pass import KeptPrefixes
from heft.models.causal import require_causal
from heft.models.limits import limits_of
from heft.models.load import require_usable
from heft.recipe.recipe import EvaluationSettings
from heft.reft.tracker import positions_of
from heft.results.labels import shared_labels
from heft.results.metrics import Metrics, measure
from heft.results.records import Record
from heft.runtime.memory_errors import no_room_for
from heft.runtime.reporter import Piece, Reporter
from heft.tasks import load_examples, task_for
from heft.tasks.base import Task, TaskSettings


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        records: one for each example, in the examples' order.
        metrics: figures from the records.
        seconds: how long it took.
        prompts_cut: examples whose prompt was shortened to the limit.
        labels: what the choices stand for, by their index, where all examples have the same; else None.
    """

    records: list[Record]
    metrics: Metrics
    seconds: float
    prompts_cut: int
    labels: tuple[str, ...] | None = None


def evaluate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: TaskSettings,
    settings: EvaluationSettings | None = None,
    reporter: Reporter | None = None,
) -> Evaluation:
    """Evaluate a model, adapted or not, on a task's evaluation split.

    Args:
        model: a causal language model in evaluation mode, such as `heft.load` returns.
        tokenizer: its tokenizer; without a padding token, it is given its EOS token as one.
        task: settings of the task, such as `heft.load_recipe(...).task`.
        settings: batch size and normalisation; None for the defaults.
        reporter: hears of the progress; None for no one.

    Raises:
        HeftError: the model or the tokenizer is not ready (`require_ready`), the task's data cannot be read, its
            prompts do not fit, or the model computes NaN or infinity.
    """
    require_ready(model, tokenizer)
    if not isinstance(task, TaskSettings):
        raise HeftError(
            f"task is a {type(task).__name__}; expected the settings of a task, such as heft.load_recipe(…).task"
        )
    encode, reporter = Encoder.of(tokenizer, task, positions_of(model)), reporter or Reporter()
    if encode.chat is not None and encode.chat.uses_date and task.template_date is None:
        reporter.note("the chat template writes the day's date into prompts; task.template_date sets another")
    examples = encode(load_examples(task, "eval"))
    require_computable(examples, limits_of(model), task_for(task))
    tokens = sum(example.length for example in examples)
    reporter.expected([Piece("evaluation", "evaluation", len(examples), tokens)])
    settings = settings or EvaluationSettings()
    kept = as_in_a_run(model, examples, settings, tokenizer.pad_token_id)
    return evaluate_examples(model, tokenizer, task_for(task), examples, settings, reporter, kept=kept)


def require_ready(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Require that a person's model, perhaps within a `PeftModel`, and its tokenizer can be evaluated.

    Raises:
        HeftError: one of the two is none; the model is in training mode, is no causal language model, reads ahead, or
            puts tokens of its own before a text; or the tokenizer does not fit it.
    """
    require_model(model)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise HeftError(f"tokenizer is a {type(tokenizer).__name__}; expected one of transformers")
    if model.training:
        raise HeftError("the model is in training mode, in which dropout acts; call model.eval() first")
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if getattr(inner, "generation_config", None) is None or inner.config.is_encoder_decoder:
        raise HeftError(
            f"a {type(inner).__name__} is no causal language model, whose next token is scored; give one that"
            " AutoModelForCausalLM loads"
        )
    config = getattr(model, "active_peft_config", None)
    if getattr(config, "is_prompt_learning", False):
        raise HeftError(
            f"the model's adapter of the type {config.peft_type.value} puts tokens of its own before a text, and heft"
            " counts places in the text alone; evaluate it with lm-evaluation-harness's own class, hf"
        )
    require_causal(inner.name_or_path or type(inner).__name__, inner)
    require_usable(tokenizer, inner)


def require_model(model: Any) -> None:
    """Require that what a person gives as a model is one.

    Raises:
        HeftError: it is not.
    """
    if not isinstance(model, nn.Module):
        raise HeftError(
            f"model is a {type(model).__name__}; expected a model, such as heft.load or AutoModelForCausalLM gives"
        )


def evaluate_examples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    examples: Sequence[EncodedExample],
    settings: EvaluationSettings,
    reporter: Reporter,
    what: str = "evaluation",
    kept: KeptPrefixes | None = None,
) -> Evaluation:
    """As `evaluate`, on examples that are encoded already.

    `what` names the work to the reporter; `kept` are prefixes of the examples' prompts, which choices take.

    Whenever memory runs out, the evaluation starts again with half the batch size.

    Raises:
        HeftError: the model computes NaN or infinity, or memory does not suffice for a batch of one.
    """
    start = time.perf_counter()
    answers = answer_examples(model, tokenizer, task, examples, settings, reporter, what, kept)
    losses = None if examples[0].choices else _losses(model, tokenizer, examples, settings, reporter, what)
    return evaluation_of(task, examples, answers, losses, tokenizer, time.perf_counter() - start)


def evaluation_of(
    task: Task,
    examples: Sequence[EncodedExample],
    answers: Sequence["Answer"],
    losses: Sequence[float] | None,
    tokenizer: PreTrainedTokenizerBase,
    seconds: float,
) -> Evaluation:
    """Records and figures from a model's answers; `losses` are of reference answers, where answers are generated."""
    records = [
        answer_record(task, example, answer, tokenizer) for example, answer in zip(examples, answers, strict=True)
    ]
    if losses is not None:
        records = [replace(record, loss=loss) for record, loss in zip(records, losses, strict=True)]
    cut = sum(example.cut > 0 for example in examples)
    labels = shared_labels(example.example for example in examples)
    return Evaluation(records, measure(records, task.answers_are_texts), seconds, cut, labels)


@dataclass(frozen=True)
class Answer:
    """What a model answers, whether or not the right answer is known.

    Attributes:
        log_likelihoods: ln p of each choice as they are compared (normalised or not); empty where it is generated.
        text: the generated text; None for choices.
        cut: whether the text reached the limit of tokens before an end.
    """

    log_likelihoods: tuple[float, ...] = ()
    text: str | None = None
    cut: bool = False

    @property
    def choice(self) -> int:
        """Index of the likeliest choice, the first of equal ones."""
        return max(range(len(self.log_likelihoods)), key=self.log_likelihoods.__getitem__)

    @property
    def probabilities(self) -> list[float]:
        """Of each choice: softmax of `log_likelihoods`, so the choices' probabilities add up to 1."""
        largest = max(self.log_likelihoods)
        weights = [math.exp(value - largest) for value in self.log_likelihoods]
        total = sum(weights)
        return [weight / total for weight in weights]


def answer_examples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    task: Task,
    examples: Sequence[EncodedExample],
    settings: EvaluationSettings,
    reporter: Reporter,
    what: str,
    kept: KeptPrefixes | None = None,
) -> list[Answer]:
    """The model's answer to every example, in their order; arguments and errors as for `evaluate_examples`."""
    answers = _Answers(model, tokenizer, task, examples, settings, reporter, what, kept)

    no_room = no_room_for("a batch of one", "set evaluation.share_prefix: false")
    return in_fitting_batches(answers.all, model, settings, reporter, what, no_room)


def _losses(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[EncodedExample],
    settings: EvaluationSettings,
    reporter: Reporter,
    what: str,
) -> list[float]:
    def of(batch_size: int) -> list[float]:
        return reference_losses(model, examples, batch_size, tokenizer.pad_token_id)

    return in_fitting_batches(of, model, settings, reporter, f"{what}, loss", no_room_for("a batch of one"))


@dataclass(frozen=True)
class _Answers:
    """Takes a model's answers; the attributes are the arguments of `evaluate_examples`."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Task
    examples: Sequence[EncodedExample]
    settings: EvaluationSettings
    reporter: Reporter
    what: str
    kept: KeptPrefixes | None

    def all(self, batch_size: int) -> list[Answer]:
        """The answer to every example, from batches of at most this size."""
        with self.reporter.progress(self.what, len(self.examples)), explain_singular_rotation(self.model):
            return self._scored(batch_size) if self.examples[0].choices else self._generated(batch_size)

    def _scored(self, batch_size: int) -> list[Answer]:
        pad_id, settings = self.tokenizer.pad_token_id, self.settings
        about = (settings, batch_size, self.reporter, self.what)
        scores = score_choices(self.model, pad_id, self.examples, *about, kept=self.kept)
        return [Answer(compared(e, s, settings.normalize)) for e, s in zip(self.examples, scores, strict=True)]

    def _generated(self, batch_size: int) -> list[Answer]:
        longest = max(len(example.prompt) for example in self.examples) + self.task.max_new_tokens
        cut: set[int] = set()
        texts = generate_texts(
            self.model,
            self.tokenizer,
            [example.prompt for example in self.examples],
            batch_size=1 if padding_matters(self.model, self.tokenizer.pad_token_id, longest) else batch_size,
            max_new_tokens=self.task.max_new_tokens,
            stop=self.task.stop,
            answer_end=Encoder.of(self.tokenizer, self.task.settings).answer_end,
            on_batch=self._on_batch,
            on_cut=cut.add,
        )
        return [Answer(text=text, cut=place in cut) for place, text in enumerate(texts)]

    def _on_batch(self, done: int) -> None:
        self.reporter.step(self.what, done, len(self.examples))


def answer_record(task: Task, encoded: EncodedExample, answer: Answer, tokenizer: PreTrainedTokenizerBase) -> Record:
    """The record of an example whose right answer is known."""
    if answer.text is None:
        return _choice_record(encoded, answer)
    return Record(
        id=encoded.example.id,
        gold=encoded.example.target,
        prediction=task.prediction(answer.text),
        correct=is_right(task, encoded, answer.text, tokenizer),
        group=encoded.example.group,
        text=answer.text,
        cut=answer.cut,
        prompt=encoded.fingerprint,
    )


def choice_record(encoded: EncodedExample, scores: list[float], normalize: str) -> Record:
    """The record of an example from the log-likelihood of each of its choices; `normalize` as in a recipe."""
    return _choice_record(encoded, Answer(compared(encoded, scores, normalize)))


def _choice_record(encoded: EncodedExample, answer: Answer) -> Record:
    return Record(
        id=encoded.example.id,
        gold=encoded.example.gold,
        prediction=answer.choice,
        correct=answer.choice == encoded.example.gold,
        log_likelihoods=answer.log_likelihoods,
        group=encoded.example.group,
        prompt=encoded.fingerprint,
    )


def compared(encoded: EncodedExample, scores: Sequence[float], normalize: str) -> tuple[float, ...]:
    """The log-likelihoods of an example's choices as they are compared; `normalize` as in a recipe."""
    lengths = {
        "none": [1] * len(scores),
        "tokens": [len(ids) for ids in encoded.choices],
        "bytes": [len(text.encode()) for text in encoded.example.choices],
    }[normalize]
    return tuple(score / length for score, length in zip(scores, lengths, strict=True))
