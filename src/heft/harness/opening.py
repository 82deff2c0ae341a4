"""The model that the harness evaluates: a run's, an adapter directory's, a base model's, or one that is loaded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heft.adapters.attach import activate
from heft.adapters.directory import open_adapters
from heft.adapters.loaded import origin_of
from heft.adapters.manifest import base_settings, read_manifest
from heft.adapters.places import adapter_directory, is_run_or_adapter
from heft.errors import HeftError
from heft.evaluation.evaluator import require_ready
from heft.models.load import load_base
from heft.prediction.opening import adapters_of
from heft.recipe.files import model_request
from heft.recipe.recipe import EvaluationSettings
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
    task: Mapping[str, Any]
    evaluation: EvaluationSettings
    source: Mapping[str, Any]


def open_model(
    given: str,
    *,
    stages: Sequence[str] = (),
    base: str | None = None,
    trust_remote_code: bool = False,
    overrides: Sequence[str] = (),
) -> Opened:
    """Load what a name stands for.

    Args:
        given: a run, its adapter directory, or a base model: a Hub id, a folder or one that is built in.
        stages: whose adapters are on, "base" for none; empty for all.
        base: folder or Hub id of the base model, if it has moved since training.
        trust_remote_code: whether code that comes with the base model may run.
        overrides: `model.KEY=value` and `evaluation.KEY=value`, where not as in training.

    Raises:
        HeftError: it is none of these, settings are wrong, or files are missing or do not fit.
    """
    is_adapter = is_run_or_adapter(given) or is_file(Path(given) / "adapter_config.json")
    if not is_adapter:
        _require_no_adapter_options(given, stages, base)
        trust = {"trust_remote_code": True} if trust_remote_code else {}
        request = model_request({"model": {"name": given, **trust}, "evaluation": {}}, overrides)
        loaded = load_base(request.model)
        return Opened(loaded.model, loaded.tokenizer, {}, request.evaluation, {"base_model": given})
    directory = adapter_directory(given)
    manifest = read_manifest(directory)
    names = adapters_of(directory, manifest, stages)
    found = base_settings(directory, manifest, trust_remote_code, base)
    values = {"model": found.model_dump(), "evaluation": dict(manifest.evaluation)}
    request = model_request(values, overrides, str(directory / "heft.json"))
    loaded = load_base(request.model)
    activate(open_adapters(directory, loaded).model, names)
    source = {"adapter": str(directory), "adapters": list(names), "base_model": request.model.name}
    return Opened(loaded.model, loaded.tokenizer, manifest.task, request.evaluation, source)


def opened_from(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, overrides: Sequence[str] = ()
) -> Opened:
    """A model that is loaded already, such as `heft.load` gives, perhaps within a `PeftModel`.

    `overrides` are `evaluation.KEY=value`.

    Raises:
        HeftError: there is no tokenizer, it or the model is not ready, or settings are wrong.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    origin = origin_of(inner)
    tokenizer = tokenizer or (origin and origin.tokenizer)
    if tokenizer is None:
        raise HeftError("a model that is loaded already needs its tokenizer: HeftLM(model, tokenizer=tokenizer)")
    require_ready(model, tokenizer)
    source = {"base_model": inner.name_or_path, "adapters": list(getattr(inner, "peft_config", {}))}
    task, evaluation = ({}, {}) if origin is None else (origin.manifest.task, origin.manifest.evaluation)
    require_unset(**{text.partition("=")[0]: "…" for text in overrides if text.strip().startswith("model.")})
    request = model_request({"evaluation": dict(evaluation)}, overrides)
    return Opened(inner, tokenizer, task, request.evaluation, source)


def _require_no_adapter_options(given: str, stages: Sequence[str], base: str | None) -> None:
    faults = [f"base={base}"] if base is not None else []
    faults += [f"stages={'+'.join(stages)}"] if stages else []
    if faults:
        raise HeftError(
            f"{' and '.join(faults)} goes with a run or an adapter directory, and {given} is neither; leave it out"
        )


def as_overrides(**given: object) -> list[str]:
    """`model.device=cpu` for `model__device="cpu"`, of every value that is not None."""
    return [f"{key.replace('__', '.')}={value}" for key, value in given.items() if value is not None]


def rows_of_a_pass(batch_size: int | str | None, most: int | None) -> int | str | None:
    """The batch size that `batch_size` and `max_batch_size` ask for; None for what the settings say.

    Raises:
        HeftError: there is a largest one, and it is not to be found out.
    """
    if isinstance(batch_size, str) and batch_size.partition(":")[0] == "auto":
        return most or AUTO_BATCH_SIZE
    if most is not None:
        raise HeftError(f"max_batch_size {most} goes with batch_size=auto; got batch_size={batch_size}")
    return batch_size


def device_named(device: str | None) -> str | None:
    """A device as the harness names it, in heft's words; None for as in training.

    The harness asks for "cuda:0" where no one asked for anything, and means any other device where there is none.
    """
    if device != "cuda:0":
        return device
    return "cuda" if torch.cuda.is_available() else None


def require_unset(**options: object) -> None:
    """Require that no option is given that has no meaning for a model that is loaded already.

    Raises:
        HeftError: some are.
    """
    given = [f"{key}={value}" for key, value in options.items() if value is not None]
    if given:
        raise HeftError(f"{', '.join(given)} has no meaning for a model that is loaded already; leave it out")
