"""The model that the harness evaluates: a run's, an adapter directory's, a base model's, or one that is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heft.adapters.attach import activate
from heft.adapters.directory import open_adapters
from heft.adapters.loaded import origin_of
from heft.adapters.manifest import base_settings, read_manifest
from heft.adapters.places import adapter_directory, is_run_or_adapter
from heft.errors import HeftError
from heft.models.load import load_base
from heft.prediction.opening import adapters_of
from heft.recipe.recipe import EvaluationSettings, ModelSettings
from heft.storage.reading import is_file

AUTO_BATCH_SIZE = 64
"""Rows of a forward pass with `batch_size=auto`, halved until memory holds them."""


@dataclass(frozen=True)
class Opened:
    """A model, ready to be evaluated.

    Attributes:
        model: in evaluation mode, every adapter that is to be on active.
        tokenizer: pads on the left.
        task: settings of the task that adapters were trained on, as heft.json has them; empty for a base model.
        evaluation: how choices are scored.
        source: where it is from, for reports.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    task: Mapping[str, Any] = field(default_factory=dict)
    evaluation: EvaluationSettings = EvaluationSettings()
    source: Mapping[str, Any] = field(default_factory=dict)


def open_model(
    given: str,
    *,
    stages: Sequence[str] = (),
    base: str | None = None,
    trust_remote_code: bool = False,
    settings: Mapping[str, Any],
) -> Opened:
    """Load what a name stands for.

    Args:
        given: a run, its adapter directory, or a base model: a Hub id, a folder or one that is built in.
        stages: whose adapters are on, "base" for none; empty for all.
        base: folder or Hub id of the base model, if it has moved since training.
        trust_remote_code: whether code that comes with the base model may run.
        settings: of the base model, such as `device` and `dtype`, that are not to be as they were in training.

    Raises:
        HeftError: it is none of these, or files are missing or do not fit.
    """
    is_adapter = is_run_or_adapter(given) or is_file(Path(given) / "adapter_config.json")
    if not is_adapter:
        _require_no_adapter_options(given, stages, base)
        trust = {"trust_remote_code": True} if trust_remote_code else {}
        loaded = load_base(ModelSettings(name=given, **trust, **settings))
        return Opened(loaded.model, loaded.tokenizer, source={"base_model": given})
    directory = adapter_directory(given)
    manifest = read_manifest(directory)
    names = adapters_of(directory, manifest, stages)
    found = base_settings(directory, manifest, trust_remote_code, base)
    loaded = load_base(ModelSettings(**(found.model_dump() | dict(settings))))
    activate(open_adapters(directory, loaded).model, names)
    source = {"adapter": str(directory), "adapters": list(names), "base_model": found.name}
    return Opened(loaded.model, loaded.tokenizer, manifest.task, EvaluationSettings(**manifest.evaluation), source)


def opened_from(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> Opened:
    """A model that is loaded already, such as `heft.load` gives, perhaps within a `PeftModel`.

    Raises:
        HeftError: there is no tokenizer, or the model trains.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    origin = origin_of(inner)
    tokenizer = tokenizer or (origin and origin.tokenizer)
    if tokenizer is None:
        raise HeftError("a model that is loaded already needs its tokenizer: HeftLM(model, tokenizer=tokenizer)")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if inner.training:
        raise HeftError("the model is in training mode, in which dropout acts; call model.eval() first")
    source = {"base_model": inner.name_or_path, "adapters": list(getattr(inner, "peft_config", {}))}
    if origin is None:
        return Opened(inner, tokenizer, source=source)
    return Opened(inner, tokenizer, origin.manifest.task, EvaluationSettings(**origin.manifest.evaluation), source)


def _require_no_adapter_options(given: str, stages: Sequence[str], base: str | None) -> None:
    faults = [f"base={base}"] if base is not None else []
    faults += [f"stages={'+'.join(stages)}"] if stages else []
    if faults:
        raise HeftError(
            f"{' and '.join(faults)} goes with a run or an adapter directory, and {given} is neither; leave it out"
        )


def rows_of_a_pass(batch_size: int | str | None, most: int | None) -> int | None:
    """The batch size that `batch_size` and `max_batch_size` ask for; None for what the settings say.

    Raises:
        HeftError: it is neither a number nor auto.
    """
    if isinstance(batch_size, str) and batch_size.partition(":")[0] == "auto":
        return most or AUTO_BATCH_SIZE
    try:
        return None if batch_size is None else int(batch_size)
    except ValueError:
        raise HeftError(f"batch_size must be a whole number or auto; got {batch_size!r}") from None


def evaluation_settings(opened: Opened, **given: object) -> EvaluationSettings:
    """The settings that a model was evaluated with, but for those given that are not None."""
    values = {key: value for key, value in given.items() if value is not None}
    return EvaluationSettings(**(opened.evaluation.model_dump() | values))


def require_unset(**options: object) -> None:
    """Require that no option is given that has no meaning for a model that is loaded already.

    Raises:
        HeftError: some are.
    """
    given = [f"{key}={value}" for key, value in options.items() if value is not None]
    if given:
        raise HeftError(f"{', '.join(given)} has no meaning for a model that is loaded already; leave it out")
