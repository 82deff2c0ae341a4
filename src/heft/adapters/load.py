"""`heft.load`: the adapted model of an adapter directory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heft.adapters.directory import Loaded, open_adapters
from heft.adapters.loaded import prepare
from heft.adapters.manifest import base_settings, read_manifest
from heft.adapters.places import adapter_directory
from heft.errors import HeftError
from heft.models.chat import ChatTemplate
from heft.models.endings import end_tokens
from heft.models.fingerprints import fingerprint
from heft.models.load import Base, load_tokenizer, require_usable
from heft.models.source import local_folder
from heft.recipe.model import ModelSettings


def load(
    directory: str | Path,
    model: PreTrainedModel | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    trainable: str | Sequence[str] = (),
    base: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> tuple[PreTrainedModel | PeftModel, PreTrainedTokenizerBase]:
    """The adapted model and its tokenizer, equal to the bit to what was trained.

    Args:
        directory: of a run, such as `runs/quickstart`, or its adapter directory.
        model: the base model, if it is loaded already; None loads the one that the directory names.
        device: "cpu", "cuda" or "mps", of a base that is loaded here; None takes the recipe's.
        trust_remote_code: whether code that comes with the base model may run, where the directory asks for it.
        trainable: adapters, or stages, to be trained on, in a Trainer or in TRL's; the others are frozen.
        base: folder or Hub id of the base model, where it is not where the directory says.
        tokenizer: of the base model, where it is loaded already; goes with `model`, and is set to pad on the left.

    Returns:
        A transformers model with the adapters attached, frozen and active, and a tokenizer that pads on the left. With
        `trainable` the model is a `PeftModel`, which TRL's trainers ask for. `save_pretrained` of either, which
        `Trainer.save_model` calls, writes an adapter directory.

    Raises:
        HeftError: the directory cannot be read, asks to run a model's code without leave, the base is not the one
            that the adapters were trained on, or carries adapters, `trainable` names what is not there, or an argument
            has no effect beside the others.
    """
    directory = adapter_directory(directory)
    _require_effects(model, device, tokenizer)
    if model is None:
        loaded = open_adapters(directory, device=device, trust_remote_code=trust_remote_code, base_name=base)
    else:
        settings, tokenizer = _with_tokenizer(directory, model, trust_remote_code, base, tokenizer)
        loaded = open_adapters(directory, Base(model, tokenizer, settings, fingerprint(model)))
    end_as_trained(loaded)
    return prepare(loaded.model, loaded.manifest, trainable, loaded.tokenizer), loaded.tokenizer


def _require_effects(model: Any, device: str | None, tokenizer: PreTrainedTokenizerBase | None) -> None:
    if model is None:
        if tokenizer is not None:
            raise HeftError("heft.load takes a tokenizer beside a model only (model=...), and loads it with the model")
        return
    if device is not None:
        raise HeftError(
            f"a model that is given stays where it is; got device {device!r}: move it, model.to({device!r})"
        )
    carried = list(getattr(model, "peft_config", ()))
    if carried:
        raise HeftError(
            f"the model given carries the adapters {', '.join(carried)}, and heft.load attaches those of a directory to"
            " the base alone: give the model as transformers loads it"
        )
    if not isinstance(model, PreTrainedModel):
        raise HeftError(f"model is a {type(model).__name__}; expected the base, as transformers loads it")


def end_as_trained(loaded: Loaded) -> None:
    """Let the model's own generation end at the token that answers were trained to end with, where it would not."""
    tokenizer, config = loaded.tokenizer, loaded.model.generation_config
    if loaded.manifest.task.get("chat_template") is not True or not getattr(tokenizer, "chat_template", None):
        return
    end, known = ChatTemplate(tokenizer).end, end_tokens(tokenizer, config)
    if end is not None and end not in known:
        config.eos_token_id = [*known, end]


def _with_tokenizer(
    directory: Path,
    model: PreTrainedModel,
    trust_remote_code: bool,
    base: str | None,
    tokenizer: PreTrainedTokenizerBase | None,
) -> tuple[ModelSettings, PreTrainedTokenizerBase]:
    """Settings and tokenizer that go with a model that is loaded already.

    The tokenizer is the one given, else that of `base`, else that of the base that the directory names, and where that
    cannot be loaded, that of the folder that the model itself was loaded from.
    """
    manifest = read_manifest(directory)
    if tokenizer is not None:
        require_usable(tokenizer, model)
        tokenizer.padding_side = "left"
        return manifest.model, tokenizer
    own = local_folder(model.name_or_path)
    try:
        settings = base_settings(directory, manifest, trust_remote_code, base)
        return settings, load_tokenizer(settings)
    except HeftError:
        if base is not None or own is None:
            raise
    settings = base_settings(directory, manifest, trust_remote_code, str(own))
    return settings, load_tokenizer(settings)
