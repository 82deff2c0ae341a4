"""What `heft.load` gives, used as people use models: saved again and trained on (stacked upon: heft.adapters.stacking).

The model is a plain transformers model that carries PEFT's layers, of which transformers' own `save_pretrained` would
write a checkpoint that nothing reads, and on which PEFT's injection of a further LoRA would switch earlier ones off.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import TrainableTokensWrapper
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heft.adapters.attach import activate, train_only
from heft.adapters.directory import PEFT_PREFIX, adapter_tensors, save, set_adapter_tensors
from heft.adapters.manifest import AdapterEntry, AdapterManifest, read_manifest
from heft.adapters.replacing import replace_files
from heft.adapters.safety import adapter_paths, method_name, read_config
from heft.alora import ActivatedLoraConfig
from heft.errors import HeftError
from heft.reft.config import ReftConfig
from heft.storage.atomic import readable_os_errors


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
        """Write `heft.json` and a folder for each adapter, all of them or none; other files of the directory stay.

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

        def write(folder: Path) -> None:
            save(folder, self._model, self._whole_manifest(), state_dict)
            for entry in read_manifest(folder).adapters:
                read_config(adapter_paths(folder / entry.name)[0])

        with readable_os_errors(directory):
            directory.mkdir(parents=True, exist_ok=True)
        replace_files(directory, write)

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
        elif isinstance(layer, TrainableTokensWrapper):
            layer.delete_adapter(name, None)
    wrapped = peft_model(model, config, name)
    set_adapter_tensors(model, name, tensors)
    return wrapped.train(model.training)


def peft_model(model: PreTrainedModel, config: PeftConfig, name: str) -> PeftModel:
    """PEFT's own model with a further adapter, which writes an adapter directory where the model within does."""
    if isinstance(getattr(model, "peft_config", None), AttachedAdapters):
        model.peft_config = dict(model.peft_config)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config` attribute")
        warnings.filterwarnings("ignore", message="You are trying to modify a model with PEFT for a second time")
        wrapped = get_peft_model(model, config, adapter_name=name)
    if origin_of(model) is not None:
        wrapped.save_pretrained = model.save_pretrained
    return wrapped
