"""The places in vLLM that this plugin extends, all of them; each calls what was there before.

| of vLLM | what is added |
|---|---|
| `LoRAModelRunnerMixin.load_lora_model` | the operation behind each decoder layer |
| `WorkerLoRAManager._load_adapter` | adapter directories: LoRA folders as vLLM reads them, edits beside |
| `LoRAModelManager._create_merged_loras_inplace` | adapters without a LoRA |
| `LoRAModelManager.activate_adapter` | an adapter's edits are put where its LoRA is |
| `set_active_loras` (V1), `make_lora_inputs` (V2) | which tokens the pass edits |
| `generate_block_hash_extra_keys`, `EngineCore.add_lora` | the edits of a block's tokens |
| `InputProcessor.process_inputs` | `prompt_length` is checked |
| `VllmConfig.compute_hash` | compiled graphs belong to this plugin and its settings |
"""

import functools
import hashlib
import inspect
import logging
import sys
from collections.abc import Callable
from typing import Any

import heft
from heft.vllm_plugin.blocks import edit_keys, layout_of
from heft.vllm_plugin.layers import register_operation
from heft.vllm_plugin.loading import activate_adapter, load_adapter, load_lora_model, merge_packed
from heft.vllm_plugin.passes import begin_pass, set_active_loras
from heft.vllm_plugin.settings import read_settings
from heft.vllm_plugin.tokens import PROMPT_LENGTH, fault_of_prompt_length

logger = logging.getLogger("vllm.heft")


def install() -> None:
    """Extend vLLM, once in a process; a vLLM that has another form is left as it is, with a warning."""
    from vllm.config import VllmConfig
    from vllm.lora.model_manager import LoRAModelManager
    from vllm.lora.worker_manager import WorkerLoRAManager
    from vllm.v1.core import block_pool, kv_cache_utils
    from vllm.v1.engine.core import EngineCore
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.worker.lora_model_runner_mixin import LoRAModelRunnerMixin

    if getattr(VllmConfig, "_heft_is_installed", False):
        return
    extended = [
        (LoRAModelRunnerMixin, "load_lora_model", ["self", "model", "vllm_config", "device"], load_lora_model),
        (LoRAModelRunnerMixin, "set_active_loras", ["self", "input_batch", "num_scheduled_tokens"], set_active_loras),
        (LoRAModelRunnerMixin, "_set_active_loras", ["self"], begin_pass),
        (WorkerLoRAManager, "_load_adapter", ["self", "lora_request"], load_adapter),
        (LoRAModelManager, "activate_adapter", ["self", "lora_id"], activate_adapter),
        (LoRAModelManager, "_create_merged_loras_inplace", ["self", "lora_model"], merge_packed),
        (InputProcessor, "process_inputs", ["self", "request_id", "prompt", "params"], _process_inputs),
        (EngineCore, "add_lora", ["self", "lora_request"], _add_lora),
        (VllmConfig, "compute_hash", ["self"], _compute_hash),
        (kv_cache_utils, "generate_block_hash_extra_keys", ["request", "start_token_idx"], _block_keys),
    ]  # fmt: skip
    other = [name for owner, name, parameters, _ in extended if not _has_form(owner, name, parameters)]
    if other:
        logger.warning(
            "heft %s does not know this vLLM: %s differs from version 0.32. HEFT adapters are not served.",
            heft.__version__,
            ", ".join(other),
        )
        return
    register_operation()
    before = kv_cache_utils.generate_block_hash_extra_keys
    for owner, name, _, make in extended:
        setattr(owner, name, make(getattr(owner, name)))
    for module in (block_pool, sys.modules.get("vllm.v1.simple_kv_offload.manager")):
        if getattr(module, "generate_block_hash_extra_keys", None) is before:
            module.generate_block_hash_extra_keys = kv_cache_utils.generate_block_hash_extra_keys
    VllmConfig._heft_is_installed = True


def _has_form(owner: Any, name: str, parameters: list[str]) -> bool:
    there = getattr(owner, name, None)
    return there is not None and list(inspect.signature(there).parameters)[: len(parameters)] == parameters


def _add_lora(before: Callable) -> Callable:
    """The engine's own process, which hashes blocks, notes what is loaded."""

    @functools.wraps(before)
    def add_lora(self, lora_request):
        added = before(self, lora_request)
        layout_of(lora_request, anew=lora_request.load_inplace)
        return added

    return add_lora


def _block_keys(before: Callable) -> Callable:
    @functools.wraps(before)
    def generate_block_hash_extra_keys(request, start_token_idx, end_token_idx, *args, **kwargs):
        keys, position = before(request, start_token_idx, end_token_idx, *args, **kwargs)
        own = edit_keys(request, start_token_idx, end_token_idx) if request.lora_request else []
        return ((*(keys or ()), *own) if own else keys), position

    return generate_block_hash_extra_keys


def _process_inputs(before: Callable) -> Callable:
    @functools.wraps(before)
    def process_inputs(self, request_id, prompt, params, *args, **kwargs):
        request = before(self, request_id, prompt, params, *args, **kwargs)
        sampling = request.sampling_params
        if sampling is not None and sampling.extra_args and request.prompt_token_ids is not None:
            fault = fault_of_prompt_length(len(request.prompt_token_ids), sampling.extra_args)
            if fault is not None:
                from vllm.exceptions import VLLMValidationError

                raise VLLMValidationError(fault, parameter=f"vllm_xargs.{PROMPT_LENGTH}")
        return request

    return process_inputs


def _compute_hash(before: Callable) -> Callable:
    @functools.wraps(before)
    def compute_hash(self):
        found = before(self)
        if self.lora_config is None:
            return found
        own = f"{found} heft {heft.__version__} {read_settings(self.additional_config).model_dump_json()}"
        return hashlib.sha256(own.encode()).hexdigest()[: len(found)]

    return compute_hash
