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
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import heft
from heft.errors import HeftError
from heft.vllm_plugin.blocks import edit_keys, layout_of
from heft.vllm_plugin.directory import Adapter, find, read_adapter, read_layout
from heft.vllm_plugin.edits import EditState, Piece
from heft.vllm_plugin.layers import find_places, hook_of, register_operation
from heft.vllm_plugin.settings import read_settings
from heft.vllm_plugin.tokens import PROMPT_LENGTH, fault_of_prompt_length, prompt_length

logger = logging.getLogger("vllm.heft")


@dataclass
class Served:
    """What one model runner has: its edits, or why it cannot have any."""

    state: EditState | None
    hidden_size: int
    layers: int
    base: str
    why_not: str | None = None
    prompts: dict[str, int] = field(default_factory=dict)
    """Prompt lengths that requests gave themselves, by request (V2)."""
    digests: dict[tuple[int, str], str] = field(default_factory=dict)
    """Of the adapters that were loaded, by number and path."""


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
        (LoRAModelRunnerMixin, "load_lora_model", ["self", "model", "vllm_config", "device"], _load_lora_model),
        (LoRAModelRunnerMixin, "set_active_loras", ["self", "input_batch", "num_scheduled_tokens"], _set_active_loras),
        (LoRAModelRunnerMixin, "_set_active_loras", ["self"], _begin_pass),
        (WorkerLoRAManager, "_load_adapter", ["self", "lora_request"], _load_adapter),
        (LoRAModelManager, "activate_adapter", ["self", "lora_id"], _activate_adapter),
        (LoRAModelManager, "_create_merged_loras_inplace", ["self", "lora_model"], _merge_packed),
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


def _load_lora_model(before: Callable) -> Callable:
    @functools.wraps(before)
    def load_lora_model(self, model, vllm_config, device):
        served = _prepare(model, vllm_config, device)  # before LoRA, which puts its own layers in place of others
        loaded = before(self, model, vllm_config, device)
        self.heft = self.lora_manager._adapter_manager.heft = served
        if device.type == "cpu":
            _mend_cpu_lora()
        if hasattr(self, "lora_state"):
            _extend_v2(type(self), type(self.lora_state))
        return loaded

    return load_lora_model


def _prepare(model: Any, vllm_config: Any, device: Any) -> Served:
    settings = read_settings(vllm_config.additional_config)
    config = vllm_config.model_config
    served = Served(None, config.get_hidden_size(), config.get_total_num_hidden_layers(), config.model)
    places, served.why_not = find_places(model, settings.sites)
    served.why_not = served.why_not or _unsupported(vllm_config)
    if served.why_not is not None:
        logger.info("HEFT adapters with a fine stage will be refused: %s", served.why_not)
        return served
    compilation = vllm_config.compilation_config
    graphs = device.type != "cpu" and not config.enforce_eager
    tokens = max(vllm_config.scheduler_config.max_num_batched_tokens, *(compilation.cudagraph_capture_sizes or [0]))
    served.state = EditState(
        list(places),
        served.hidden_size,
        vllm_config.lora_config.max_loras,
        settings.rank,
        tokens,
        device,
        graphs if settings.masked is None else settings.masked or graphs,
    )
    for place, (layer, module) in places.items():
        name = f"{layer}.heft.{place.site}"
        compilation.static_forward_context[name] = served.state.tables[place]
        module.register_forward_hook(hook_of(name, place.site))
    return served


def _unsupported(vllm_config: Any) -> str | None:
    """What of vLLM's ways to compute this plugin has not been made for: what it would get wrong, or may."""
    parallel = vllm_config.parallel_config
    passes = vllm_config.compilation_config.pass_config
    found = {
        "speculative decoding": vllm_config.speculative_config is not None,
        "the transfer of keys and values (--kv-transfer-config)": vllm_config.kv_transfer_config is not None,
        "dual batch overlap": parallel.use_ubatching,
        "context parallelism": parallel.prefill_context_parallel_size > 1 or parallel.decode_context_parallel_size > 1,
        "sequence parallelism": bool(getattr(passes, "enable_sp", False)),
    }
    names = [name for name, there in found.items() if there]
    return f"this plugin does not go with {' and '.join(names)}" if names else None


