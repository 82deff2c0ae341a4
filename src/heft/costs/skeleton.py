"""Models without weights: the base's shape on the meta device, with adapters attached as a run would attach them."""

from typing import TYPE_CHECKING

import torch

from heft.adapters.attach import activate, attach, parts
from heft.models.load import load_skeleton, load_tokenizer
from heft.recipe.recipe import JointStage, LoraSettings, LoraStage, Recipe, Stage

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def skeleton_of(recipe: Recipe, trained: str | None) -> "PreTrainedModel":
    """The model as it is while the stage `trained` trains, all earlier stages frozen; the bare base for None.

    Raises:
        HeftError: the model's config cannot be had.
    """
    model = load_skeleton(recipe.model)
    if trained is None:
        return model
    tokenizer = tokenizer_for(recipe)
    with torch.device("meta"):
        for name, stage in recipe.stages.items():
            if name == trained:
                attach(model, name, _without_special_start(stage, settled=False), tokenizer)
                return model
            attach(model, name, _without_special_start(stage, settled=True), tokenizer)
            activate(model, list(model.peft_config))
    raise AssertionError(f"no stage {trained}")


def tokenizer_for(recipe: Recipe) -> "PreTrainedTokenizerBase | None":
    """The tokenizer that says which ids a recipe's trainable tokens have; None where it has no such tokens."""
    for stage_name, stage in recipe.stages.items():
        if any(not part.is_reft and part.settings.trainable_tokens for part in parts(stage_name, stage)):
            return load_tokenizer(recipe.model)
    return None


def _without_special_start(stage: Stage, settled: bool) -> Stage:
    """The stage with zero-cost weights of the same shape; a start that is undone leaves twice the rank behind."""
    if isinstance(stage, JointStage):
        return stage.model_copy(update={"lora": _plain(stage.lora, settled)})
    return _plain(stage, settled) if isinstance(stage, LoraStage) else stage


def _plain(lora: LoraSettings, settled: bool) -> LoraSettings:
    update: dict = {"init": "default"}
    if settled and lora.init.startswith(("pissa", "olora")):
        update["rank"] = 2 * lora.rank
        update["rank_pattern"] = {key: 2 * rank for key, rank in lora.rank_pattern.items()}
    return lora.model_copy(update=update)
