"""The files of an adapter folder, checked before anything is built from them: where they are and what they ask for.

An adapter directory may be a stranger's, so nothing in it is trusted: names cannot lead out of it, and configurations
hold only what heft itself writes and nothing that makes PEFT fetch, import, compute or match by a pattern. (Weights:
heft.adapters.weights.) Needs no torch, but for `read_config`.
"""

import os
import re
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator

from heft.edits.bounds import Alpha, Rank
from heft.edits.settings import ReftSettings
from heft.errors import HeftError
from heft.settings.base import Settings
from heft.settings.words import KeyPath, faults_of, in_one_line, show
from heft.storage.reading import is_dir, is_file, read_json

if TYPE_CHECKING:
    from peft import PeftConfig

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_MOST_NAMES = 10_000
_LONGEST_NAME = 200
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_ON_PARAMETERS = r".*\."
"""How PEFT begins the pattern of a rank or alpha that it gives to experts' weights, which are parameters."""
_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")
_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}")


def is_folder_name(name: str) -> bool:
    """Whether an adapter can have this name, which is that of its folder too."""
    return _FOLDER.fullmatch(name) is not None


def adapter_folder(directory: Path, name: str) -> Path:
    """The folder of an adapter, which lies in the directory, links followed; it may be missing.

    Raises:
        HeftError: the name is not a plain name, or is a link that leads out.
    """
    if not is_folder_name(name):
        raise HeftError(
            f"{directory / 'heft.json'} names an adapter {name[:80]!r}; expected at most 100 letters, digits, '_' and"
            " '-', since it is a folder beside heft.json. Do not use this directory unless you know who made it"
        )
    folder = directory / name
    if os.path.lexists(folder):
        require_inside(directory, folder)
    return folder


def adapter_paths(folder: Path) -> tuple[Path, Path]:
    """The configuration and the weights of an adapter folder, which lie in it, links followed.

    Raises:
        HeftError: one is missing, or a link that leads out.
    """
    missing = [name for name in (CONFIG, WEIGHTS) if not is_file(folder / name)]
    if missing:
        pickles = sorted(p.name for p in folder.glob("*") if p.suffix in _PICKLES) if is_dir(folder) else []
        advice = (
            f" and has {', '.join(pickles[:5])}: such a file can run any code when it is opened, so heft never does;"
            " ask for the adapter as safetensors"
        )
        raise HeftError(f"{folder} lacks {', '.join(missing)}{advice if pickles else ''}")
    for name in (CONFIG, WEIGHTS):
        require_inside(folder, folder / name)
    return folder / CONFIG, folder / WEIGHTS


def require_inside(folder: Path, path: Path) -> None:
    """Check that a path lies in a folder, links followed.

    Raises:
        HeftError: it does not.
    """
    try:
        is_inside = path.resolve(strict=True).is_relative_to(folder.resolve(strict=True))
    except (OSError, RuntimeError):  # RuntimeError: links in a circle
        is_inside = False
    if not is_inside:
        raise HeftError(f"{path} is a link that leads out of {folder}; put the file or folder itself there")


def read_config(path: Path) -> "PeftConfig":
    """The configuration of a saved adapter; keys that heft does not use must have PEFT's default, or null.

    Raises:
        HeftError: it cannot be read, is of another method than LoRA, LoRA with positions and ReFT, or asks for
            something that heft does not write; all faults are named.
    """
    values = read_json(path)
    method = values.pop("peft_type", None)
    if method not in ("LORA", "ACTIVATED_LORA", "REFT"):
        raise HeftError(f"{path}: peft_type is {show(method)}; heft reads adapters of LORA, ACTIVATED_LORA and REFT")
    from heft.alora import ActivatedLoraConfig
    from heft.reft.config import ReftConfig

    make = {"LORA": lora_of, "ACTIVATED_LORA": ActivatedLoraConfig, "REFT": ReftConfig}[method]
    faults = config_faults(method, values)
    if faults:
        raise HeftError(f"{path} is not as heft writes it; save the adapter again: {in_one_line(faults)}")
    try:
        return make(**{key: value for key, value in values.items() if key in _FIELDS[method].model_fields})
    except (ValueError, TypeError) as error:
        raise HeftError(f"{path}: {error}") from None


def config_faults(method: str, values: dict[str, Any]) -> dict[KeyPath, str]:
    """What an adapter's configuration says that heft does not write.

    Args:
        method: PEFT's `peft_type`: LORA, ACTIVATED_LORA or REFT.
        values: the rest of adapter_config.json.
    """
    from peft import LoraConfig

    from heft.reft.config import ReftConfig

    allowed, blank = _FIELDS[method], ReftConfig() if method == "REFT" else LoraConfig()
    used = {key: value for key, value in values.items() if key in allowed.model_fields}
    faults = _faults_of_others({key: value for key, value in values.items() if key not in used}, blank)
    try:
        allowed.model_validate(used, strict=True)
    except ValidationError as error:
        faults |= faults_of(error, allowed)
    return faults


