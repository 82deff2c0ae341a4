"""Directions that a LoRA adapter writes to the hidden state, and edits that keep out of them (`orthogonal_to`).

LoRA adds (α/r)·B·A·x to the output of a module. Where that output is added to the hidden state, as that of the last
module of an attention or an MLP is, the directions written are the columns of B. Modules within (queries, the MLP's
inner layer) write into other spaces, and what the base makes of that can have any direction: it is not kept out of. An
edit of a block keeps out of what its attention and its MLP write, an edit of one of the two out of its own.

Every layer has its own directions. Those of all layers below would soon fill the hidden state: with rank 8, sixteen a
layer.
"""

from collections.abc import Iterator, Sequence

import torch
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heft.adapters.lora import inject_quietly
from heft.adapters.methods import adapters_of, method_name
from heft.models.load import without_weights
from heft.recipe.recipe import Recipe, ReftStage, Stage
from heft.reft.interventions import Intervention
from heft.reft.layer import layers_of
from heft.reft.outside import span_of
from heft.reft.sites import site_names
from heft.text.listing import first_of

WRITERS = frozenset(
    ("o_proj", "out_proj", "c_proj", "dense", "wo", "o", "o_attn", "out_lin", "attn_out")
    + ("down_proj", "fc2", "fc_out", "w2", "dense_4h_to_h", "lin2", "ff_out", "output_linear", "proj_out")
)
"""Last parts of the names of modules whose output is added to the hidden state."""
_INNER = frozenset(
    ("q_proj", "k_proj", "v_proj", "qkv_proj", "g_proj", "q_lin", "k_lin", "v_lin", "query", "key", "c_attn", "q_attn")
    + ("query_key_value", "in_proj", "gate_proj", "up_proj", "gate_up_proj", "c_fc", "fc1", "fc_in", "w1", "w3", "lin1")
    + ("dense_h_to_4h", "Wqkv", "wq", "wk", "wv", "q", "k", "v", "wi", "wi_0", "wi_1", "gate", "router")
)
"""Those of modules that write into inner spaces, some of which are as wide as the hidden state."""
_NORMS_BEHIND = (
    *("post_feedforward_layernorm", "post_mlp_layernorm", "post_self_attn_layernorm", "post_moe_layernorm"),
    *("post_attention_norm", "post_ffw_norm"),
)
"""Norms of a block between what its modules write and the hidden state, which stretch every direction."""
_NORMALIZED_AFTER = ("bart", "blenderbot-small", "marian", "mvp", "plbart", "trocr")
"""Decoders of BART's kin whose `final_layer_norm` comes after the sum; in others of them it comes before the MLP."""


def keep_out(model: PreTrainedModel, adapter: str, stage: Stage) -> None:
    """Let a stage's edits, just attached, keep out of what the stage that it names has written; else nothing.

    Nothing is done to a model without weights, of which only shapes are asked.
    """
    for unit, site in _orthogonal_units(model, adapter, stage):
        directions = directions_written(model, lora_of(model, stage.orthogonal_to), site)
        if directions.shape[1]:
            unit.keep_out(directions, stage.orthogonal_side)


def fold(model: PreTrainedModel, adapter: str) -> None:
    """Give edits that keep out of directions weights that are the same edits for anyone who loads them."""
    for layer in layers_of(model).values():
        for name, unit in layer.units():
            if name == adapter:
                unit.fold()


def orthogonal_in_words(model: PreTrainedModel, adapter: str, label: str, stage: Stage) -> list[str]:
    """What a stage's edits keep out of, for people; `label` is what the stage is called."""
    counts = {
        site: 0 if unit.outside is None else unit.outside.directions.shape[1]
        for unit, site in _orthogonal_units(model, adapter, stage)
    }
    if not counts:
        return []
    size, named = model.config.get_text_config().hidden_size, stage.orthogonal_to
    some, nothing = (
        sorted({count for count in counts.values() if count}),
        [s for s, count in counts.items() if not count],
    )
    if not some:
        return [f"{label}: {named} writes nothing at any site, so edits are free"]
    shown = f"{some[0]} to {some[-1]}" if len(some) > 1 else f"{some[0]}"
    sides = "read and write" if stage.orthogonal_side == "both" else stage.orthogonal_side
    where = f"{shown} of {size} at {len(counts) - len(nothing)} sites"
    lines = [f"{label}: edits {sides} nothing of the directions that {named} writes, {where}"]
    if nothing:
        lines.append(f"{label}: {named} writes nothing at {first_of(nothing, 3)}, where edits are free")
    return lines


def lora_of(model: PreTrainedModel, stage_name: str) -> str:
    """The LoRA adapter that a stage has left on the model: its own, or that of a joint one."""
    for name in (stage_name, f"{stage_name}_lora"):
        if name in model.peft_config and method_name(model.peft_config[name]) == "lora":
            return name
    raise AssertionError(f"stage {stage_name} has left no LoRA adapter")


def directions_written(model: nn.Module, lora: str, site: str) -> torch.Tensor:
    """Orthonormal columns (d, k) of what a LoRA adapter writes to the output of a site."""
    size = model.config.get_text_config().hidden_size
    columns = [layer.lora_B[lora].weight for _, layer in _writers(model, lora, site)]
    return span_of(columns, size)


