"""Attach adapters, and say what trains, what is frozen and what is active.

The model stays a plain transformers model that carries PEFT's layers; each adapter has a name of its own. A stage's
adapter is named like the stage; a joint stage `x` has `x_lora` and `x_reft`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from peft import PeftConfig, TaskType
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from heft.adapters.lora import ReversibleInit, inject_quietly, lora_config, lora_faults
from heft.adapters.lora_targets import left_out
from heft.adapters.trainable_tokens import show_tokens_of, token_ids
from heft.errors import HeftError
from heft.recipe.recipe import JointStage, LoraSettings, Recipe, Stage
from heft.reft.config import ReftConfig
from heft.reft.editable import require_editable
from heft.reft.layer import ReftLayer
from heft.reft.sites import blocks_without, site_names
from heft.runtime.memory_errors import is_out_of_memory
from heft.runtime.reporter import AdapterRow
from heft.settings.reft import Positions, ReftSettings, parse_positions

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Part:
    """One adapter of a stage: its name, and its settings (LoRA's or ReFT's)."""

    name: str
    settings: LoraSettings | ReftSettings

    @property
    def is_reft(self) -> bool:
        """Whether it edits hidden states (else it updates weights)."""
        return isinstance(self.settings, ReftSettings)


def parts(stage_name: str, stage: Stage) -> list[Part]:
    """The adapters that a stage trains."""
    if isinstance(stage, JointStage):
        return [Part(f"{stage_name}_lora", stage.lora), Part(f"{stage_name}_reft", stage.reft)]
    return [Part(stage_name, stage)]


def edited_positions(recipe: Recipe) -> list[Positions]:
    """What the ReFT adapters of all stages edit."""
    every_part = [part for name, stage in recipe.stages.items() for part in parts(name, stage)]
    return [parse_positions(part.settings.positions) for part in every_part if part.is_reft]


def check_targets(model: "PreTrainedModel", recipe: Recipe, tokenizer: "PreTrainedTokenizerBase | None" = None) -> None:
    """See that every adapter of the recipe finds its place in the model, before anything is trained.

    `tokenizer` is the model's; None where no stage has trainable tokens.

    Raises:
        HeftError: all that do not, with the nearest names there are.
    """
    faults, seen, taken = [], set(), _names_within(model)
    for stage_name, stage in recipe.stages.items():
        for part in parts(stage_name, stage):
            if part.name in seen:
                faults.append(f"stages.{stage_name}: two adapters would be named {part.name!r}; rename a stage")
            seen.add(part.name)
            if hasattr(nn.ModuleDict, part.name):
                faults.append(f"stages.{stage_name}: PyTorch keeps the name {part.name!r} for itself; rename the stage")
            if part.name in taken:
                faults.append(f"stages.{stage_name}: a part of the model is named {part.name!r}; rename the stage")
            found = _reft_faults(model, part.settings) if part.is_reft else lora_faults(model, part.settings)
            faults += [f"stages.{stage_name}: {fault}" for fault in found]
    faults += _token_faults(model, recipe, tokenizer)
    if faults:
        raise HeftError("\n".join(faults))


DOES_NOT_FIT = (ValueError, TypeError, KeyError, AttributeError, RuntimeError)
"""What PEFT and torch raise for an adapter that has no place in a model."""


def _token_faults(model: "PreTrainedModel", recipe: Recipe, tokenizer: "PreTrainedTokenizerBase | None") -> list[str]:
    """Trainable tokens that the model does not have, or that two stages train."""
    faults, trained_by = [], {}
    for stage_name, stage in recipe.stages.items():
        for part in parts(stage_name, stage):
            try:
                tokens = _tokens(model, part, tokenizer)
            except HeftError as error:
                faults.append(f"stages.{stage_name}: {error}")
                continue
            for token in tokens:
                if trained_by.setdefault(token, stage_name) != stage_name:
                    faults.append(
                        f"stages.{stage_name}: trainable_tokens: stage {trained_by[token]} trains"
                        f" {tokenizer.convert_ids_to_tokens(token)!r} already; let one of the two train it"
                    )
    return faults


def _tokens(model: "PreTrainedModel", part: Part, tokenizer: "PreTrainedTokenizerBase | None") -> list[int]:
    """Ids of the tokens that a part trains."""
    if part.is_reft or not part.settings.trainable_tokens:
        return []
    assert tokenizer is not None, "trainable tokens need the model's tokenizer"
    return token_ids(tokenizer, part.settings.trainable_tokens, model.get_input_embeddings().weight.shape[0])


@dataclass(frozen=True)
class Attached:
    """What `attach` put on a model: adapter names, and for some of them what undoes their start."""

    names: list[str]
    starts: dict[str, ReversibleInit]


def attach(
    model: "PreTrainedModel", stage_name: str, stage: Stage, tokenizer: "PreTrainedTokenizerBase | None" = None
) -> Attached:
    """Attach a stage's adapters on top of what is there, and make them the only ones that train.

    Earlier adapters are frozen and stay active. `tokenizer` is needed for trainable tokens only.

    Raises:
        HeftError: an adapter has no place in the model.
    """
    attached = Attached([], {})
    for part in parts(stage_name, stage):
        if not part.is_reft and ReversibleInit.needed(part.settings):
            attached.starts[part.name] = ReversibleInit(model)
        if part.is_reft:
            config = _reft_config(part.settings)
        else:
            config = lora_config(model, part.settings, _tokens(model, part, tokenizer))
        config.base_model_name_or_path = model.name_or_path
        try:
            inject(model, part.name, config)
        except DOES_NOT_FIT as error:
            if is_out_of_memory(error):
                raise
            raise HeftError(f"stages.{stage_name}: {error}") from error
        if part.name in attached.starts:
            attached.starts[part.name].injected(model, part.name)
        attached.names.append(part.name)
    train_only(model, attached.names)
    return attached


def left_out_in_words(model: "PreTrainedModel", stage_name: str, stage: Stage) -> list[str]:
    """What a stage's adapters have no part of although their settings say `all-linear` or all layers."""
    found = []
    for part in parts(stage_name, stage):
        settings = part.settings
        if settings.layers != "all":
            continue
        if part.is_reft:
            sites = site_names(model, "all", settings.site)
            without = blocks_without(model, sites)
            if without:
                found.append(
                    f"{part.name}: {len(sites)} of {len(sites) + len(without)} blocks have a {settings.site} that is"
                    f" edited; {', '.join(map(str, without))} have none"
                )
        elif settings.targets == "all-linear":
            without = left_out(model, part.name, settings.exclude)
            if without:
                shown = ", ".join(f"{key} ({count} blocks)" for key, count in without.items())
                found.append(f"{part.name}: LoRA leaves out {shown}; experts can be named in `targets`")
    return found


