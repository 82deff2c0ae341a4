"""What `heft.load` gives, used as people use models: saved again, trained on, a further adapter put on top.

The model is a plain transformers model that carries PEFT's layers, of which transformers' own `save_pretrained` would
write a checkpoint that nothing reads, and on which PEFT's injection of a further LoRA would switch earlier ones off.
"""

import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heft.adapters.attach import activate, train_only
from heft.adapters.directory import PEFT_PREFIX, adapter_tensors, save, save_config, stored_config
from heft.adapters.manifest import AdapterEntry, AdapterManifest, read_manifest
from heft.adapters.safety import CONFIG, adapter_paths, config_faults, is_folder_name, method_name, read_config
from heft.alora import ActivatedLoraConfig
from heft.errors import HeftError
from heft.reft.config import ReftConfig
from heft.settings.words import in_one_line
from heft.storage.atomic import readable_os_errors
from heft.storage.reading import read_json

_STAGING = ".heft.partial"


class AttachedAdapters(dict):
    """The `peft_config` of a loaded model: PEFT adds to it when it attaches a further adapter.

    ReFT keeps those that are active (heft.reft.model); PEFT's other methods do not, and are sent to `heft.stack`.
    """

    def update(self, others: dict[str, PeftConfig]) -> None:
        """Add adapters.

        Raises:
            HeftError: they are none of ReFT.
        """
        for name, config in others.items():
            self[name] = config

    def __setitem__(self, name: str, config: PeftConfig) -> None:
        if not isinstance(config, ReftConfig):
            raise HeftError(
                f"attaching the {config.peft_type.value} adapter {name!r} in this way would switch off those that"
                f" heft.load attached: call heft.stack(model, config, {name!r}), which freezes them and leaves them on"
            )
        super().__setitem__(name, config)

    def __reduce__(self):
        return AttachedAdapters, (dict(self),)


class NoSuchAdapter(HeftError, KeyError):
    """An adapter is asked for that a loaded model does not carry."""

    __str__ = Exception.__str__


class TrainedOnAdapters(dict):
    """The `peft_config` of a loaded model of which some is to train: TRL looks in it for its own adapter's name."""

    def __missing__(self, name: str) -> PeftConfig:
        raise NoSuchAdapter(
            f"there is no adapter named {name!r}; the model carries {', '.join(self)}. TRL copies one of the name"
            " 'default' as its reference, beside which no other may be active: give DPOTrainer"
            " ref_model=heft.load(DIR)[0], and GRPOTrainer beta=0 (docs/trl.md)"
        )


class DirectoryWriter:
    """Stands for `save_pretrained` of a loaded model: writes an adapter directory, which `heft.load` reads."""

    def __init__(self, model: PreTrainedModel, manifest: AdapterManifest, tokenizer: PreTrainedTokenizerBase | None):
        self._model, self.manifest, self.tokenizer = model, manifest, tokenizer

    def __call__(
        self, save_directory: str | Path, is_main_process: bool = True, state_dict: dict | None = None, **options: Any
    ) -> None:
        """Write `heft.json` and a folder for each adapter; other files of the directory stay.

        Args:
            save_directory: made if it is not there.
            is_main_process: other processes write nothing.
            state_dict: the model's tensors, where its own are shards.
            options: none; those of transformers and PEFT have no meaning here.

        Raises:
            HeftError: an option is set, an adapter is switched off, sharded or would not be read back, or nothing can
                be written there.
        """
        unsupported = sorted(name for name, value in options.items() if value)
        if unsupported:
            raise HeftError(
                f"a model from heft.load is saved as an adapter directory, which takes no {', '.join(unsupported)}:"
                " leave that out, and use the written folder (`heft push` sends one to the Hub)"
            )
        self._require_active()
        if state_dict is None and any(hasattr(p, "full_tensor") for p in self._model.parameters()):
            raise HeftError(
                "the model's parameters are shards (FSDP2), and no process has the whole: pass state_dict=..., from"
                " torch.distributed.checkpoint.state_dict.get_model_state_dict with full_state_dict=True"
            )
        if is_main_process:
            self._write(Path(save_directory), state_dict)

    def _write(self, directory: Path, state_dict: dict | None) -> None:
        if state_dict is not None:
            state_dict = {key.removeprefix(PEFT_PREFIX): value for key, value in state_dict.items()}
        staging = directory / _STAGING
        with readable_os_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(staging, ignore_errors=True)  # of a save that was cut off
        save(staging, self._model, self._whole_manifest(), state_dict)
        try:
            for entry in read_manifest(staging).adapters:
                read_config(adapter_paths(staging / entry.name)[0])
            for written in sorted(staging.iterdir(), key=lambda path: path.name == "heft.json"):
                place = directory / written.name
                if place.is_dir():
                    shutil.rmtree(place)
                os.replace(written, place)
        finally:
            shutil.rmtree(staging)

    def _whole_manifest(self) -> AdapterManifest:
        """With adapters that were attached after loading, as stages of their own."""
        known = {entry.name for entry in self.manifest.adapters}
        added = [
            AdapterEntry(name=name, method=method_name(config), stage=name)
            for name, config in self._model.peft_config.items()
            if name not in known
        ]
        return self.manifest.model_copy(update={"adapters": [*self.manifest.adapters, *added]})

    def _require_active(self) -> None:
        off = set()
        for layer in self._model.modules():
            if isinstance(layer, BaseTunerLayer):
                active = [] if layer.disable_adapters else layer.active_adapters
                off |= set(layer._all_available_adapter_names()) - set(active)
        if off:
            raise HeftError(
                f"adapters {', '.join(sorted(off))} are switched off, and heft.load would switch them on: activate"
                " them before saving, or take them off"
            )


