"""Fingerprints: 16 hex digits that tell one base model, or one tokenizer, from another."""

import hashlib
import json
import struct

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SAMPLE = 65_536
_NO_EFFECT = {
    *("architectures", "auto_map", "transformers_version", "dtype", "torch_dtype", "quantization_config"),
    *("id2label", "label2id", "problem_type", "chunk_size_feed_forward", "is_decoder"),
    *("use_cache", "return_dict", "output_attentions", "output_hidden_states", "initializer_range", "pretraining_tp"),
}
_NO_EFFECT_ENDS = ("_token_id", "dropout", "_pdrop")
"""Settings of a configuration by which no logit differs in evaluation mode, and ends of the names of such."""
_PROBE = (
    "Where is Anna now? Anna is in the kitchen.\n\n\tÜber 1,234.50 € — naïve “quotes”, don't; 東京 Москва 🙂\r\n"
    "def f(x):\n    return x ** 2  # 0.1 + 0.2\n"
)


def fingerprint(model: PreTrainedModel) -> str:
    """Of a base model: SHA-256 over each parameter's name, shape and values, and over what its configuration sets.

    Values are taken evenly from each tensor (all of up to 65,536 elements) and rounded to bfloat16 where they are
    floating, so the same checkpoint has one fingerprint in float32 and in bfloat16. A model that differs from another
    in a few single elements only can escape it; any training run cannot. Of the configuration counts what differs from
    the defaults of its class and can change a forward pass: activation, rotary embedding, heads, epsilons and so on.
    """
    digest = hashlib.sha256(_configuration(model).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        flat = tensor.detach().reshape(-1)
        flat = flat[:: max(1, flat.numel() // _SAMPLE)]
        flat = flat.to(torch.bfloat16).view(torch.int16) if flat.is_floating_point() else flat
        digest.update(flat.cpu().contiguous().numpy().tobytes() if flat.numel() else struct.pack("<i", 0))
    return digest.hexdigest()[:16]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase, chat_template: bool) -> str:
    """Of a tokenizer: SHA-256 over its vocabulary, its special tokens, and the ids of a text of many kinds of tokens.

    Its chat template counts too where prompts go through it (`chat_template`).
    """
    special = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad", "unk")}
    whole = {
        "vocabulary": sorted(tokenizer.get_vocab().items()),
        "special": special,
        "probe": tokenizer(_PROBE)["input_ids"],
        "chat_template": tokenizer.chat_template if chat_template else None,
    }
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()[:16]


def _configuration(model: PreTrainedModel) -> str:
    config = model.config
    try:
        defaults = type(config)().to_dict()
    except Exception:  # a class that cannot do without arguments may raise anything; then all that it has counts
        defaults = {}
    set_here = {key: value for key, value in config.to_dict().items() if key not in defaults or value != defaults[key]}
    return json.dumps([config.model_type, _with_effect(set_here)], sort_keys=True, default=str)


def _with_effect(values: dict) -> dict:
    found = {}
    for key, value in values.items():
        if key not in _NO_EFFECT and not key.startswith("_") and not key.endswith(_NO_EFFECT_ENDS):
            found[key] = _with_effect(value) if isinstance(value, dict) else value
    return found
