"""Attach adapters; what trains, what is frozen and what is active.

The model stays a plain transformers model that carries PEFT's layers; each adapter has a name of its own.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from peft import PeftConfig
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heft.adapters.lora import ReversibleInit, inject_quietly
from heft.adapters.lora_targets import parameters_of
from heft.adapters.methods import StageAdapter, adapters_of
from heft.adapters.orthogonal import fold, keep_out, orthogonal_faults
from heft.adapters.safety import method_name
from heft.adapters.trainable_tokens import show_tokens_of
from heft.errors import HeftError
from heft.recipe.recipe import Recipe, Stage
from heft.reft.layer import ReftLayer
from heft.runtime.memory_errors import is_out_of_memory
from heft.runtime.reporter import AdapterRow


def check_targets(model: PreTrainedModel, recipe: Recipe, tokenizer: PreTrainedTokenizerBase | None = None) -> None:
    """Check that every adapter of the recipe has a place in the model, before anything is trained.

    `tokenizer` is the model's; None where no stage has trainable tokens.

    Raises:
        HeftError: all that do not, with the nearest names there are.
    """
    faults, seen = [], set()
    trained_by: dict[int, str] = {}
    parameters: dict[str, list[str]] = {}
    for stage_name, stage in recipe.stages.items():
        for adapter in adapters_of(stage_name, stage):
            found = adapter.faults(model) + orthogonal_faults(model, recipe, stage_name, tokenizer)
            try:
                tokens = adapter.tokens(model, tokenizer)
            except HeftError as error:
                tokens, found = [], [*found, str(error)]
            found += [
                f"trainable_tokens: stage {trained_by[token]} trains {tokenizer.convert_ids_to_tokens(token)!r}"
                " already; let one of the two train it"
                for token in tokens
                if trained_by.setdefault(token, stage_name) != stage_name
            ]
            if adapter.method == "lora" and not found:
                own = parameters_of(model, adapter.config(model, tokenizer))
                found += _other_parameters(parameters, own)
                parameters |= {stage_name: own} if own else {}
            if adapter.name in seen:
                found.insert(0, f"two adapters would be named {adapter.name!r}; rename a stage")
            elif (fault := name_fault(model, adapter.name)) is not None:
                found.insert(0, f"{fault}; rename the stage")
            seen.add(adapter.name)
            faults += [f"stages.{stage_name}: {fault}" for fault in found]
    if faults:
        raise HeftError("\n".join(faults))


def name_fault(model: nn.Module, name: str) -> str | None:
    """Why no adapter of a model can have this name, in words; None where one can."""
    if hasattr(nn.ModuleDict, name):
        return f"PyTorch reserves the name {name!r}"
    return f"a part of the model is named {name!r}" if name in _names_within(model) else None


def _other_parameters(before: Mapping[str, Sequence[str]], own: Sequence[str]) -> list[str]:
    """Experts' weights that a LoRA adapter cannot adapt, since an earlier stage's adapts others."""
    for stage_name, names in before.items():
        if own and list(names) != list(own):
            return [
                f"targets: PEFT puts several LoRA adapters on the same experts' weights only: stage {stage_name} adapts"
                f" {', '.join(names)}, and this one {', '.join(own)}; name the same in both, or experts in one of them"
            ]
    return []


DOES_NOT_FIT = (ValueError, TypeError, KeyError, AttributeError, RuntimeError)
"""What PEFT and torch raise for an adapter that has no place in a model."""


@dataclass(frozen=True)
class Attached:
    """What `attach` put on a model: adapter names, and for some of them what undoes their start."""

    names: list[str]
    starts: dict[str, ReversibleInit]


def attach(
    model: PreTrainedModel, stage_name: str, stage: Stage, tokenizer: PreTrainedTokenizerBase | None = None
) -> Attached:
    """Attach a stage's adapters on top of what is there, and make them the only ones that train.

    Earlier adapters are frozen and stay active. `tokenizer` is needed for trainable tokens only.

    Raises:
        HeftError: an adapter has no place in the model.
    """
    attached = attach_adapters(model, stage_name, adapters_of(stage_name, stage), tokenizer)
    for name in attached.names:
        keep_out(model, name, stage)
    return attached


def attach_adapters(
    model: PreTrainedModel,
    stage_name: str,
    adapters: Sequence[StageAdapter],
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> Attached:
    """As `attach`, of adapters that need not be just those of the stage."""
    starts = {}
    for adapter in adapters:
        start = adapter.start(model)
        config = adapter.config(model, tokenizer)
        config.base_model_name_or_path = model.name_or_path
        try:
            inject(model, adapter.name, config)
        except DOES_NOT_FIT as error:
            if is_out_of_memory(error):
                raise
            raise HeftError(f"stages.{stage_name}: {error}") from error
        if start is not None:
            start.injected(model, adapter.name)
            starts[adapter.name] = start
    names = [adapter.name for adapter in adapters]
    train_only(model, names)
    return Attached(names, starts)


def left_out_in_words(model: PreTrainedModel, stage_name: str, stage: Stage) -> list[str]:
    """What a stage's adapters leave out although their settings say `all-linear` or all layers."""
    found = [adapter.left_out(model) for adapter in adapters_of(stage_name, stage)]
    return [words for words in found if words is not None]


