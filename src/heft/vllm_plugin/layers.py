"""Where in vLLM's models edits are made, and the custom operation that makes them.

A decoder layer of most of vLLM's models returns what it adds and what it adds it to, unsummed; the state that ReFT
reads is their sum, and what the edit adds to the state is added to the first of the two. Which models do so is not seen
from their outputs (Cohere's return two tensors that are not to be summed), so the classes are listed here.
"""

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.library import Library
from vllm.forward_context import get_forward_context
from vllm.utils.torch_utils import direct_register_custom_op

from heft.vllm_plugin.directory import Place

SUMMED = {
    "vllm.model_executor.models.gemma2.Gemma2DecoderLayer",
    "vllm.model_executor.models.gemma3.Gemma3DecoderLayer",
    "vllm.model_executor.models.llama.LlamaDecoderLayer",
    "vllm.model_executor.models.mistral.MistralDecoderLayer",
    "vllm.model_executor.models.mixtral.MixtralDecoderLayer",
    "vllm.model_executor.models.qwen2.Qwen2DecoderLayer",
    "vllm.model_executor.models.qwen2_moe.Qwen2MoeDecoderLayer",
    "vllm.model_executor.models.qwen3.Qwen3DecoderLayer",
    "vllm.model_executor.models.qwen3_moe.Qwen3MoeDecoderLayer",
}
"""Layers that return (hidden states, residual), whose sum the next layer reads."""
SINGLE = {"vllm.model_executor.models.granite.GraniteDecoderLayer"}
"""Layers that return the state itself."""
CHILDREN = {"attention": ("self_attn",), "mlp": ("mlp", "block_sparse_moe")}
Change = Callable[[torch.Tensor, torch.Tensor | None], None]
"""Changes the first tensor as the edits at a place say; the state that they read is its sum with the second, if any."""
_LAYER = re.compile(r"(?:.*\.)?layers\.(\d+)")

_library = Library("heft", "FRAGMENT")


def edit(hidden: torch.Tensor, residual: torch.Tensor | None, name: str) -> None:
    """The custom operation: change `hidden` as the edits at a place say; `name` is the place's in the forward context.

    It is opaque to compilers, and finds its weights and tokens at addresses that do not change.
    """
    get_forward_context().no_compile_layers[name].edit(hidden, residual)


def register_operation() -> None:
    """Make `torch.ops.heft.edit`, once in a process."""
    if not hasattr(torch.ops.heft, "edit"):
        direct_register_custom_op(
            "edit", edit, mutates_args=["hidden"], fake_impl=lambda hidden, residual, name: None, target_lib=_library
        )


def find_places(model: nn.Module, sites: list[str]) -> tuple[dict[Place, tuple[str, nn.Module]], str | None]:
    """The modules of this process whose outputs can be edited, by place, and why there are none."""
    found: dict[Place, tuple[str, nn.Module]] = {}
    unknown = set()
    for name, module in model.named_modules():
        match = _LAYER.fullmatch(name)
        if match is None or type(module).__name__ == "PPMissingLayer":
            continue
        if not is_known(type(module)):
            unknown.add(f"{type(module).__module__}.{type(module).__qualname__}")
            continue
        for site in sites:
            child = site_of(module, site)
            if child is None:
                return {}, f"{name} has no {site} that can be edited"
            found[Place(int(match[1]), site)] = (name, child)
    if unknown:
        known = ", ".join(sorted(name.rpartition(".")[2] for name in SUMMED | SINGLE))
        return {}, f"the outputs of {', '.join(sorted(unknown))} are not known to this plugin; it knows {known}"
    return found, None if found else "the model has no decoder layers that this plugin finds"


def is_known(kind: type) -> bool:
    """Whether a class of layers is listed; subclasses may return something else, so they are listed themselves."""
    return f"{kind.__module__}.{kind.__qualname__}" in SUMMED | SINGLE


def site_of(layer: nn.Module, site: str) -> nn.Module | None:
    """The module of a layer whose output a site is."""
    if site == "block":
        return layer
    children = dict(layer.named_children())
    return next((children[name] for name in CHILDREN[site] if name in children), None)


def hook_of(name: str, site: str, change: Change | None = None) -> Callable[[nn.Module, Any, Any], None]:
    """The forward hook of a module that is edited; `change` does so where nothing is compiled, else the operation."""

    def after(module: nn.Module, args: Any, output: Any) -> None:
        if site == "block" and isinstance(output, tuple):
            hidden, residual = output
        else:
            hidden, residual = output, None
        if change is None:
            torch.ops.heft.edit(hidden, residual, name)
        else:
            change(hidden, residual)

    return after
