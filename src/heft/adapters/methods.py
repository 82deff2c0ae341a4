"""The methods by which a stage adapts a model, as one table: what differs between LoRA and ReFT is here.

A new method is a class and a line in `METHODS`, its settings in a recipe's stage (heft.recipe.recipe), and its name in
heft.json (heft.adapters.manifest).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peft import PeftConfig, TaskType

from heft.adapters.lora import ReversibleInit, lora_config, lora_faults, plain_settings
from heft.adapters.lora_targets import left_out
from heft.adapters.trainable_tokens import token_ids
from heft.recipe.recipe import JointStage, LoraSettings, Recipe, Stage
from heft.reft.config import ReftConfig
from heft.reft.editable import require_editable
from heft.reft.positions import Positions, parse_positions
from heft.reft.settings import ReftSettings
from heft.reft.sites import blocks_without, site_names

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Method(ABC):
    """One way to adapt a model. `settings` are those of an adapter, such as `LoraSettings`."""

    name: str
    """In recipes, in heft.json and in tables."""

    @abstractmethod
    def config(
        self, model: "PreTrainedModel", settings: Any, tokenizer: "PreTrainedTokenizerBase | None"
    ) -> PeftConfig:
        """PEFT's configuration of the adapter on that model."""

    @abstractmethod
    def faults(self, model: "PreTrainedModel", settings: Any) -> list[str]:
        """Why the adapter has no place in the model, in words."""

    @abstractmethod
    def left_out(self, model: "PreTrainedModel", name: str, settings: Any) -> str | None:
        """What the attached adapter `name` leaves out although its settings say `all`, in words."""

    def start(self, model: "PreTrainedModel", settings: Any) -> ReversibleInit | None:
        """What takes back a start that changes base weights; made before the adapter is attached."""
        return None

    def needs_tokenizer(self, settings: Any) -> bool:
        """Whether the model's tokenizer has to say which tokens train."""
        return False

    def tokens(self, model: "PreTrainedModel", settings: Any, tokenizer: "PreTrainedTokenizerBase | None") -> list[int]:
        """Ids of tokens whose embeddings train.

        Raises:
            HeftError: the model does not have them.
        """
        return []

    def positions(self, settings: Any) -> Positions | None:
        """Which tokens the adapter edits; None where it edits no hidden states."""
        return None

    def without_start(self, settings: Any, finished: bool) -> Any:
        """Settings that give weights of the same shape without a look at the base's weights.

        Args:
            settings: of the adapter.
            finished: whether the adapter is that of a finished stage, whose start is taken back.
        """
        return settings


class Lora(Method):
    """A weight-space adapter."""

    name = "lora"

    def config(self, model, settings: LoraSettings, tokenizer) -> PeftConfig:
        return lora_config(model, settings, self.tokens(model, settings, tokenizer))

    def faults(self, model, settings: LoraSettings) -> list[str]:
        return lora_faults(model, settings)

    def left_out(self, model, name, settings: LoraSettings) -> str | None:
        if settings.layers != "all" or settings.targets != "all-linear":
            return None
        without = left_out(model, name, settings.exclude)
        shown = ", ".join(f"{key} ({count} blocks)" for key, count in without.items())
        return f"{name}: LoRA leaves out {shown}; experts can be named in `targets`" if without else None

    def start(self, model, settings: LoraSettings) -> ReversibleInit | None:
        return ReversibleInit(model) if ReversibleInit.needed(settings) else None

    def needs_tokenizer(self, settings: LoraSettings) -> bool:
        return bool(settings.trainable_tokens)

    def tokens(self, model, settings: LoraSettings, tokenizer) -> list[int]:
        if not settings.trainable_tokens:
            return []
        assert tokenizer is not None, "trainable tokens need the model's tokenizer"
        return token_ids(tokenizer, settings.trainable_tokens, model.get_input_embeddings().weight.shape[0])

    def without_start(self, settings: LoraSettings, finished: bool) -> LoraSettings:
        return plain_settings(settings, finished)


class Reft(Method):
    """A representation-space adapter."""

    name = "reft"

    def config(self, model, settings: ReftSettings, tokenizer) -> PeftConfig:
        config = ReftConfig(**{name: getattr(settings, name) for name in ReftSettings.model_fields})
        config.task_type = TaskType.CAUSAL_LM
        return config

    def faults(self, model, settings: ReftSettings) -> list[str]:
        hidden_size = model.config.get_text_config().hidden_size
        faults = []
        if settings.rank > hidden_size:
            faults.append(f"rank: {settings.rank} is above the model's hidden size, {hidden_size}")
        try:
            require_editable(model, settings.layers, settings.site)
        except ValueError as error:
            faults.append(str(error))
        return faults

    def left_out(self, model, name, settings: ReftSettings) -> str | None:
        if settings.layers != "all":
            return None
        sites = site_names(model, "all", settings.site)
        without = blocks_without(model, sites)
        blocks = f"{len(sites)} of {len(sites) + len(without)} blocks"
        found = f"{name}: {blocks} have a {settings.site} that is edited; {', '.join(map(str, without))} have none"
        return found if without else None

    def positions(self, settings: ReftSettings) -> Positions:
        return parse_positions(settings.positions)


METHODS: dict[str, Method] = {method.name: method for method in (Lora(), Reft())}
"""In the order in which a joint stage attaches them."""


@dataclass(frozen=True)
class StageAdapter:
    """One adapter of a stage: its name, its method and its settings."""

    name: str
    method: Method
    settings: Any

    @property
    def positions(self) -> Positions | None:
        """Which tokens it edits; None where it edits no hidden states."""
        return self.method.positions(self.settings)


def adapters_of(stage_name: str, stage: Stage) -> list[StageAdapter]:
    """The adapters that a stage trains: a joint stage `x` has `x_lora` and `x_reft`, any other has one of its name."""
    if isinstance(stage, JointStage):
        return [StageAdapter(f"{stage_name}_{name}", method, getattr(stage, name)) for name, method in METHODS.items()]
    return [StageAdapter(stage_name, METHODS[stage.method], stage)]


def all_adapters_of(recipe: Recipe) -> list[StageAdapter]:
    """The adapters of all stages, in order."""
    return [adapter for name, stage in recipe.stages.items() for adapter in adapters_of(name, stage)]


def edited_positions(recipe: Recipe) -> list[Positions]:
    """What the adapters of all stages edit."""
    return [adapter.positions for adapter in all_adapters_of(recipe) if adapter.positions is not None]


def method_name(config: PeftConfig) -> str:
    """An adapter's method as heft.json and tables have it."""
    return config.peft_type.value.lower()