def orthogonal_faults(
    model: PreTrainedModel, recipe: Recipe, stage_name: str, tokenizer: PreTrainedTokenizerBase | None
) -> list[str]:
    """Why a stage's edits cannot keep out of what the stage that it names writes, before either is trained."""
    stage = recipe.stages[stage_name]
    if getattr(stage, "orthogonal_to", None) is None:
        return []
    named, skeleton = stage.orthogonal_to, without_weights(model)
    (lora,) = [each for each in adapters_of(named, recipe.stages[named]) if each.method == "lora"]
    lora = lora.without_start(finished=True)
    try:
        sites = site_names(skeleton, stage.layers, stage.site)
        with torch.device("meta"):
            inject_quietly(skeleton, lora.name, lora.config(skeleton, tokenizer))
    except (ValueError, TypeError, KeyError, AttributeError, RuntimeError):
        return []  # it has no place in the model, which is said of the stage itself
    if skeleton.peft_config[lora.name].use_dora:  # of an adapter from files
        return [f"orthogonal_to: {named} was trained with DoRA, which writes in other directions than LoRA's"]
    return _faults_at(skeleton, lora.name, sites, stage)


def _faults_at(model: PreTrainedModel, lora: str, sites: Sequence[str], stage: ReftStage) -> list[str]:
    named, size = stage.orthogonal_to, model.config.get_text_config().hidden_size
    most = {}
    for site in sites:
        unclear = _unclear(model, lora, site, size)
        if unclear is not None:
            return [f"orthogonal_to: {unclear}"]
        most[site] = sum(layer.r[lora] for _, layer in _writers(model, lora, site))
    worst = max(most, key=most.get)
    if most[worst] == 0:
        return [
            f"orthogonal_to: {named} adapts no module whose output is added to the hidden state there (such as o_proj"
            f" and down_proj), so it writes no directions; adapt those in {named}, or remove orthogonal_to"
        ]
    if stage.rank > size - most[worst]:
        return [
            f"rank: {stage.rank} is above {max(0, size - most[worst])}, the dimensions that orthogonal_to leaves at"
            f" {worst}, where {named} writes up to {most[worst]} of {size}; lower the rank here or in {named}"
        ]
    return []


def _unclear(model: nn.Module, lora: str, site: str, size: int) -> str | None:
    """Why what LoRA writes at a site is not known from its weights, in words."""
    norm = _norm_behind(model, site)
    if norm is not None:
        return (
            f"{site} of this model normalizes what its modules write ({norm}) before it gives it on, which turns its"
            " directions; use another site (attention or mlp, where the norm is the block's), or no orthogonal_to"
        )
    for name, layer in _adapted(model, lora, site):
        last = name.rpartition(".")[2]
        if getattr(layer, "parameter_name", None) is not None:
            return f"LoRA adapts experts' weights ({name}), each of which writes directions of its own"
        if last not in WRITERS | _INNER and layer.lora_B[lora].weight.shape[0] == size:
            return f"whether the output of {name} is added to the hidden state is not known"
    return None


def _norm_behind(model: nn.Module, site: str) -> str | None:
    """The norm, if any, that stands in a site between what its modules write and what it gives on."""
    text, module = model.config.get_text_config(), model.get_submodule(site)
    found = [name for name, _ in module.named_children() if name in _NORMS_BEHIND]
    found += [
        name for name, _ in module.named_modules() if f".{name}".endswith(".output.LayerNorm")
    ]  # BERT and its kin
    is_block = any(True for name, _ in module.named_children() if name in ("attn", "self_attn"))
    if is_block and text.model_type == "openai-gpt":
        found.append("ln_2")
    is_after = text.model_type in _NORMALIZED_AFTER or getattr(text, "do_layer_norm_before", True) is False  # OPT 350M
    if is_block and is_after:
        found.append("final_layer_norm")
    return found[0] if found else None


def _writers(model: nn.Module, lora: str, site: str) -> Iterator[tuple[str, LoraLayer]]:
    """The adapted modules within a site whose output is added to the hidden state."""
    size = model.config.get_text_config().hidden_size
    for name, layer in _adapted(model, lora, site):
        if name.rpartition(".")[2] in WRITERS and layer.lora_B[lora].weight.shape[0] == size:
            yield name, layer


def _adapted(model: nn.Module, lora: str, site: str) -> Iterator[tuple[str, LoraLayer]]:
    for name, module in model.get_submodule(site).named_modules():
        if isinstance(module, LoraLayer) and lora in module.lora_B:
            yield f"{site}.{name}", module


def _orthogonal_units(model: PreTrainedModel, adapter: str, stage: Stage) -> Iterator[tuple[Intervention, str]]:
    """The units of an orthogonal stage's adapter that have weights, each with the module whose output it edits."""
    if getattr(stage, "orthogonal_to", None) is None:
        return
    for path, layer in layers_of(model).items():
        for name, unit in layer.units():
            if name == adapter and not unit.bias.is_meta:
                yield unit, path.removesuffix(".reft")
