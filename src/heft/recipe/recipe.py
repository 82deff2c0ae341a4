"""The recipe: every setting of a run, declared, defaulted, documented and checked once.

`heft.recipe.files` reads and writes it as YAML, `heft.recipe.docs` turns the declarations below into docs/recipes.md.
Checks between two settings sit on the later of the two, so that an error points at a line a person wrote.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from heft.edits.bounds import Alpha, Rank
from heft.edits.positions import parse_branch_positions
from heft.edits.settings import ReftSettings
from heft.recipe.model import ModelSettings
from heft.recipe.orthogonal import OrthogonalSettings, stage_fault
from heft.recipe.source import SourceSettings
from heft.recipe.sweep import SweepSettings, check_sweep
from heft.recipe.training import CheckpointSettings, TrainingSettings
from heft.recipe.tune import TuneSettings, check_tune
from heft.settings.base import Distinct, FileName, PathOrId, Settings, output_directory, value_error
from heft.tasks import TASKS, AnyTask
from heft.text.listing import suggest

LORA_INITS = ("default", "gaussian", "orthogonal", "pissa", "olora")
INITS_OF_WEIGHTS = ("pissa", "olora")
"""How names of starts begin that are taken out of the base's weights."""
CheckName = Literal[
    "no_labels",
    "all_labels",
    "pad_trained",
    "double_bos",
    "end_missing",
    "answers_cut",
    "train_in_eval",
    "labels_alike",
    "never_chosen",
    "beyond_positions",
    "open_thinking",
]


