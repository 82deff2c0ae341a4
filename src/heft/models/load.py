"""Load a base model and its tokenizer."""

import copy
import os
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging
from transformers.utils.peft_utils import find_adapter_config_file

from heft.builtin import TINY, byte_tokenizer, tiny_llama
from heft.errors import HeftError
from heft.models.causal import require_causal
from heft.models.fingerprints import fingerprint
from heft.models.precision import resolved_dtype
from heft.models.quantization import (
    in_one_dtype,
    keep_gradients,
    quantization_config,
    require_quantization,
    with_own_quantization,
)
from heft.models.rotary import scale_each_pass_alone
from heft.models.source import local_folder, missing_folder, source_of
from heft.recipe.model import ModelSettings
from heft.storage.reading import is_dir
from heft.text.listing import first_of

_MOST_SHOWN = 5
_ONE_AT_A_TIME = threading.RLock()
"""Held while torch's `load` is another: two threads would each put back what the other had set."""


@dataclass(frozen=True)
class Base:
    """A base model as loaded.

    Attributes:
        model: in evaluation mode, all parameters frozen, on its device.
        tokenizer: pads on the left.
        settings: the model settings, with `auto` resolved in dtype, and the quantization of the checkpoint's own files.
        fingerprint: see heft.models.fingerprints.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    settings: ModelSettings
    fingerprint: str


def load_base(settings: ModelSettings, is_to_be_sharded: bool = False) -> Base:
    """Load the model that a recipe names, with nothing attached.

    One that is to be sharded stays on the CPU (heft.models.sharding).

    Raises:
        HeftError: the model is missing, gated or unreadable, or reads ahead, or its device is not available.
    """
    device = choose_device(settings.device)
    tokenizer = load_tokenizer(settings)
    settings = settings.model_copy(update={"dtype": resolved_dtype(settings, device)})
    if settings.name == TINY:
        model = _tiny(settings)
    else:
        config = load_config(settings)
        settings = with_own_quantization(settings, config)
        model = _load_model(settings, config, device)
    _require_padding(f"of {settings.name!r}", model, tokenizer)
    if not (settings.quantization or is_to_be_sharded):
        model.to(device)
    model.eval().requires_grad_(False)
    require_causal(settings.name, model)
    scale_each_pass_alone(model)
    model.name_or_path = str(local_folder(settings.name) or settings.name)
    return Base(model, tokenizer, settings, fingerprint(model))


def load_skeleton(settings: ModelSettings) -> PreTrainedModel:
    """The model that a recipe names on the meta device: all shapes, no weights; only its config is read.

    Raises:
        HeftError: the config is missing, gated or unreadable, or the device or attention asked for is not there.
    """
    source_of(settings.name)  # outside: an embedded model may have to be converted first
    settings = settings.model_copy(update={"dtype": resolved_dtype(settings, choose_device(settings.device))})
    with torch.device("meta"):
        if settings.name == TINY:
            model = _tiny(settings)
        else:
            config = load_config(settings)
            with _readable_errors(settings.name, "config"):
                trust = settings.trust_remote_code
                model = AutoModelForCausalLM.from_config(config, **_form(settings), trust_remote_code=trust)
    model.set_experts_implementation("batched_mm")  # the others need real values, to route tokens to experts
    return model.to("meta").eval().requires_grad_(False)  # some (XLNet) put weights on the CPU whatever is asked for


def without_weights(model: PreTrainedModel) -> PreTrainedModel:
    """The model's modules without weights, so that what is attached to it takes no memory either."""
    with torch.device("meta"):
        return type(model)(copy.deepcopy(model.config)).to("meta")


def _form(settings: ModelSettings) -> dict:
    """The dtype, and the attention where one is asked for, as transformers' arguments."""
    form = {"dtype": getattr(torch, settings.dtype)}
    return form if settings.attention == "auto" else form | {"attn_implementation": settings.attention}


