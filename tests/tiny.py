"""Tiny random models and a byte tokenizer for the tests: no network, milliseconds to build, the same at every call.

Each model has hidden size 32, 3 layers (Gemma 3: 4, sliding and full attention by turns) and the byte tokenizer's
vocabulary of 259. Weights are drawn wide enough that another token, or an edit, visibly changes the logits.
"""

import json
from pathlib import Path

import pytest
import torch
import transformers

from heft.builtin import byte_tokenizer

__all__ = ["ARCHITECTURES", "byte_tokenizer", "likeliest", "of_each_kind", "tiny_model"]

COMMON = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {"num_key_value_heads": 2}
GEMMA = {
    "num_hidden_layers": 4,
    "head_dim": 8,
    "query_pre_attn_scalar": 8,
    "sliding_window": 8,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
}
NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}

ARCHITECTURES = {
    "llama": ("Llama", GROUPED),
    "qwen2": ("Qwen2", GROUPED),
    "gemma3": ("Gemma3", GROUPED | GEMMA),
    "mistral": ("Mistral", GROUPED | {"sliding_window": None}),
    "gpt2": ("GPT2", NO_DROPOUT),
    "phi": ("Phi", GROUPED),
}


def tiny_model(architecture: str = "llama", **overrides) -> "transformers.PreTrainedModel":
    """A random causal language model in eval mode, float32.

    Args:
        architecture: a key of `ARCHITECTURES`.
        overrides: fields of the model's config, such as `num_hidden_layers=4`.
    """
    name, own = ARCHITECTURES[architecture]
    config_class = getattr(transformers, "Gemma3TextConfig" if architecture == "gemma3" else f"{name}Config")
    model_class = getattr(transformers, "GPT2LMHeadModel" if architecture == "gpt2" else f"{name}ForCausalLM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model_class(config_class(**(COMMON | own | overrides))).eval()


def of_each_kind() -> list:
    """`ARCHITECTURES` as parameters of a test, those long that are as Llama in what the test is of."""
    alike = ("mistral", "qwen2")
    return [pytest.param(each, marks=pytest.mark.long) if each in alike else each for each in sorted(ARCHITECTURES)]


def forget_hashes(directory: Path) -> Path:
    """Take the hashes out of an adapter directory's heft.json, so that its files may be changed."""
    path = directory / "heft.json"
    values = json.loads(path.read_text())
    for entry in values["adapters"]:
        del entry["sha256"]
    path.write_text(json.dumps(values))
    return directory


def likeliest(model, prompt: list[int], count: int) -> list[int]:
    """The next tokens by definition: each the argmax of a whole pass over all before it, the prompt's end known."""
    ids = list(prompt)
    positions = {"prompt_lengths": torch.tensor([len(prompt)])} if hasattr(model, "peft_config") else {}
    with torch.no_grad():
        for _ in range(count):
            ids.append(model(torch.tensor([ids]), **positions).logits[0, -1].argmax().item())
    return ids[len(prompt) :]
