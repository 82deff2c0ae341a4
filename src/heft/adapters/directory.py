"""The adapter directory: `heft.json` and one folder in PEFT's format for each adapter.

    adapter/
      heft.json      which base, which adapters in which order, how prompts are made (heft.adapters.manifest)
      coarse/        adapter_config.json, adapter_model.safetensors
      fine/          likewise

Each folder loads alone with `PeftModel.from_pretrained(base, folder)`, a LoRA one without heft.
"""

import copy
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from heft.adapters.attach import DOES_NOT_FIT, activate, inject
from heft.adapters.lora_targets import adapted_names
from heft.adapters.manifest import AdapterManifest, base_settings, read_manifest
from heft.adapters.patterns import as_saved
from heft.adapters.safety import adapter_folder, adapter_paths, method_name, read_config
from heft.adapters.trainable_tokens import tokens_of
from heft.adapters.weights import read_shapes, require_fit
from heft.errors import HeftError
from heft.models.fingerprints import tokenizer_fingerprint
from heft.models.limits import limits_of
from heft.models.load import Base, load_base, without_weights
from heft.storage.atomic import atomic_folder, save_tensors, sha256_of

PEFT_PREFIX = "base_model.model."


def save(
    directory: Path,
    model: PreTrainedModel,
    manifest: AdapterManifest,
    state_dict: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write the manifest's adapters and `heft.json` to a new folder, which appears whole or not at all.

    Hashes of the manifest are filled in. `state_dict` has the model's tensors, where its own are shards.
    """
    with atomic_folder(directory) as partial:
        entries = []
        for entry in manifest.adapters:
            folder = partial / entry.name
            save_adapter(folder, model, entry.name, state_dict, manifest.model.revision)
            hashes = {path.name: sha256_of(path) for path in sorted(folder.iterdir())}
            entries.append(entry.model_copy(update={"sha256": hashes}))
        manifest = manifest.model_copy(update={"adapters": entries})
        (partial / "heft.json").write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")


def save_adapter(
    folder: Path,
    model: PreTrainedModel,
    name: str,
    state_dict: dict[str, torch.Tensor] | None = None,
    revision: str | None = None,
) -> None:
    """Write one adapter in PEFT's format; `state_dict` as for `save`.

    `revision` is of the base on the Hub; None for the one that the adapter's configuration has.
    """
    folder.mkdir()
    tensors = {key: value.contiguous() for key, value in adapter_tensors(model, name, state_dict).items()}
    save_tensors(tensors, folder / "adapter_model.safetensors")
    config = stored_config(model.peft_config[name])
    config.revision = revision or config.revision
    for field in ("rank_pattern", "alpha_pattern"):
        if getattr(config, field, None):
            setattr(config, field, as_saved(getattr(config, field), adapted_names(model, name)))
    save_config(folder, config)


def save_config(folder: Path, config: PeftConfig) -> None:
    """Write an adapter's configuration, which this changes, the same way in every process."""
    config.inference_mode = True
    for key, value in vars(config).items():
        if isinstance(value, set):  # of names, whose order is another in every process
            setattr(config, key, sorted(value))
    if not getattr(config, "target_parameters", True):
        config.target_parameters = None  # PEFT makes an empty set of it in mixture-of-experts models
    config.save_pretrained(str(folder))


def stored_config(config: PeftConfig) -> PeftConfig:
    """A copy of an adapter's configuration as it is saved.

    LoRA with positions whose prompts all end with the same tokens becomes PEFT's own aLoRA, which loads without heft.
    """
    values = config.to_dict()
    if getattr(config, "invocation_tokens", None):
        values |= {"peft_type": "LORA", "alora_invocation_tokens": values.pop("invocation_tokens")}
        del values["positions"]
    return PeftConfig.from_peft_type(**values)


def require_readable(directory: Path, model: PreTrainedModel) -> None:
    """Check that what `save` wrote can be read back: each adapter is known, has a place, and has its tensors there.

    Raises:
        HeftError: it is not, which is heft's own fault.
    """
    skeleton = without_weights(model)
    for entry in read_manifest(directory).adapters:
        _fitting(adapter_folder(directory, entry.name), entry.name, skeleton)


def stored_parameters(model: PreTrainedModel) -> int:
    """How many parameters `save` writes of the adapters that a model carries."""
    return sum(value.numel() for name in model.peft_config for value in adapter_tensors(model, name).values())


def adapter_tensors(
    model: PreTrainedModel, name: str, state_dict: dict[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """An adapter's tensors by their names in its file; `state_dict` as for `save`."""
    with tokens_of(model, name):
        tensors = get_peft_model_state_dict(model, state_dict, adapter_name=name, save_embedding_layers=False)
    return {PEFT_PREFIX + key: value for key, value in tensors.items()}


def set_adapter_tensors(model: PreTrainedModel, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give an attached adapter these tensors, by their names in its file."""
    own = {key.removeprefix(PEFT_PREFIX): value for key, value in tensors.items()}  # the model is no PeftModel
    with tokens_of(model, name):
        set_peft_model_state_dict(model, own, adapter_name=name)


@dataclass(frozen=True)
class Loaded:
    """An adapted model: `model` carries the adapters, frozen and active, in evaluation mode."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    manifest: AdapterManifest


def open_adapters(
    directory: str | Path,
    base: Base | None = None,
    device: str | None = None,
    trust_remote_code: bool = False,
    base_name: str | None = None,
    names: Collection[str] | None = None,
) -> Loaded:
    """Load the base that an adapter directory names, or take the one given, and attach its adapters.

    `base_name` is a folder or Hub id to load the base from, where it is not where the directory says; `names` are the
    adapters to attach, None for all.

    Raises:
        HeftError: the directory cannot be read, asks to run a model's code without leave, or the base model is another
            than the adapters were trained on, or its tokenizer.
    """
    directory = Path(directory)
    manifest = read_manifest(directory)
    if base is None:
        settings = base_settings(directory, manifest, trust_remote_code, base_name)
        base = load_base(settings if device is None else settings.model_copy(update={"device": device}))
    if base.fingerprint != manifest.base_fingerprint:
        raise HeftError(
            f"the adapters in {directory} were trained on {manifest.model.name} with fingerprint"
            f" {manifest.base_fingerprint}; the base model given has {base.fingerprint}: it is another model, or the"
            f" same with other settings in its config.json{_in_half(base.model)}"
        )
    expected = manifest.tokenizer_fingerprint
    if expected not in (None, tokenizer_fingerprint(base.tokenizer, manifest.task.get("chat_template") is True)):
        raise HeftError(
            f"the adapters in {directory} were trained with another tokenizer than the one of {base.settings.name}: its"
            " vocabulary, special tokens or chat template differ, so prompts would be other tokens. Set model.revision"
            " in heft.json to the revision that was trained on, or give the folder that was (--base PATH)"
        )
    skeleton = without_weights(base.model)
    fitting = {}
    for entry in manifest.adapters:
        if names is not None and entry.name not in names:
            continue
        fitting[entry.name] = _fitting(adapter_folder(directory, entry.name), entry.name, skeleton)
        found = method_name(fitting[entry.name][0])
        if found != entry.method:
            raise HeftError(f"heft.json calls {entry.name} a {entry.method} adapter, and its own folder {found}")
    for name, (config, path) in fitting.items():
        _attach(base.model, name, config, path)
    base.model.eval()
    return Loaded(base.model, base.tokenizer, manifest)


def _in_half(model: PreTrainedModel) -> str:
    """What may be wrong with a model that others than heft have loaded."""
    return ", or in float16, to which heft never rounds" if model.dtype == torch.float16 else ""


def attach_saved(model: PreTrainedModel, folder: Path, name: str) -> None:
    """Attach one saved adapter, exactly as it was saved; the model is not touched before all of it is known to fit.

    Raises:
        HeftError: files are missing or not as heft writes them, or tensors are missing, left over or of another shape;
            all are named.
    """
    _attach(model, name, *_fitting(folder, name, without_weights(model)))


def attach_from(
    model: PreTrainedModel, name: str, config: PeftConfig, weights: Path, leave_out: Collection[str] = ()
) -> None:
    """Attach an adapter that exists, by a configuration and a weights file that fit (`require_fitting`)."""
    _attach(model, name, config, weights, leave_out)


def require_fitting(
    skeleton: PreTrainedModel, name: str, config: PeftConfig, weights: Path, leave_out: Collection[str] = ()
) -> None:
    """Check that a weights file is whole and has what the adapter has on this base, which carries it afterwards.

    `skeleton` has no weights (`without_weights`); tensors to `leave_out` are no part of the adapter.

    Raises:
        HeftError: the adapter has no place there, or tensors are missing, left over or of another shape.
    """
    found = {key: shape for key, shape in read_shapes(weights).items() if key not in leave_out}
    require_fit(weights, name, found, expected_tensors(skeleton, name, copy.deepcopy(config), weights))


def _fitting(folder: Path, name: str, skeleton: PreTrainedModel) -> tuple[PeftConfig, Path]:
    """An adapter's configuration and weights file, tried on a model without weights."""
    config_path, path = adapter_paths(folder)
    config = read_config(config_path)
    require_fitting(skeleton, name, config, path)
    return config, path


def _attach(model: PreTrainedModel, name: str, config: PeftConfig, path: Path, leave_out: Collection[str] = ()) -> None:
    try:
        saved = load_file(path)
    except (SafetensorError, OSError) as error:
        raise HeftError(f"{path} cannot be read: {error}") from None
    inject(model, name, config)
    saved = {key.removeprefix(PEFT_PREFIX): value for key, value in saved.items() if key not in leave_out}
    set_adapter_tensors(model, name, saved)
    loaded = {key.removeprefix(PEFT_PREFIX): value for key, value in adapter_tensors(model, name).items()}
    lost = [key for key, value in saved.items() if not loaded[key].is_meta and not _same(loaded[key].cpu(), value)]
    if lost:
        raise HeftError(
            f"PEFT did not read back {len(lost)} of {len(saved)} tensors of {path}, since it takes their names for"
            f" others of this model: {', '.join(sorted(lost)[:3])}"
        )
    activate(model, list(model.peft_config))


def _same(loaded: torch.Tensor, saved: torch.Tensor) -> bool:
    """Whether a tensor has the saved values, which may be of lower precision; NaN where NaN is."""
    return loaded.allclose(saved.to(loaded.dtype), rtol=0, atol=0, equal_nan=True)


def expected_tensors(
    skeleton: PreTrainedModel, name: str, config: PeftConfig, path: Path
) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of the tensors that an adapter has on its base; it is attached to the skeleton.

    Raises:
        HeftError: it finds no place there.
    """
    tokens, rows = getattr(config, "trainable_token_indices", None), limits_of(skeleton).embeddings
    if tokens and rows is not None and max(tokens) >= rows:
        raise HeftError(
            f"adapter {name!r} in {path.parent} does not fit its base model: it has an embedding for token"
            f" {max(tokens):,}, and the model has {rows:,}"
        )
    try:
        with torch.device("meta"):
            inject(skeleton, name, config)
    except DOES_NOT_FIT as error:
        raise HeftError(f"adapter {name!r} in {path.parent} does not fit its base model: {error}") from None
    return {key: tuple(value.shape) for key, value in adapter_tensors(skeleton, name).items()}