def finish(model: "PreTrainedModel", attached: Attached) -> None:
    """Freeze what a stage trained, as adapters that load on the untouched base."""
    for name, start in attached.starts.items():
        start.undo(model, name)
    activate(model, list(model.peft_config))
    model.eval()


def inject(model: "PreTrainedModel", name: str, config: PeftConfig) -> None:
    """Attach one adapter; every adapter that the model carries is active afterwards, and nothing trains."""
    inject_quietly(model, name, config)
    activate(model, list(model.peft_config))


def activate(model: nn.Module, names: Sequence[str]) -> None:
    """Make just these adapters take part in the forward pass; nothing trains."""
    show_tokens_of(model, names)
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.set_adapter([name for name in names if name in _adapters_of(module)])
    model.requires_grad_(False)


def train_only(model: nn.Module, names: Sequence[str]) -> None:
    """Freeze all but these adapters."""
    model.requires_grad_(False)
    for parameter in adapter_parameters(model, names).values():
        parameter.requires_grad_(True)


def adapter_parameters(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Parameter]:
    """The parameters of these adapters, by name."""
    theirs = set()
    for name in names:
        for part in _parts_of(model, name):
            theirs |= {id(p) for p in ([part] if isinstance(part, nn.Parameter) else part.parameters())}
    return {key: parameter for key, parameter in model.named_parameters() if id(parameter) in theirs}


def adapter_modules(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """The modules of an adapter, and those within them."""
    for part in _parts_of(model, name):
        if isinstance(part, nn.Module):
            yield from part.modules()


def _parts_of(model: nn.Module, name: str) -> Iterator[nn.Module | nn.Parameter]:
    """What PEFT's layers hold under an adapter's name."""
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            for held in (*layer.adapter_layer_names, *layer.other_param_names):
                container = getattr(layer, held, None)
                if isinstance(container, nn.ModuleDict | nn.ParameterDict) and name in container:
                    yield container[name]


def overview(model: "PreTrainedModel") -> list[AdapterRow]:
    """What trains, what is frozen, what is active, and how many parameters each has."""
    rows, counted = [], set()
    for name, config in model.peft_config.items():
        parameters = adapter_parameters(model, [name])
        counted |= set(parameters)
        is_active = any(name in m.active_adapters for m in model.modules() if isinstance(m, BaseTunerLayer))
        trains = any(p.requires_grad for p in parameters.values())
        state = f"{'trains' if trains else 'frozen'}, {'active' if is_active else 'off'}"
        rows.append(
            AdapterRow(name, config.peft_type.value.lower(), state, sum(p.numel() for p in parameters.values()))
        )
    base = sum(_numel(p) for key, p in model.named_parameters() if key not in counted)
    return [AdapterRow("base", "model", "frozen, active", base), *rows]


def trainable_parameters(model: nn.Module) -> int:
    """How many numbers the optimiser changes."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _names_within(model: nn.Module) -> set[str]:
    """Names of parts of a model, and of PEFT's layers on it: an adapter of that name could be taken for them."""
    within = {part for key, _ in [*model.named_modules(), *model.named_parameters()] for part in key.split(".")}
    layers = {"base_layer", "reft", "token_adapter"}
    return within | layers | {*LoraLayer.adapter_layer_names, *ReftLayer.adapter_layer_names}


def _adapters_of(module: BaseTunerLayer) -> set[str]:
    return set(module._all_available_adapter_names())


def _numel(parameter: nn.Parameter) -> int:
    packed = getattr(parameter, "quant_state", None)  # 4-bit weights are stored two to a byte
    return packed.shape.numel() if packed is not None else parameter.numel()


def _reft_config(settings: ReftSettings) -> ReftConfig:
    config = ReftConfig(**{name: getattr(settings, name) for name in ReftSettings.model_fields})
    config.task_type = TaskType.CAUSAL_LM
    return config


def _reft_faults(model: "PreTrainedModel", settings: ReftSettings) -> list[str]:
    hidden_size = model.config.get_text_config().hidden_size
    faults = []
    if settings.rank > hidden_size:
        faults.append(f"rank: {settings.rank} is above the model's hidden size, {hidden_size}")
    try:
        require_editable(model, settings.layers, settings.site)
    except ValueError as error:
        faults.append(str(error))
    return faults