def _tiny(settings: ModelSettings) -> PreTrainedModel:
    model = tiny_llama().to(_form(settings)["dtype"])
    if settings.attention != "auto":
        with _readable_errors(settings.name, "model"):
            model.set_attn_implementation(settings.attention)
    return model


def load_tokenizer(settings: ModelSettings) -> PreTrainedTokenizerBase:
    """The model's tokenizer, padding on the left, with a padding token (EOS where it has none of its own).

    Raises:
        HeftError: it cannot be loaded, or has no EOS token.
    """
    if settings.name == TINY:
        return byte_tokenizer()
    with _readable_errors(settings.name, "tokenizer"):
        tokenizer = AutoTokenizer.from_pretrained(
            source_of(settings.name),
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
            padding_side="left",
        )
    _require_end(f"of {settings.name!r}", tokenizer)
    return tokenizer


def require_usable(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Require that a tokenizer that a person gives ends answers and pads, as `load_base` requires it of its own.

    One without a padding token pads with its EOS token from now on.

    Raises:
        HeftError: it has no EOS token, or the model has no embedding for its padding token.
    """
    _require_end("that is given", tokenizer)
    _require_padding("that is given", model, tokenizer)


def _require_end(whose: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Require an EOS token, which pads from now on where there is no padding token."""
    if tokenizer.eos_token_id is None:
        raise HeftError(
            f"the tokenizer {whose} has no EOS token, which heft needs for padding and to end answers:"
            " in a copy of the model name one of its tokens as eos_token in tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token


def _require_padding(whose: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Require that the model has an embedding for the padding token, which stands beside shorter rows of a batch."""
    rows = embedding_rows(model)
    if rows is not None and tokenizer.pad_token_id >= rows:
        raise HeftError(
            f"the padding token of the tokenizer {whose}, {tokenizer.pad_token!r}, has the id"
            f" {tokenizer.pad_token_id:,}, and the model has embeddings for 0 to {rows - 1:,}: in a copy of the model"
            f" name another as pad_token in tokenizer_config.json, such as {tokenizer.eos_token!r}, or resize it"
            " (resize_token_embeddings) and save both"
        )


def embedding_rows(model: PreTrainedModel) -> int | None:
    """Rows of a model's input embedding, which ids of tokens are below; None where it embeds in a way of its own."""
    try:
        return model.get_input_embeddings().weight.shape[0]
    except (NotImplementedError, AttributeError):
        return None


def quiet() -> None:
    """Silence transformers' progress bars and advice; its errors stay."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" takes the first of cuda, mps and cpu that is available.

    Raises:
        HeftError: the device is not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(kind for kind, is_there in available.items() if is_there)
    if not available[name]:
        there = ", ".join(kind for kind, is_there in available.items() if is_there)
        raise HeftError(
            f"model.device is {name}, which this machine does not have; it has: {there}. Set model.device to one of"
            " these, or to auto (in the recipe, by --device, or in heft.json of an adapter that was trained elsewhere)"
        )
    return torch.device(name)


def load_config(settings: ModelSettings) -> PretrainedConfig:
    """The config of the model that a recipe names.

    Raises:
        HeftError: it is missing, gated or unreadable.
    """
    with _readable_errors(settings.name, "config"):
        trust = settings.trust_remote_code
        return AutoConfig.from_pretrained(source_of(settings.name), revision=settings.revision, trust_remote_code=trust)


def _load_model(settings: ModelSettings, config: PretrainedConfig, device: torch.device) -> PreTrainedModel:
    options = _form(settings)
    if settings.quantization:
        require_quantization(settings.quantization, device)
        options["device_map"] = {"": device}
    how = quantization_config(settings, config)
    if how is not None:
        options["quantization_config"] = how
    _refuse_adapter(settings)
    with _readable_errors(settings.name, "model"), _safetensors_only():
        model, loading = AutoModelForCausalLM.from_pretrained(
            source_of(settings.name),
            revision=settings.revision,
            trust_remote_code=settings.trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, in words
            **options,
        )
    _require_all_weights(settings.name, loading)
    in_one_dtype(model, config, options["dtype"])
    keep_gradients(model)
    return model


def _refuse_adapter(settings: ModelSettings) -> None:
    """transformers would follow an adapter's config to another model, and attach the adapter to it."""
    with _readable_errors(settings.name, "model"):
        config = find_adapter_config_file(source_of(settings.name), revision=settings.revision)
    if config is not None:
        raise HeftError(
            f"model {settings.name!r} has an adapter in it; a base model has config.json and safetensors, without"
            " adapter_config.json: give the model that the adapter was made for"
        )


def _require_all_weights(name: str, loading: dict) -> None:
    """transformers would draw at random, differently in every run, what a checkpoint lacks or has in another shape."""
    for what, keys in (
        ("lacks", sorted(loading["missing_keys"])),
        ("has in other shapes than config.json says", sorted(key for key, *_ in loading["mismatched_keys"])),
    ):
        if keys:
            shown = first_of(keys, _MOST_SHOWN)
            raise HeftError(
                f"model {name!r} {what}: {shown} ({len(keys):,} tensors); take a whole copy of it, or a model that was"
                " made to generate text"
            )


class _PickledWeights(OSError):
    """A pickle was about to be opened."""


@contextmanager
def _safetensors_only() -> Iterator[None]:
    """Forbid unpickling, and requests for a converted copy.

    `use_safetensors` alone does not do that: a config or an index of shards may name a pickle as the weights, and
    for a Hub model without safetensors transformers asks a service of the Hub to convert it.
    """

    def refuse(*args, **kwargs):
        raise _PickledWeights("its weights are pickled")

    with _ONE_AT_A_TIME:
        load, torch.load = torch.load, refuse
        had = os.environ.get("DISABLE_SAFETENSORS_CONVERSION")
        os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
        try:
            yield
        finally:
            torch.load = load
            if had is None:
                del os.environ["DISABLE_SAFETENSORS_CONVERSION"]
            else:
                os.environ["DISABLE_SAFETENSORS_CONVERSION"] = had


@contextmanager
def _readable_errors(name: str, what: str) -> Iterator[None]:
    """Turn what transformers raises for a model that cannot be loaded into one message."""
    quiet()
    try:
        yield
    except HeftError:
        raise
    except Exception as error:  # of a damaged file a loader raises anything
        advice = missing_folder(name)
        if advice is None:
            text = str(error).strip() or type(error).__name__
            advice = f"{_advice(name, error, text)}\n  {text.splitlines()[0]}"
        raise HeftError(f"{what} {name!r} cannot be loaded: {advice}") from error


def _advice(name: str, error: Exception, text: str) -> str:
    if isinstance(error, _PickledWeights) or _only_pickles(name):
        return (
            "its weights are pickled, and a pickle can run any code when it is opened, so heft never opens one;"
            " ask for a revision with safetensors, or convert a copy where that does no harm, with"
            " transformers' from_pretrained and save_pretrained"
        )
    if "gated" in text.lower():
        return "it is gated: accept its terms on its Hub page, then run `hf auth login`"
    if re.search(r"attn_implementation|attention implementation|FlashAttention", text):
        return "it cannot compute with the attention asked for; set model.attention: auto, or eager"
    if "trust_remote_code" in text:
        return "it needs code of its own: read that code, then set model.trust_remote_code: true"
    advice = "give a Hub id, a local folder with config.json and safetensors, or embedded:smollm2-135m-instruct"
    return advice if local_folder(name) else f"{advice} (there is no folder {name} in {Path.cwd()})"


def _only_pickles(name: str) -> bool:
    """Whether this is a local folder whose weights are pickled only."""
    folder = Path(source_of(name))
    return is_dir(folder) and any(folder.glob("pytorch_model*.bin")) and not any(folder.glob("*.safetensors"))
