"""Models and adapters as they are loaded: places that are prepared for edits, LoRA folders, edits beside them."""

import functools
import logging
from collections.abc import Callable
from typing import Any

from heft.errors import HeftError
from heft.vllm_plugin.directory import Adapter, find, read_adapter, read_layout
from heft.vllm_plugin.edits import EditState
from heft.vllm_plugin.layers import find_places, hook_of
from heft.vllm_plugin.passes import extend_v2
from heft.vllm_plugin.runner import Served
from heft.vllm_plugin.settings import read_settings

logger = logging.getLogger("vllm.heft")


def load_lora_model(before: Callable) -> Callable:
    @functools.wraps(before)
    def load_lora_model(self, model, vllm_config, device):
        served = _prepare(model, vllm_config, device)  # before LoRA, which puts its own layers in place of others
        loaded = before(self, model, vllm_config, device)
        self.heft = self.lora_manager._adapter_manager.heft = served
        if device.type == "cpu":
            _mend_cpu_lora()
        if hasattr(self, "lora_state"):
            extend_v2(type(self), type(self.lora_state))
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
        table = compilation.static_forward_context[name] = served.state.tables[place]
        is_python = config.enforce_eager and not served.state.masked
        module.register_forward_hook(hook_of(name, place.site, table.edit if is_python else None))
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


def load_adapter(before: Callable) -> Callable:
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


def activate_adapter(before: Callable) -> Callable:
    @functools.wraps(before)
    def activate_adapter(self, lora_id):
        is_new = before(self, lora_id)
        served: Served | None = getattr(self, "heft", None)
        if is_new and served is not None and served.state is not None:
            slot = self.lora_index_to_id.index(lora_id)
            served.state.put(slot, getattr(self._registered_adapters[lora_id], "heft", None))
        return is_new

    return activate_adapter


def merge_packed(before: Callable) -> Callable:
    """vLLM packs what is trained of q, k and v, and fails where nothing at all is, as in a ReFT without LoRA."""

    @functools.wraps(before)
    def create_merged_loras_inplace(self, lora_model):
        if lora_model.loras:
            before(self, lora_model)

    return create_merged_loras_inplace
