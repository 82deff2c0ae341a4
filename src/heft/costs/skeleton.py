"""Models without weights: the base's shape on the meta device, with adapters attached as a run would attach them."""

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heft.adapters.attach import activate, attach_adapters
from heft.adapters.methods import adapters_of, all_adapters_of
from heft.models.load import load_skeleton, load_tokenizer
from heft.recipe.recipe import Recipe


def skeleton_of(recipe: Recipe, trained: str | None) -> PreTrainedModel:
    """The model as it is while the stage `trained` trains, all earlier stages frozen; the bare base for None.

    Raises:
        HeftError: the model's config cannot be loaded.
    """
    model = load_skeleton(recipe.model)
    if trained is None:
        return model
    tokenizer = tokenizer_for(recipe)
    with torch.device("meta"):
        for name, stage in recipe.stages.items():
            finished = name != trained
            plain = [adapter.without_start(finished) for adapter in adapters_of(name, stage)]
            attach_adapters(model, name, plain, tokenizer)
            if not finished:
                return model
            activate(model, list(model.peft_config))
    raise AssertionError(f"no stage {trained}")


def tokenizer_for(recipe: Recipe) -> PreTrainedTokenizerBase | None:
    """The tokenizer, where a recipe has trainable tokens, whose ids it has; else None."""
    if any(adapter.trains_tokens for adapter in all_adapters_of(recipe)):
        return load_tokenizer(recipe.model)
    return None