def origin_of(model: Any) -> DirectoryWriter | None:
    """The manifest and the tokenizer that a model from `heft.load` came with; None for any other model."""
    found = vars(model).get("save_pretrained")
    return found if isinstance(found, DirectoryWriter) else None


def prepare(
    model: PreTrainedModel,
    manifest: AdapterManifest,
    trainable: str | Sequence[str],
    tokenizer: PreTrainedTokenizerBase | None = None,
):
    """A loaded model for people: it saves itself, and is a `PeftModel` where some of it is to train.

    `trainable` names adapters or stages of the manifest, which are attached.

    Raises:
        HeftError: no adapter or stage has such a name.
    """
    wanted = [trainable] if isinstance(trainable, str) else list(trainable)
    names = [entry.name for entry in manifest.adapters if entry.name in wanted or entry.stage in wanted]
    there_are = {name for entry in manifest.adapters for name in (entry.name, entry.stage)}
    unknown = [name for name in wanted if name not in there_are]
    if unknown:
        raise HeftError(f"trainable names {unknown[0]!r}; the directory has {', '.join(sorted(there_are))}")
    model.save_pretrained = DirectoryWriter(model, manifest, tokenizer)
    if not names:
        model.peft_config = AttachedAdapters(model.peft_config)
        return model
    order = list(model.peft_config)
    wrapped = _wrapped_around(model, names[-1])
    activate(model, order)
    train_only(model, names)
    model.peft_config = wrapped.peft_config = TrainedOnAdapters(wrapped.peft_config)
    return wrapped


def stack(model: PreTrainedModel | PeftModel, config: PeftConfig, adapter_name: str = "default") -> PeftModel:
    """Put a further adapter on a model that carries some: those are frozen and stay active, and the new one trains.

    Args:
        model: such as `heft.load` gives; any transformers model, or the `PeftModel` around one.
        config: of any PEFT method; LoRA, with positions or without, or ReFT on a model that `heft.load` gives.
        adapter_name: of the new adapter; on such a model also the name of its folder.

    Returns:
        A `PeftModel`, as trainers of other libraries take it. If the model is from `heft.load`, its `save_pretrained`
        writes an adapter directory.

    Raises:
        HeftError: the model carries an adapter of that name, or is from `heft.load` and could not be saved with it.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    if origin_of(base) is not None:
        _require_storable(config, adapter_name)
    before = list(getattr(base, "peft_config", {}))
    if adapter_name in before:
        raise HeftError(f"the model carries an adapter named {adapter_name!r}; give the new one another adapter_name")
    wrapped = _peft_model(base, config, adapter_name)
    activate(base, [*before, adapter_name])
    train_only(base, [adapter_name])
    return wrapped.train(base.training)


def _require_storable(config: PeftConfig, name: str) -> None:
    """Require, before it is trained, that an adapter directory can hold an adapter."""
    if method_name(config) not in ("lora", "reft"):
        raise HeftError(
            f"a model from heft.load is saved as an adapter directory, which holds adapters of LoRA and ReFT; got"
            f" {config.peft_type.value}: put that on a base that transformers loads (PeftModel.from_pretrained takes"
            " each folder of the directory)"
        )
    if not is_folder_name(name):
        raise HeftError(
            f"adapter_name is {name!r}, and a model from heft.load is saved with a folder for each adapter: give at"
            " most 100 letters, digits, '_' and '-'"
        )
    stored = stored_config(config)
    if getattr(stored, "target_modules", ()) in (None, "all-linear"):
        stored.target_modules = ["linear"]  # which modules these are is known once it is attached
    with tempfile.TemporaryDirectory() as folder:
        save_config(Path(folder), stored)
        values = read_json(Path(folder) / CONFIG)
    faults = config_faults(values.pop("peft_type"), values)
    if faults:
        raise HeftError(
            f"a model from heft.load is saved as an adapter directory, which cannot hold this: {in_one_line(faults)}"
        )


def _wrapped_around(model: PreTrainedModel, name: str) -> PeftModel:
    """A `PeftModel` of an adapter that is attached already: it is attached again, with its tensors."""
    tensors = {key: value.clone() for key, value in adapter_tensors(model, name).items()}
    config = model.peft_config[name]
    config.inference_mode = False
    if isinstance(config, ActivatedLoraConfig):
        config.invocation_tokens = None  # prompts that it is trained on may end with others
    for layer in model.modules():  # experts' parameters take no second adapter of a name
        if isinstance(layer, BaseTunerLayer):
            layer.delete_adapter(name)
    wrapped = _peft_model(model, config, name)
    set_peft_model_state_dict(model, tensors, adapter_name=name)
    return wrapped.train(model.training)


def _peft_model(model: PreTrainedModel, config: PeftConfig, name: str) -> PeftModel:
    if isinstance(getattr(model, "peft_config", None), AttachedAdapters):
        model.peft_config = dict(model.peft_config)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        warnings.filterwarnings("ignore", message="You are trying to modify a model with PEFT for a second time")
        wrapped = get_peft_model(model, config, adapter_name=name)
    if origin_of(model) is not None:
        wrapped.save_pretrained = model.save_pretrained
    return wrapped
