"""The methods by which a stage adapts a model, as one table: what differs between LoRA and ReFT is here.

A new method is a class and a line in `METHODS`, its settings in a recipe's stage (heft.recipe.recipe), and its name in
heft.json (heft.adapters.manifest).
"""

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from peft import PeftConfig, TaskType
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heft.adapters.lora import ReversibleInit, lora_config, lora_faults, plain_settings
from heft.adapters.lora_targets import left_out
from heft.adapters.safety import method_name
from heft.adapters.source import AdapterSource, find_source, require_agreement
from heft.adapters.starts import changes_base
from heft.adapters.trainable_tokens import bias_fault, token_ids
from heft.edits.positions import Positions, parse_branch_positions, parse_positions
from heft.edits.settings import ReftSettings
from heft.errors import HeftError
from heft.recipe.recipe import JointStage, Recipe, Stage
from heft.reft.config import ReftConfig
from heft.reft.editable import require_editable
from heft.reft.sites import blocks_without, site_names


@dataclass(frozen=True)
class StageAdapter(ABC):
    """One adapter of a stage: its name and its settings, and what attaching, checking and counting it asks."""

    name: str
    settings: Any

    method: ClassVar[str]
    """In recipes, in heft.json and in tables."""

    @abstractmethod
    def config(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> PeftConfig:
        """PEFT's configuration of it on that model."""

    @abstractmethod
    def faults(self, model: PreTrainedModel) -> list[str]:
        """Why it has no place in the model, in words."""

    @abstractmethod
    def left_out(self, model: PreTrainedModel) -> str | None:
        """What it leaves out, once attached, although its settings say `all`, in words."""

    @property
    def positions(self) -> Positions | None:
        """Which tokens it acts on; None where it has no positions: a LoRA of all tokens."""
        return None

    @property
    def trains_tokens(self) -> bool:
        """Whether it trains embeddings of tokens, whose ids the model's tokenizer has."""
        return False

    def tokens(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None) -> list[int]:
        """Ids of tokens whose embeddings it trains.

        Raises:
            HeftError: the model does not have them.
        """
        return []

    def start(self, model: PreTrainedModel) -> ReversibleInit | None:
        """What takes back a start that changes base weights; made before the adapter is attached."""
        return None

    def without_start(self, finished: bool) -> "StageAdapter":
        """An adapter of the same shape that is made without a look at the base's weights.

        A start that changes base weights is taken back once its stage is `finished`.
        """
        return self


class LoraAdapter(StageAdapter):
    """A weight-space adapter; `settings` are `LoraSettings`."""

    method = "lora"

    def config(self, model, tokenizer) -> PeftConfig:
        return lora_config(model, self.settings, self.tokens(model, tokenizer))

    def faults(self, model) -> list[str]:
        fault = bias_fault(model) if self.trains_tokens else None
        return lora_faults(model, self.settings) + ([] if fault is None else [fault])

    def left_out(self, model) -> str | None:
        if self.settings.targets != "all-linear":
            return None
        without = left_out(model, self.name, self.settings.exclude, self.settings.layers)
        shown = ", ".join(f"{key} ({count} blocks)" for key, count in without.items())
        return f"{self.name}: LoRA leaves out {shown}; experts can be named in `targets`" if without else None

    @property
    def positions(self) -> Positions | None:
        positions = parse_branch_positions(self.settings.positions)
        return None if positions.all_tokens else positions

    @property
    def trains_tokens(self) -> bool:
        return bool(self.settings.trainable_tokens)

    def tokens(self, model, tokenizer) -> list[int]:
        if not self.trains_tokens:
            return []
        assert tokenizer is not None, "trainable tokens need the model's tokenizer"
        return token_ids(tokenizer, self.settings.trainable_tokens, model.get_input_embeddings().weight.shape[0])

    def start(self, model) -> ReversibleInit | None:
        return ReversibleInit(model) if changes_base(self.settings) else None

    def without_start(self, finished: bool) -> "LoraAdapter":
        return replace(self, settings=plain_settings(self.settings, finished))


class ReftAdapter(StageAdapter):
    """A representation-space adapter; `settings` are `ReftSettings`."""

    method = "reft"

    def config(self, model, tokenizer) -> PeftConfig:
        config = ReftConfig(**{name: getattr(self.settings, name) for name in ReftSettings.model_fields})
        config.task_type = TaskType.CAUSAL_LM
        return config

    def faults(self, model) -> list[str]:
        rank, hidden_size = self.settings.rank, model.config.get_text_config().hidden_size
        faults = [f"rank: {rank} is above the model's hidden size, {hidden_size}"] if rank > hidden_size else []
        try:
            require_editable(model, self.settings.layers, self.settings.site)
        except ValueError as error:
            faults.append(str(error))
        return faults

    def left_out(self, model) -> str | None:
        if self.settings.layers != "all":
            return None
        site, sites = self.settings.site, site_names(model, "all", self.settings.site)
        without = blocks_without(model, sites)
        there_are = f"{len(sites)} of {len(sites) + len(without)} blocks have a {site} that is edited"
        return f"{self.name}: {there_are}; {', '.join(map(str, without))} have none" if without else None

    @property
    def positions(self) -> Positions:
        return parse_positions(self.settings.positions)


class FromFiles(StageAdapter):
    """An adapter that exists; `settings` are an `AdapterSource`, and everything follows from its configuration."""

    settings: AdapterSource

    @property
    def method(self) -> str:
        return method_name(self.settings.config)

    def config(self, model, tokenizer) -> PeftConfig:
        return copy.deepcopy(self.settings.config)

    def faults(self, model) -> list[str]:
        return []  # heft.adapters.existing looks at the weights too

    def left_out(self, model) -> None:
        return None

    @property
    def positions(self) -> Positions | None:
        return getattr(self.settings.config, "edited_positions", None)

    @property
    def trains_tokens(self) -> bool:
        return bool(getattr(self.settings.config, "trainable_token_indices", None))

    def tokens(self, model, tokenizer) -> list[int]:
        return list(self.settings.config.trainable_token_indices) if self.trains_tokens else []


METHODS: dict[str, type[StageAdapter]] = {each.method: each for each in (LoraAdapter, ReftAdapter)}
"""In the order in which a joint stage attaches them."""


def adapters_of(stage_name: str, stage: Stage) -> list[StageAdapter]:
    """The adapters that a stage trains: a joint stage `x` has `x_lora` and `x_reft`, any other has one of its name.

    Raises:
        HeftError: the stage starts from an adapter that cannot be read, or that its settings contradict.
    """
    if isinstance(stage, JointStage):
        return [make(f"{stage_name}_{method}", getattr(stage, method)) for method, make in METHODS.items()]
    if stage.source is None:
        return [METHODS[stage.method](stage_name, stage)]
    try:
        source = find_source(stage.source, stage.method)
        require_agreement(stage, source)
    except HeftError as error:
        raise HeftError(f"stages.{stage_name}.from: {error}") from error
    return [FromFiles(stage_name, source)]


def all_adapters_of(recipe: Recipe) -> list[StageAdapter]:
    """The adapters of all stages, in order."""
    return [adapter for name, stage in recipe.stages.items() for adapter in adapters_of(name, stage)]


def edited_positions(recipe: Recipe) -> list[Positions]:
    """What the adapters of all stages edit."""
    return [adapter.positions for adapter in all_adapters_of(recipe) if adapter.positions is not None]
