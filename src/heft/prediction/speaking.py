"""From a run to a model that answers prompts, wrapped as in training."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from heft.adapters.attach import activate
from heft.adapters.directory import open_adapters
from heft.adapters.manifest import AdapterManifest, read_manifest
from heft.adapters.places import adapter_directory
from heft.data.encode import UNCUT, Encoder
from heft.errors import HeftError
from heft.evaluation.generation import Sampling
from heft.models.load import quiet
from heft.prediction.opening import adapters_of
from heft.prediction.prompts import Speaking
from heft.recipe.files import evaluation_request
from heft.recipe.recipe import EvaluationSettings
from heft.tasks import Task, task_for


@dataclass(frozen=True)
class Opened:
    """What is known before a model is loaded.

    Attributes:
        directory: of the adapters.
        names: of those that are to be on.
        task: the one that was trained on; None where the settings of it are not those of a task that is known here.
        evaluation: how choices are scored.
        wrapping: of prompts, as options of an `Encoder`.
        base, trust_remote_code, device: as for `heft.load`.
    """

    directory: Path
    names: tuple[str, ...]
    task: Task | None
    evaluation: EvaluationSettings
    wrapping: dict[str, Any]
    base: str | None
    trust_remote_code: bool
    device: str | None

    def load(
        self,
        max_new_tokens: int | None = None,
        sampling: Sampling | None = None,
        batch_size: int | None = None,
        warn: Callable[[str], None] = lambda text: None,
    ) -> Speaking:
        """Load the model; raises a HeftError where files are missing or do not fit."""
        quiet()
        loaded = open_adapters(self.directory, None, self.device, self.trust_remote_code, self.base)
        activate(loaded.model, self.names)
        encode = Encoder(loaded.tokenizer, UNCUT, **self.wrapping)
        evaluation = self.evaluation
        if batch_size is not None:
            evaluation = evaluation.model_copy(update={"batch_size": batch_size})
        return Speaking(loaded.model, loaded.tokenizer, encode, self.task, evaluation, max_new_tokens, sampling, warn)


def speaker(
    run: str | Path,
    stages: Sequence[str] = (),
    chat_template: bool | None = None,
    base: str | None = None,
    trust_remote_code: bool = False,
    device: str | None = None,
) -> Opened:
    """Read what answers, without loading it.

    Args:
        run: a run, or its adapter directory.
        stages: whose adapters are on, "base" for none; empty for all.
        chat_template: whether prompts are a user's turn; None: as in training.
        base: folder or Hub id of the base model, if it has moved since training.
        trust_remote_code: whether code that comes with the base model may run.
        device: "cpu", "cuda" or "mps"; None for the recipe's.

    Raises:
        HeftError: it is no run, has no such stage, or how prompts were wrapped is not known and not given.
    """
    directory = adapter_directory(run)
    manifest = read_manifest(directory)
    names = adapters_of(directory, manifest, stages)
    task, evaluation, wrapping = _as_trained(directory, manifest, chat_template)
    return Opened(directory, names, task, evaluation, wrapping, base, trust_remote_code, device)


def _as_trained(
    directory: Path, manifest: AdapterManifest, chat_template: bool | None
) -> tuple[Task | None, EvaluationSettings, dict[str, Any]]:
    """The task, how it is evaluated, and how its prompts are wrapped; `chat_template`, if given, overrides that."""
    values = {"task": dict(manifest.task), "evaluation": dict(manifest.evaluation)}
    try:
        trained = evaluation_request(values, where=str(directory / "heft.json"))
    except HeftError as error:
        if chat_template is not None:
            return None, EvaluationSettings(), {"chat_template": chat_template}
        raise HeftError(
            f"how prompts were made in training is not known: give --chat-template or --no-chat-template\n  {error}"
        ) from None
    task = trained.task
    wrapping: dict[str, Any] = {"chat_template": task.chat_template if chat_template is None else chat_template}
    if chat_template in (None, task.chat_template):
        wrapping |= {"template_args": task.chat_template_args, "template_date": task.template_date}
    return task_for(task), trained.evaluation, wrapping