def _load_adapter(before: Callable) -> Callable:
    """vLLM reads an adapter again that it had no room for; by then it has to be what the prefix cache takes it for."""

    @functools.wraps(before)
    def load_adapter(self, lora_request):
        served: Served = self._adapter_manager.heft
        found = find(lora_request.lora_path)
        layout = None if found is None else read_layout(*found)
        key, digest = (lora_request.lora_int_id, lora_request.lora_path), "" if layout is None else layout.digest
        if served.digests.get(key, digest) != digest and not lora_request.load_inplace:
            raise HeftError(f"{lora_request.lora_path} was changed since it was loaded: load it under another name")
        if layout is None:
            lora = before(self, lora_request)
        else:
            adapter = _fitting(served, layout) if layout.refts else None
            parts = [before(self, _at(lora_request, folder)) for folder in layout.loras]
            lora = _one_lora(parts, lora_request, self.lora_config.max_lora_rank, self._lora_model_cls)
            lora.heft = adapter
        served.digests[key] = digest
        return lora

    return load_adapter


def _add_lora(before: Callable) -> Callable:
    """The engine's own process, which hashes blocks, notes what is loaded."""

    @functools.wraps(before)
    def add_lora(self, lora_request):
        added = before(self, lora_request)
        layout_of(lora_request, anew=lora_request.load_inplace)
        return added

    return add_lora


def _mend_cpu_lora() -> None:
    """Give tokens without an adapter none, on a CPU too.

    vLLM numbers them −1, and its LoRA for CPUs (0.32) takes that for the last slot: in a batch with others, requests
    for the base get the adapter that is there.
    """
    from vllm.lora.ops.torch_ops import lora_ops
    from vllm.lora.punica_wrapper import punica_cpu

    before = lora_ops.bgmv_shrink
    if hasattr(before, "__wrapped__"):
        return

    @functools.wraps(before)
    def bgmv_shrink(inputs, lora_b_weights, output_tensor, lora_indices_tensor, *args, **kwargs):
        before(inputs, lora_b_weights, output_tensor, lora_indices_tensor, *args, **kwargs)
        output_tensor[lora_indices_tensor < 0] = 0.0

    lora_ops.bgmv_shrink = punica_cpu.bgmv_shrink = bgmv_shrink


def _fitting(served: Served, layout: Any) -> Adapter:
    if served.state is None:
        raise HeftError(f"{layout.directory} cannot be served: {served.why_not}")
    name = layout.manifest.base_folder or layout.manifest.model.name
    if name != served.base:
        logger.warning(
            "%s was trained on %s, and this base is %s: make sure that they are the same model.",
            layout.directory,
            name,
            served.base,
        )
    adapter = read_adapter(layout, served.hidden_size, served.layers)
    reason = served.state.refusal(adapter)
    if reason is not None:
        raise HeftError(f"{layout.directory} cannot be served: {reason}")
    return adapter


def _at(lora_request: Any, folder: Any) -> Any:
    return type(lora_request)(lora_request.lora_name, lora_request.lora_int_id, str(folder))


def _one_lora(parts: list[Any], lora_request: Any, most: int, make: type) -> Any:
    """Several LoRA adapters as one of their added ranks; without any, one that adapts nothing."""
    import torch

    if not parts:
        return make(lora_request.lora_int_id, 1, {})
    one = parts[0]
    for other in parts[1:]:
        for name, weights in other.loras.items():
            weights.optimize()
            if name not in one.loras:
                one.loras[name] = weights
                continue
            own = one.loras[name].optimize()
            own.lora_a = torch.cat([own.lora_a, weights.lora_a])
            own.lora_b = torch.cat([own.lora_b, weights.lora_b], dim=1)
            own.rank += weights.rank
            if own.rank > most:
                raise HeftError(
                    f"{lora_request.lora_path} has {len(parts)} LoRA stages, of rank {own.rank} together, and"
                    f" --max-lora-rank is {most}"
                )
    one.rank = max((weights.rank for weights in one.loras.values()), default=1)
    return one


def _activate_adapter(before: Callable) -> Callable:
    @functools.wraps(before)
    def activate_adapter(self, lora_id):
        is_new = before(self, lora_id)
        served: Served | None = getattr(self, "heft", None)
        if is_new and served is not None and served.state is not None:
            slot = self.lora_index_to_id.index(lora_id)
            served.state.put(slot, getattr(self._registered_adapters[lora_id], "heft", None))
        return is_new

    return activate_adapter