class LoraSettings(Settings):
    """A weight-space adapter (LoRA)."""

    rank: Rank = 8
    """Rank r of LoRA (PEFT: `r`)."""
    alpha: Alpha = 16.0
    """Scale of the update: it is multiplied by alpha/rank, or alpha/sqrt(rank) with rslora (PEFT: `lora_alpha`)."""
    dropout: float = Field(default=0.0, ge=0.0, lt=1.0)
    """Dropout on the input of the update (PEFT: `lora_dropout`)."""
    targets: Annotated[Literal["all-linear"] | list[str], Distinct] = "all-linear"
    """Linear modules that are adapted: all that a text runs but the output head, or a list of module-name suffixes such
    as [q_proj, v_proj] (PEFT: `target_modules`)."""
    exclude: Annotated[list[str], Distinct] = Field(default=[])
    """Module-name suffixes that are excluded from the targets (PEFT: `exclude_modules`)."""
    layers: Annotated[Literal["all"] | list[Annotated[int, Field(ge=0)]], Distinct] = "all"
    """Layers that are adapted, counted from 0 (PEFT: `layers_to_transform`)."""
    positions: str = "all"
    """Tokens that it acts on: all, or lN+, the last N of the prompt and every later one (Activated LoRA); lN is read as
    lN+. Earlier tokens keep the base's keys and values, which can be cached."""
    rslora: bool = False
    """Scale by alpha/sqrt(rank), which keeps large ranks stable (PEFT: `use_rslora`)."""
    dora: bool = False
    """Learn the magnitude of each weight column separately from its direction (DoRA; PEFT: `use_dora`)."""
    rank_pattern: dict[str, Rank] = Field(default={})
    """Rank by module-name suffix, such as {down_proj: 16}; the first that fits counts (PEFT: `rank_pattern`)."""
    alpha_pattern: dict[str, Alpha] = Field(default={})
    """Alpha by module-name suffix, likewise (PEFT: `alpha_pattern`)."""
    init: str = "default"
    """Initialization: default (no change at first), gaussian, orthogonal, pissa, pissa_niter_N (fast, N power
    iterations) or olora; the last three need a base in float32 (PEFT: `init_lora_weights`)."""
    trainable_tokens: Annotated[list[Annotated[str, Field(min_length=1)]], Distinct] = Field(default=[])
    """Tokens whose embeddings are trained too, in the output head as well where it is tied to them, such as
    `["<yes>", "<no>"]` added to the tokenizer (PEFT: `trainable_token_indices`)."""

    @field_validator("trainable_tokens")
    @classmethod
    def _tokens_fit_the_init(cls, value: list[str], info: ValidationInfo) -> list[str]:
        if value and info.data.get("init", "default").startswith(("pissa", "olora")):
            raise ValueError(f"trainable_tokens cannot be trained with init: {info.data['init']}; use init: default")
        if value and info.data.get("positions", "all") != "all":
            raise ValueError(
                f"trainable_tokens change embeddings wherever the tokens stand; got positions {info.data['positions']};"
                " use positions: all"
            )
        return value

    @field_validator("targets", "layers")
    @classmethod
    def _something_is_adapted(cls, value: str | list, info: ValidationInfo) -> str | list:
        if value == []:
            raise ValueError(f"{info.field_name} must name at least one; got an empty list")
        return value

    @field_validator("positions")
    @classmethod
    def _positions_are_readable(cls, value: str) -> str:
        return str(parse_branch_positions(value))

    @field_validator("dora")
    @classmethod
    def _dora_acts_on_all(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("positions", "all") != "all":
            raise ValueError(
                f"dora scales whole weights, which act on all tokens; got positions {info.data['positions']}; use"
                " positions: all, or dora: false"
            )
        return value

    @field_validator("init")
    @classmethod
    def _init_fits(cls, value: str, info: ValidationInfo) -> str:
        if value not in LORA_INITS and not re.fullmatch(r"pissa_niter_[1-9][0-9]*", value):
            raise ValueError(f"unknown init {value!r}{suggest(value, (*LORA_INITS, 'pissa_niter_N'))}")
        if info.data.get("dora") and value.startswith(("pissa", "olora")):
            raise ValueError(f"{value} with dora cannot become a plain adapter; use init: default or dora: false")
        if info.data.get("positions", "all") != "all" and value.startswith(("pissa", "olora")):
            raise ValueError(
                f"{value} changes base weights, which act on all tokens; got positions {info.data['positions']}; use"
                " positions: all, or init: default"
            )
        ranks = [info.data.get("rank", 2), *info.data.get("rank_pattern", {}).values()]
        if value == "orthogonal" and any(rank % 2 for rank in ranks):
            raise ValueError(f"orthogonal needs even ranks; got {', '.join(map(str, ranks))}")
        return value


class LoraStage(TrainingSettings, LoraSettings, SourceSettings):
    """Train a LoRA adapter."""

    method: Literal["lora"] = "lora"
    """A weight-space adapter."""


class ReftStage(TrainingSettings, OrthogonalSettings, ReftSettings, SourceSettings):
    """Train a ReFT adapter."""

    method: Literal["reft"] = "reft"
    """A representation-space adapter."""


class JointStage(TrainingSettings):
    """Train a LoRA and a ReFT adapter together, in one stage."""

    method: Literal["joint"] = "joint"
    """Both adapters at once: a baseline for training in stages."""
    lora: LoraSettings = LoraSettings()
    """The weight-space adapter."""
    reft: ReftSettings = ReftSettings()
    """The representation-space adapter."""
    reft_learning_rate: float | None = Field(default=None, gt=0)
    """Learning rate of the ReFT weights; null means learning_rate, or, where that is auto, what auto is for ReFT."""


Stage = Annotated[LoraStage | ReftStage | JointStage, Field(discriminator="method")]
KINDS = {"lora": LoraStage, "reft": ReftStage}
"""Stages that train one adapter, by method."""


def _check_stage_name(value: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", value) or value == "base":
        raise ValueError(
            "a stage's name is up to 64 lower-case letters, digits and _, starts with a letter and is not 'base'; got"
            f" {value!r}"
        )
    return value


class EvaluationSettings(Settings):
    """How the model is evaluated, after each stage and on the task's evaluation split."""

    batch_size: int = Field(default=16, ge=1)
    """Examples per forward pass."""
    normalize: Literal["none", "tokens", "bytes"] = "none"
    """Length normalization of a choice's log-likelihood: none, per token, or per UTF-8 byte, the space before it
    counted (lm-eval: `acc_bytes`, without that space)."""
    share_prefix: bool = True
    """Compute the shared prefix of a question's choices, and of questions on one passage, once; and once for the
    evaluations of a run what stages of last positions leave as it is. Same result, faster."""
    fused: bool = True
    """Multiply by frozen weights in oneDNN where MKL leaves AVX-512 unused (float32 on a CPU that is not Intel's), as a
    stage's `fused` does in training: the same to rounding, faster."""


class EvaluationRequest(Settings):
    """The settings of `heft eval`: the part of a recipe that it needs."""

    model: ModelSettings = ModelSettings()
    """The base model."""
    task: AnyTask
    """The task: data source, prompt format, splits."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """How the model is evaluated."""


class ModelRequest(Settings):
    """The settings of `heft eval --harness`: what is left of an `EvaluationRequest` where another program asks."""

    model: ModelSettings = ModelSettings()
    """The base model."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """How the model is evaluated."""


def _generates(task: str) -> bool:
    return task in TASKS and TASKS[task].generates


class Recipe(Settings):
    """The settings of a run."""

    name: FileName
    """Name of the run: letters, digits, `.`, `_` and `-`."""
    model: ModelSettings = ModelSettings()
    """The base model, which stays frozen."""
    task: AnyTask
    """The task: data source, prompt format, splits."""
    stages: dict[Annotated[str, AfterValidator(_check_stage_name)], Stage] = Field(min_length=1)
    """The adapters, trained in this order, each on top of those before it."""
    evaluation: EvaluationSettings = EvaluationSettings()
    """How the model is evaluated."""
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    """Seed of the initial weights, of dropout and of the order of rows."""
    output: PathOrId | None = Field(default=None, min_length=1)
    """Directory that the run writes; null means `runs/<name>`."""
    checkpoint: CheckpointSettings = CheckpointSettings()
    """Checkpointing of a run in progress."""
    distributed: Literal["auto", "ddp", "fsdp2"] = "auto"
    """How several processes train (torchrun, accelerate launch): `ddp`, each with the whole model, or `fsdp2`, each
    with a slice of it, for a model too large for one device; `auto` is ddp, unless accelerate is configured for FSDP.
    Without effect in one process (docs/scale.md)."""
    trackers: Annotated[list[Literal["tensorboard", "trackio", "wandb", "mlflow"]], Distinct] = Field(default=[])
    """Trackers that hear of losses, learning rates, gradient norms and evaluations (`report_to`); each needs its
    package. docs/trackers.md says what each gets and where it goes."""
    allow: Annotated[list[CheckName], Distinct] = Field(default=[])
    """Pre-training checks to turn from errors into notes; docs/checks.md says what each of them finds."""
    sweep: SweepSettings | None = None
    """What `heft sweep` varies in the last stage; `heft train` refuses a recipe that has it."""
    tune: TuneSettings | None = None
    """What `heft tune` compares and tries; the stages give what all its trials have in common. null takes the
    defaults."""

    @field_validator("evaluation")
    @classmethod
    def _there_are_choices_to_normalize(cls, value: EvaluationSettings, info: ValidationInfo) -> EvaluationSettings:
        if value.normalize != "none" and "task" in info.data and _generates(info.data["task"].name):
            text = f"{info.data['task'].name} has no choices, its answers are generated; use normalize: none"
            raise value_error(text, below=("normalize",))
        return value

    @field_validator("stages")
    @classmethod
    def _inits_fit_the_weights(cls, stages: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        quantization = info.data["model"].quantization if "model" in info.data else None
        for name, stage in stages.items() if quantization else ():
            lora, path = (stage.lora, (name, "lora", "init")) if stage.method == "joint" else (stage, (name, "init"))
            if getattr(lora, "init", "").startswith(INITS_OF_WEIGHTS):
                text = f"{lora.init} needs unquantized weights; use init: default or model.quantization: null"
                raise value_error(text, below=path)
        return stages

    @field_validator("stages")
    @classmethod
    def _orthogonal_to_earlier_lora(cls, stages: dict[str, Any]) -> dict[str, Any]:
        for name, stage in stages.items():
            fault = stage_fault(name, stages, getattr(stage, "orthogonal_to", None))
            if fault is not None:
                raise value_error(fault, below=(name, "orthogonal_to"))
        return stages

    @field_validator("sweep")
    @classmethod
    def _every_combination_is_a_stage(cls, value: SweepSettings | None, info: ValidationInfo) -> SweepSettings | None:
        return check_sweep(value, info.data["stages"]) if value is not None and "stages" in info.data else value

    @field_validator("tune")
    @classmethod
    def _every_value_fits_a_stage(cls, value: TuneSettings | None, info: ValidationInfo) -> TuneSettings | None:
        return check_tune(value, info.data["stages"], KINDS) if value is not None and "stages" in info.data else value

    @property
    def output_dir(self) -> Path:
        """The directory that the run writes."""
        return output_directory(self.output, self.name)

    @property
    def holdout_seed(self) -> int:
        """Seed of which rows stages hold out for validation: the same for all, so that equal holdouts are equal rows,
        and no stage is validated on rows that one before it has trained on."""
        return self.seed

    def stage_seed(self, stage: str) -> int:
        """Seed of a stage's initial weights, dropout and order of rows, below 2**32: its own, or one that follows from
        its place."""
        own = self.stages[stage].seed
        return (self.seed + list(self.stages).index(stage)) % 2**32 if own is None else own
