"""The files of an adapter folder, looked at before anything is built from them: where they are and what they ask for.

An adapter directory may be a stranger's, so nothing in it is believed: names cannot lead out of it, and configurations
hold only what heft itself writes and nothing that makes PEFT fetch, import, compute or match by a pattern. (Weights:
heft.adapters.weights.) Needs no torch, but for `read_config`.
"""

import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heft.errors import HeftError
from heft.storage.reading import is_dir, is_file, read_json

if TYPE_CHECKING:
    from peft import PeftConfig

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_MOST_SHOWN = 10
_MOST_RANK = 2**20
_MOST_NAMES = 10_000
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_ON_PARAMETERS = r".*\."
"""How PEFT begins the pattern of a rank or alpha that it gives to experts' weights, which are parameters."""
_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")


def adapter_folder(directory: Path, name: str) -> Path:
    """The folder of an adapter, which lies in the directory, links followed; it may be missing.

    Raises:
        HeftError: the name is no plain name, or a link that leads out.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,99}", name):
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
    """See that a path lies in a folder, links followed.

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
    """The configuration of a saved adapter, of which only what heft writes is taken.

    Raises:
        HeftError: it cannot be read, is of another method than LoRA and ReFT, or asks for something else than they do;
            all faults are named.
    """
    values = read_json(path)
    method = values.get("peft_type")
    if method not in ("LORA", "REFT"):
        raise HeftError(f"{path}: peft_type is {_shown(method)}; heft reads adapters of LORA and REFT")
    faults, kept = _checked(values, method)
    if faults:
        more = [f"… and {len(faults) - _MOST_SHOWN} more"] if len(faults) > _MOST_SHOWN else []
        shown = "\n  ".join([*faults[:_MOST_SHOWN], *more])
        raise HeftError(f"{path} is not as heft writes it; save the adapter again, or ask who made it:\n  {shown}")
    from peft import LoraConfig

    from heft.reft.config import ReftConfig

    try:
        return (LoraConfig if method == "LORA" else ReftConfig)(**kept)
    except (ValueError, TypeError) as error:
        raise HeftError(f"{path}: {error}") from None


def _checked(values: Mapping[str, Any], method: str) -> tuple[list[str], dict[str, Any]]:
    """What is wrong with a configuration, and what of it is used; the rest has no effect and is left behind."""
    from peft import LoraConfig

    from heft.reft.config import ReftConfig

    checks = {**_COMMON, **(_LORA if method == "LORA" else _REFT)}
    blank = (LoraConfig if method == "LORA" else ReftConfig)()
    defaults = {field.name: getattr(blank, field.name) for field in fields(blank)}
    faults, kept = [], {}
    for key, value in values.items():
        if key == "peft_type":
            continue
        if key in checks:
            holds, words = checks[key]
            kept[key] = value
            if not holds(value):
                faults.append(f"{key} must be {words}; got {_shown(value)}")
        elif value is not None and key not in defaults:
            faults.append(f"unknown key {_shown(key)}")
        elif value is not None and value != defaults[key]:
            faults.append(f"{key} must be {_shown(defaults[key])}, which heft leaves it at; got {_shown(value)}")
    return faults, kept


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_rank(value: Any) -> bool:
    return _is_int(value) and 1 <= value <= _MOST_RANK


def _is_alpha(value: Any) -> bool:
    return _is_number(value) and 0 < value <= 1e9


def _are_names(value: Any) -> bool:
    """Whether these are names of modules, at most so many; no pattern can hide in one."""
    if not isinstance(value, list | dict) or len(value) > _MOST_NAMES:
        return False
    return all(isinstance(name, str) and len(name) < 200 and _NAME.fullmatch(name) for name in value)


def _are_places(value: Any) -> bool:
    """Whether the keys are names of modules, or of parameters as PEFT writes them."""
    return isinstance(value, dict) and _are_names([str(key).removeprefix(_ON_PARAMETERS) for key in value])


def _are_layers(value: Any) -> bool:
    return isinstance(value, list) and len(value) <= _MOST_NAMES and all(_is_int(i) and 0 <= i < 2**31 for i in value)


def _is_word(value: Any) -> bool:
    return value is None or (isinstance(value, str) and len(value) <= 4096)


_FLAG = (lambda value: isinstance(value, bool), "true or false")
_WORD = (_is_word, "text or null")
_COMMON = {
    "task_type": (lambda value: value in (None, "CAUSAL_LM"), "CAUSAL_LM"),
    "base_model_name_or_path": _WORD,
    "revision": _WORD,
    "peft_version": _WORD,
    "inference_mode": _FLAG,
}
_LORA = {
    "r": (_is_rank, f"a whole number from 1 to {_MOST_RANK:,}"),
    "lora_alpha": (_is_alpha, "a number above 0"),
    "lora_dropout": (lambda value: _is_number(value) and 0 <= value < 1, "a number from 0 to below 1"),
    "target_modules": (
        lambda value: isinstance(value, list) and value and _are_names(value),
        "a list of names of modules, no pattern",
    ),
    "target_parameters": (
        lambda value: value is None or (isinstance(value, list) and _are_names(value)),
        "null or a list of names of parameters, no pattern",
    ),
    "exclude_modules": (
        lambda value: value is None or (isinstance(value, list) and _are_names(value)),
        "null or a list of names of modules, no pattern",
    ),
    "layers_to_transform": (lambda value: value is None or _are_layers(value), "null or a list of layer numbers"),
    "rank_pattern": (
        lambda value: _are_places(value) and all(map(_is_rank, value.values())),
        "a mapping from names of modules, no patterns, to ranks",
    ),
    "alpha_pattern": (
        lambda value: _are_places(value) and all(map(_is_alpha, value.values())),
        "a mapping from names of modules, no patterns, to numbers above 0",
    ),
    "init_lora_weights": (
        lambda value: isinstance(value, bool) or value in ("gaussian", "orthogonal"),
        "true, false, gaussian or orthogonal",
    ),
    "trainable_token_indices": (
        lambda value: value is None or (_are_layers(value) and value and len(set(value)) == len(value)),
        "null or a list of distinct token ids",
    ),
    "use_rslora": _FLAG,
    "use_dora": _FLAG,
    "fan_in_fan_out": _FLAG,
}
_ANYTHING = (lambda value: True, "")
_REFT = {  # ReftConfig checks all of them; here, sizes that no model has
    **dict.fromkeys(("intervention", "site", "tied", "activation", "dropout"), _ANYTHING),
    "rank": (lambda value: not _is_int(value) or value <= _MOST_RANK, f"at most {_MOST_RANK:,}"),
    "layers": (lambda value: not isinstance(value, list) or len(value) <= _MOST_NAMES, f"at most {_MOST_NAMES:,}"),
    "positions": (lambda value: not isinstance(value, str) or not re.search(r"\d{9}", value), "of fewer tokens"),
}


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}…"