def read_reft(path: Path) -> ReftSettings:
    """What the configuration of a saved ReFT adapter sets, read without PEFT.

    Raises:
        HeftError: it cannot be read, or says something that heft does not write; all faults are named.
    """
    values = {key: value for key, value in read_json(path).items() if value is not None or key in _Reft.model_fields}
    if values.pop("peft_type", None) != "REFT":
        raise HeftError(f"{path}: peft_type is not REFT")
    try:
        found = _Reft.model_validate(values, strict=True)
    except ValidationError as error:
        raise HeftError(
            f"{path} is not as heft writes it; save the adapter again: {in_one_line(faults_of(error, _Reft))}"
        ) from None
    return ReftSettings(**{key: getattr(found, key) for key in ReftSettings.model_fields})


def lora_of(**values: Any) -> "PeftConfig":
    """A LoRA configuration from values of `LoraFields`; PEFT's aLoRA is read as LoRA with positions.

    PEFT looks for the last place of its n invocation tokens in a row; heft wrote them where every prompt ends with
    them, so that the adapter acts on a prompt's last n tokens and all later ones.
    """
    from peft import LoraConfig

    from heft.alora import ActivatedLoraConfig

    tokens = values.pop("alora_invocation_tokens", None)
    if tokens is None:
        return LoraConfig(**values)
    return ActivatedLoraConfig(**values, positions=f"l{len(tokens)}+", invocation_tokens=tokens)


def method_name(config: "PeftConfig") -> str:
    """An adapter's method as heft.json and tables have it."""
    name = config.peft_type.value.lower()
    return "lora" if name == "activated_lora" else name


def _faults_of_others(values: dict[str, Any], blank: "PeftConfig") -> dict[KeyPath, str]:
    """Keys that PEFT does not know, or whose value would have an effect; null has none, whatever a later PEFT means."""
    faults: dict[KeyPath, str] = {}
    for key, value in values.items():
        if value is not None and not any(key == known.name for known in fields(blank)):
            faults[key,] = "unknown key"
        elif value is not None and value != getattr(blank, key):
            faults[key,] = f"expected {show(getattr(blank, key))}, which heft leaves it at; got {show(value)}"
    return faults


def is_plain_name(value: str) -> bool:
    """Whether this is the name of a module or, as PEFT writes it, of a parameter; no pattern can hide in one."""
    return bool(_NAME.fullmatch(value.removeprefix(_ON_PARAMETERS))) and len(value) <= _LONGEST_NAME


def _plain_name(value: str) -> str:
    if not is_plain_name(value):
        raise ValueError(f"expected the name of a module, no pattern; got {show(value)}")
    return value


def _distinct(value: list[int]) -> list[int]:
    if len(set(value)) < len(value):
        raise ValueError("an entry is repeated")
    return value


Text = Annotated[str, Field(max_length=4096)] | None
Name = Annotated[str, AfterValidator(_plain_name)]
Names = Annotated[list[Name], Field(max_length=_MOST_NAMES)]
Index = Annotated[int, Field(ge=0, lt=2**31)]


class _Common(Settings):
    task_type: Literal["CAUSAL_LM"] | None = None
    base_model_name_or_path: Text = None
    revision: Text = None
    peft_version: Text = None
    inference_mode: bool = False


class LoraFields(_Common):
    """What heft uses of PEFT's LoraConfig."""

    r: Rank = 8
    lora_alpha: Alpha = 8
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    target_parameters: Names | None = None
    target_modules: Names = []
    exclude_modules: Names | None = None
    layers_to_transform: Annotated[list[Index], Field(max_length=_MOST_NAMES)] | None = None
    rank_pattern: dict[Name, Rank] = Field(default={}, max_length=_MOST_NAMES)
    alpha_pattern: dict[Name, Alpha] = Field(default={}, max_length=_MOST_NAMES)
    init_lora_weights: bool | Literal["gaussian", "orthogonal"] = True
    trainable_token_indices: (
        Annotated[list[Index], Field(min_length=1, max_length=_MOST_NAMES), AfterValidator(_distinct)] | None
    ) = None
    alora_invocation_tokens: Annotated[list[Index], Field(min_length=1, max_length=_MOST_NAMES)] | None = None
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False

    @field_validator("target_modules")
    @classmethod
    def _something_is_adapted(cls, value: list[str], info: ValidationInfo) -> list[str]:
        if not value and not info.data.get("target_parameters"):
            raise ValueError("names no module, and there are no target_parameters: nothing would be adapted")
        return value


class _ActivatedLora(LoraFields):
    """LoRA with positions."""

    positions: Annotated[str, Field(max_length=20)] = "l1+"
    invocation_tokens: Annotated[list[Index], Field(min_length=1, max_length=_MOST_NAMES)] | None = None


class _Reft(_Common, ReftSettings):
    """The settings of ReFT, but no sizes that no model has."""

    layers: Literal["all"] | Annotated[list[int], Field(max_length=_MOST_NAMES)] = "all"
    positions: Annotated[str, Field(max_length=20)] = "f1+l1"


_FIELDS: dict[str, type[Settings]] = {"LORA": LoraFields, "ACTIVATED_LORA": _ActivatedLora, "REFT": _Reft}
"""What configurations have that heft writes, by PEFT's `peft_type`."""