def _merge_packed(before: Callable) -> Callable:
    """vLLM packs what is trained of q, k and v, and fails where nothing at all is, as in a ReFT without LoRA."""

    @functools.wraps(before)
    def create_merged_loras_inplace(self, lora_model):
        if lora_model.loras:
            before(self, lora_model)

    return create_merged_loras_inplace


def _set_active_loras(before: Callable) -> Callable:
    """V1's runner, before each pass."""

    @functools.wraps(before)
    def set_active_loras(self, input_batch, num_scheduled_tokens, *args, **kwargs):
        result = before(self, input_batch, num_scheduled_tokens, *args, **kwargs)
        served: Served | None = getattr(self, "heft", None)
        if served is not None and served.state is not None and _is_of_language(args[1:], kwargs):
            served.state.begin(_pieces_v1(self, input_batch, num_scheduled_tokens))
        return result

    return set_active_loras


def _is_of_language(args: tuple, kwargs: dict) -> bool:
    from vllm.lora.layers import LoRAMappingType

    kind = args[0] if args else kwargs.get("mapping_type", LoRAMappingType.LANGUAGE)
    return kind == LoRAMappingType.LANGUAGE


def _pieces_v1(runner: Any, batch: Any, scheduled: Any) -> Iterator[Piece]:
    slots = {adapter: slot for slot, adapter in enumerate(runner.lora_manager._adapter_manager.lora_index_to_id)}
    offset = 0
    for row, count in enumerate(scheduled.tolist()):
        adapter = int(batch.request_lora_mapping[row])
        if adapter > 0:
            params = runner.requests[batch.req_ids[row]].sampling_params
            prompt = prompt_length(int(batch.num_prompt_tokens[row]), None if params is None else params.extra_args)
            yield Piece(slots[adapter], offset, int(batch.num_computed_tokens_cpu[row]), count, prompt)
        offset += count


def _begin_pass(before: Callable) -> Callable:
    """A pass of no requests edits nothing; V2's runner has said here what its own are."""

    @functools.wraps(before)
    def set_active(self, *args, **kwargs):
        result = before(self, *args, **kwargs)
        served: Served | None = getattr(self, "heft", None)
        if served is not None and served.state is not None and _is_of_language(args[3:], kwargs):
            lora_state = getattr(self, "lora_state", None)
            batch = getattr(lora_state, "heft_batch", ())
            served.state.begin(_pieces_v2(self, *batch) if batch else ())
            if batch:
                lora_state.heft_batch = ()
        return result

    return set_active


def _extend_v2(runner: type, lora_state: type) -> None:
    """V2's runner, which vLLM takes by default where there is Triton: once in a process."""
    if getattr(lora_state, "heft_batch", None) is not None:
        return
    make_before, add_before = lora_state.make_lora_inputs, runner.add_requests

    @functools.wraps(make_before)
    def make_lora_inputs(self, req_ids, idx_mapping, num_scheduled_tokens):
        self.heft_batch = (req_ids, idx_mapping, num_scheduled_tokens)
        return make_before(self, req_ids, idx_mapping, num_scheduled_tokens)

    @functools.wraps(add_before)
    def add_requests(self, scheduler_output):
        prompts = self.heft.prompts
        for req_id in scheduler_output.finished_req_ids:
            prompts.pop(req_id, None)
        for new in scheduler_output.scheduled_new_reqs:
            given = ((new.sampling_params and new.sampling_params.extra_args) or {}).get(PROMPT_LENGTH)
            prompts.pop(new.req_id, None)
            if given is not None:
                prompts[new.req_id] = given
        return add_before(self, scheduler_output)

    lora_state.heft_batch = ()
    lora_state.make_lora_inputs, runner.add_requests = make_lora_inputs, add_requests


def _pieces_v2(runner: Any, req_ids: list[str], rows: Any, scheduled: Any) -> Iterator[Piece]:
    slots = {adapter: slot for slot, adapter in enumerate(runner.lora_manager._adapter_manager.lora_index_to_id)}
    states, offset = runner.req_states, 0
    for req_id, row, count in zip(req_ids, rows.tolist(), scheduled.tolist(), strict=False):
        adapter = int(runner.lora_state.lora_ids[row])
        if adapter > 0:
            prompt = runner.heft.prompts.get(req_id, int(states.prompt_len.np[row]))
            yield Piece(slots[adapter], offset, int(states.num_computed_tokens_np[row]), count, prompt)
        offset += count


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