def finish(model: PreTrainedModel, attached: Attached) -> None:
    """Freeze what a stage trained, as adapters that load on the untouched base."""
    abandon(model, attached)
    for name in attached.names:
        fold(model, name)


def abandon(model: PreTrainedModel, attached: Attached) -> None:
    """Freeze what a stage that did not end has left, whose weights need not be sound; the base is as it was."""
    for name, start in attached.starts.items():
        start.undo(model, name)
    activate(model, list(model.peft_config))
    model.eval()


def inject(model: PreTrainedModel, name: str, config: PeftConfig) -> None:
    """Attach one adapter; every adapter that the model carries is active afterwards, and nothing trains."""
    inject_quietly(model, name, config)
    activate(model, list(model.peft_config))


def activate(model: nn.Module, names: Sequence[str]) -> None:
    """Make just these adapters take part in the forward pass; nothing trains."""
    show_tokens_of(model, names)
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            own = module._all_available_adapter_names()
            module.set_adapter([name for name in names if name in own])
    model.requires_grad_(False)


@contextmanager
def activated(model: nn.Module, names: Sequence[str]) -> Iterator[None]:
    """Just these adapters take part in forward passes inside; afterwards all that the model carries do."""
    activate(model, names)
    try:
        yield
    finally:
        activate(model, list(model.peft_config))


@contextmanager
def base_alone(model: nn.Module) -> Iterator[None]:
    """No adapter takes part in forward passes inside, and none of their weights is touched; what trains stays so."""
    layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer) and not m.disable_adapters]
    for layer in layers:
        layer._disable_adapters = True  # PEFT's own switch also sets what trains
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def train_only(model: nn.Module, names: Sequence[str]) -> None:
    """Freeze all but these adapters."""
    model.requires_grad_(False)
    for parameter in adapter_parameters(model, names).values():
        parameter.requires_grad_(True)


def adapter_parameters(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Parameter]:
    """The parameters of these adapters, by name."""
    held = [each for name in names for each in _held_by(model, name)]
    theirs = {id(p) for each in held for p in ([each] if isinstance(each, nn.Parameter) else each.parameters())}
    return {key: parameter for key, parameter in model.named_parameters() if id(parameter) in theirs}


def trained_adapters(model: PreTrainedModel) -> list[str]:
    """Names of the adapters of which a weight requires gradients."""
    return [n for n in model.peft_config if any(p.requires_grad for p in adapter_parameters(model, [n]).values())]


def adapter_modules(model: nn.Module, name: str) -> Iterator[nn.Module]:
    """The modules of an adapter, and those within them."""
    for held in _held_by(model, name):
        if isinstance(held, nn.Module):
            yield from held.modules()


def _held_by(model: nn.Module, name: str) -> Iterator[nn.Module | nn.Parameter]:
    """What PEFT's layers hold under an adapter's name."""
    for layer in model.modules():
        if isinstance(layer, BaseTunerLayer):
            for attribute in (*layer.adapter_layer_names, *layer.other_param_names):
                container = getattr(layer, attribute, None)
                if isinstance(container, nn.ModuleDict | nn.ParameterDict) and name in container:
                    yield container[name]


def overview(model: PreTrainedModel) -> list[AdapterRow]:
    """What trains, what is frozen, what is active, and how many parameters each has."""
    rows = []
    for name, config in model.peft_config.items():
        parameters = adapter_parameters(model, [name]).values()
        is_active = any(name in m.active_adapters for m in model.modules() if isinstance(m, BaseTunerLayer))
        trains = any(p.requires_grad for p in parameters)
        state = f"{'trains' if trains else 'frozen'}, {'active' if is_active else 'off'}"
        rows.append(AdapterRow(name, method_name(config), state, sum(p.numel() for p in parameters)))
    base = model.num_parameters() - sum(row.parameters for row in rows)
    return [AdapterRow("base", "model", "frozen, active", base), *rows]


def _names_within(model: nn.Module) -> set[str]:
    """Names of parts of a model, and of PEFT's layers on it: an adapter of that name could be taken for them."""
    within = {part for key, _ in [*model.named_modules(), *model.named_parameters()] for part in key.split(".")}
    layers = {"base_layer", "reft", "token_adapter"}
    return within | layers | {*LoraLayer.adapter_layer_names, *ReftLayer.adapter_layer_names}
