"""What answers: a run's model, that after some of its stages, or the base model of a recipe."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heft.adapters.attach import activate
from heft.adapters.directory import open_adapters
from heft.adapters.manifest import AdapterManifest, base_settings, read_manifest
from heft.adapters.places import adapter_directory
from heft.errors import HeftError
from heft.models.load import load_base
from heft.recipe.files import evaluation_request, load_recipe
from heft.recipe.ready import located
from heft.recipe.recipe import EvaluationRequest, EvaluationSettings
from heft.storage.reading import is_file
from heft.tasks.base import TaskSettings
from heft.text.listing import suggest

BASE = "base"


@dataclass(frozen=True)
class Answering:
    """A model, ready to answer rows of a task."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: TaskSettings
    evaluation: EvaluationSettings

    def with_batch_size(self, batch_size: int) -> "Answering":
        """The same with so many rows per forward pass; a HeftError where that is no such number."""
        values = self.evaluation.model_dump() | {"batch_size": batch_size}
        return replace(self, evaluation=EvaluationSettings(**values))


@dataclass(frozen=True)
class Opening:
    """What is to be loaded, read and checked before it is.

    Attributes:
        settings: of base model, task and evaluation.
        directory: of the adapters; None for a base model alone.
        names: of the adapters that are to be on.
    """

    settings: EvaluationRequest
    directory: Path | None = None
    names: tuple[str, ...] = ()

    def load(self) -> Answering:
        """Load it. Raises a HeftError where files are missing or do not fit."""
        base = load_base(self.settings.model)
        if self.directory is not None:
            activate(open_adapters(self.directory, base).model, self.names)
        return Answering(base.model, base.tokenizer, self.settings.task, self.settings.evaluation)


def opening(
    given: str | Path,
    stages: Sequence[str] = (),
    overrides: Sequence[str] = (),
    base: str | None = None,
    trust_remote_code: bool = False,
) -> Opening:
    """Read what answers, without loading a model.

    Args:
        given: a run, its adapter directory, or a recipe (or the name of one that comes with heft), whose base model
            then answers.
        stages: whose adapters are on, "base" for none; empty for all.
        overrides: `task.KEY=value`, `evaluation.KEY=value`, `model.KEY=value`.
        base: folder or Hub id of the base model, if it has moved since training.
        trust_remote_code: whether code that comes with the base model may run.

    Raises:
        HeftError: it is none of these, has no such stage, or settings are wrong.
    """
    recipe = Path(given) if os.path.exists(given) else located(given)
    if recipe.suffix in (".yaml", ".yml") and is_file(recipe):
        return _of_recipe(recipe, stages, overrides, base)
    directory = adapter_directory(given)
    manifest = read_manifest(directory)
    found = base_settings(directory, manifest, trust_remote_code, base)
    values = {"task": dict(manifest.task), "evaluation": dict(manifest.evaluation), "model": found.model_dump()}
    names = adapters_of(directory, manifest, stages)
    return Opening(evaluation_request(values, overrides, str(directory / "heft.json")), directory, names)


def _of_recipe(path: Path, stages: Sequence[str], overrides: Sequence[str], base: str | None) -> Opening:
    if list(stages) not in ([], [BASE]):
        raise HeftError(f"{path} is a recipe, of which the base model answers; for its stages give the run's directory")
    recipe = load_recipe(path, overrides)
    model = recipe.model
    if base not in (None, model.name):
        model = model.model_copy(update={"name": base, "revision": None})
    return Opening(EvaluationRequest(model=model, task=recipe.task, evaluation=recipe.evaluation))


def adapters_of(directory: Path, manifest: AdapterManifest, stages: Sequence[str]) -> tuple[str, ...]:
    """Names of the adapters that stages trained; of all, where no stage is named."""
    known = [BASE, *dict.fromkeys(entry.stage for entry in manifest.adapters)]
    for stage in stages:
        if stage not in known:
            raise HeftError(f"{directory} has no stage {stage!r}{suggest(stage, known)}")
    if BASE in stages and len(stages) > 1:
        raise HeftError("the stage base is the model without adapters; name it alone")
    return tuple(entry.name for entry in manifest.adapters if not stages or entry.stage in stages)
