"""A tiny base model that vLLM computes too, adapter directories of it, and vLLM in its own environment."""

import json
import os
import subprocess
from functools import cache
from pathlib import Path

import pytest
import torch
import transformers

from heft.builtin import byte_tokenizer
from tiny import COMMON

ROOT = Path(__file__).parents[2]
SIDE = Path(__file__).with_name("vllm_side.py")

CLASSES = {
    "Gemma2": {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 32},
    "Gemma3": {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 32},
    "Granite": {"residual_multiplier": 0.5, "embedding_multiplier": 2.0, "attention_multiplier": 0.2},
    "Llama": {},
    "Mistral": {"sliding_window": None},
    "Qwen2": {},
    "Qwen3": {"head_dim": 32},
}
"""Classes of transformers whose layers the plugin knows, with what their tiny models set besides. Not those with
experts, whose LoRA vLLM does not compute on a CPU."""


def make_base(folder: Path, name: str = "Llama") -> Path:
    """A random model of 3 layers with heads of 32 dimensions, the fewest that vLLM computes on a CPU."""
    config = getattr(transformers, f"{name}TextConfig" if name == "Gemma3" else f"{name}Config")
    grouped = {"hidden_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 1024}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, f"{name}ForCausalLM")(config(**(COMMON | grouped | CLASSES[name])))
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def vllm_python() -> str:
    """The Python of vLLM's environment, which `make serve-env` builds; the test is skipped without it."""
    given = Path(os.environ.get("HEFT_VLLM_PYTHON", ROOT / "benchmarks/.envs/vllm/bin/python"))
    if not given.is_file():
        pytest.skip(f"no environment of vLLM at {given}: `make serve-env` builds it")
    _require_entry_point(str(given))
    return str(given)


@cache
def _require_entry_point(python: str) -> None:
    """vLLM finds the plugin by the package's metadata, which an older installation of this checkout has without it."""
    code = "from importlib.metadata import entry_points as e; print(*e(group='vllm.general_plugins').names)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, env=environment).stdout.split()
    assert "heft" in found, f"the metadata in {ROOT / 'src'} has no entry point for vLLM: install the checkout again"


def in_vllm(folder: Path, base: Path, batches: list[list[dict]], adapters: dict[str, Path], **engine) -> dict:
    """What vLLM answers (tests/vllm_plugin/vllm_side.py)."""
    path = folder / f"jobs-{len(list(folder.glob('jobs-*.json')))}.json"
    paths = {name: str(where) for name, where in adapters.items()}
    path.write_text(json.dumps({"base": str(base), "engine": engine, "adapters": paths, "batches": batches}))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment |= {"PYTHONPATH": str(ROOT / "src"), "VLLM_CACHE_ROOT": str(folder / "cache")}
    done = subprocess.run([vllm_python(), str(SIDE), str(path)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(Path(f"{path}.out").read_text()) | {"log": done.stdout + done.stderr}
