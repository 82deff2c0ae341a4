"""Stages that start from an adapter that exists (`from`): whether it fits the base, and how it gets onto the model."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heft.adapters.attach import Attached, attach, train_only
from heft.adapters.directory import PEFT_PREFIX, attach_from, require_fitting
from heft.adapters.lora import has_tied_head
from heft.adapters.methods import FromFiles, adapters_of
from heft.adapters.source import AdapterSource
from heft.adapters.weights import read_shapes
from heft.errors import HeftError
from heft.models.load import without_weights
from heft.models.source import local_folder, source_of
from heft.recipe.recipe import Recipe, Stage


def sources_of(recipe: Recipe) -> dict[str, AdapterSource]:
    """What stages start from, by the stage's name; stages with new adapters are left out.

    Raises:
        HeftError: one cannot be read.
    """
    return {
        name: adapter.settings
        for name, stage in recipe.stages.items()
        for adapter in adapters_of(name, stage)
        if isinstance(adapter, FromFiles)
    }


def check_sources(
    model: PreTrainedModel, recipe: Recipe, fingerprint: str | None, warn: Callable[[str], None] = lambda text: None
) -> None:
    """Check that every adapter that stages start from fits the base, before anything is trained.

    Args:
        model: the base, with or without weights.
        fingerprint: of it (heft.models.fingerprints); None where only its shapes are known.
        warn: hears of one that fits by its shapes, but was trained on something else.

    Raises:
        HeftError: all that do not fit, each with its tensors.
    """
    faults = []
    for name, source in sources_of(recipe).items():
        try:
            _require_own_copies(model, source)
            require_fitting(without_weights(model), name, source.config, source.weights, source.copies)
            _require_no_tied_head(model, source)
            _require_another_place(recipe, source)
        except HeftError as error:
            based = "" if source.base_name is None else f"\n  (it was trained on {source.base_name})"
            faults.append(f"stages.{name}.from: {error}{based}")
            continue
        for text in _doubts(recipe, source, fingerprint):
            warn(f"stage {name}: {source.given} {text}")
    if faults:
        raise HeftError("\n".join(faults))


def begin_stage(
    model: PreTrainedModel, stage_name: str, stage: Stage, tokenizer: PreTrainedTokenizerBase | None = None
) -> Attached:
    """Attach a stage's adapters, new or from files, and make them the only ones that train (`attach`)."""
    if stage.source is None:
        return attach(model, stage_name, stage, tokenizer)
    names = take_as_it_is(model, stage_name, stage)
    train_only(model, names)
    return Attached(names, {})


def take_as_it_is(model: PreTrainedModel, stage_name: str, stage: Stage) -> list[str]:
    """Attach the adapter that a stage starts from, frozen and active; returns its name, as a list."""
    (adapter,) = adapters_of(stage_name, stage)
    config = adapter.config(model, None)
    config.base_model_name_or_path, config.revision = model.name_or_path, None
    attach_from(model, adapter.name, config, adapter.settings.weights, adapter.settings.copies)
    model.eval()
    return [adapter.name]


def _doubts(recipe: Recipe, source: AdapterSource, fingerprint: str | None) -> list[str]:
    """What may be wrong with an adapter that fits."""
    found = []
    name = recipe.model.name
    same_names = {name, str(local_folder(name)), source_of(name)}
    if source.base_fingerprint is not None and fingerprint is not None:
        if source.base_fingerprint != fingerprint:
            found.append(
                f"was trained on {source.base_name} with fingerprint {source.base_fingerprint}, and this base has"
                f" {fingerprint}: its shapes fit, its weights are others"
            )
    elif source.base_name is not None and source.base_name not in same_names:
        found.append(f"was trained on {source.base_name}, and the base here is {name}: its shapes fit")
    before = [adapter for adapter in source.behind if adapter not in recipe.stages]
    if before:
        found.append(f"was trained on top of {', '.join(before)}, which this recipe does not have")
    return found


def _require_own_copies(model: PreTrainedModel, source: AdapterSource) -> None:
    """Whole weights beside the adapter are those of the base, which has them already, or the file is refused."""
    if not source.copies:
        return
    own = dict(model.named_parameters(remove_duplicate=False))
    with safe_open(source.weights, framework="pt") as file:
        for key in source.copies:
            name = key.removeprefix(PEFT_PREFIX).replace(".base_layer.", ".")
            if name not in own or list(own[name].shape) != file.get_slice(key).get_shape():
                raise HeftError(f"{source.weights} has {key}, which is no part of a LoRA adapter or of this base")
            if not own[name].is_meta and not torch.equal(file.get_tensor(key).to(own[name]), own[name]):
                raise HeftError(
                    f"{source.weights} has whole weights of {name}, which are not those of the base (PEFT's"
                    " save_embedding_layers): it was trained on a base with other embeddings; start from that base"
                )


def _require_no_tied_head(model: PreTrainedModel, source: AdapterSource) -> None:
    head = model.get_output_embeddings()
    names = {name for name, module in model.named_modules() if module is head} if has_tied_head(model) else set()
    adapted = [name for name in names if any(f"{name}.lora_" in key for key in read_shapes(source.weights))]
    if adapted:
        raise HeftError(
            f"it adapts {adapted[0]}, the output head, which shares its weights with the input embedding: the update"
            " could not be merged without changing the embedding too, so heft does not take it"
        )


def _require_another_place(recipe: Recipe, source: AdapterSource) -> None:
    output = Path(recipe.output_dir).resolve()
    if source.folder.resolve().is_relative_to(output):
        raise HeftError(f"it lies in {recipe.output_dir}, which the run writes: give the run another --output DIR")
