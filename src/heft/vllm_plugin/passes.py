"""Before each pass: which of its tokens are edited, as vLLM's two model runners know it."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

from heft.vllm_plugin.edits import Piece
from heft.vllm_plugin.runner import Served
from heft.vllm_plugin.tokens import PROMPT_LENGTH, prompt_length


def set_active_loras(before: Callable) -> Callable:
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


def begin_pass(before: Callable) -> Callable:
    """A pass of no requests edits nothing; V2's runner has said here what its own are."""

    @functools.wraps(before)
    def set_active(self, *args, **kwargs):
        result = before(self, *args, **kwargs)
        served: Served | None = getattr(self, "heft", None)
        if served is not None and served.state is not None and _is_of_language(args[3:], kwargs):
            lora_state = getattr(self, "lora_state", None)
            batch = getattr(lora_state, "heft_batch", ())
            served.state.begin(pieces_v2(self, *batch) if batch else ())
            if batch:
                lora_state.heft_batch = ()
        return result

    return set_active


def extend_v2(runner: type, lora_state: type) -> None:
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


def pieces_v2(runner: Any, req_ids: list[str], rows: Any, scheduled: Any) -> Iterator[Piece]:
    slots = {adapter: slot for slot, adapter in enumerate(runner.lora_manager._adapter_manager.lora_index_to_id)}
    states, offset = runner.req_states, 0
    for req_id, row, count in zip(req_ids, rows.tolist(), scheduled.tolist(), strict=False):
        adapter = int(runner.lora_state.lora_ids[row])
        if adapter > 0:
            prompt = runner.heft.prompts.get(req_id, int(states.prompt_len.np[row]))
            yield Piece(slots[adapter], offset, int(states.num_computed_tokens_np[row]), count, prompt)
        offset += count
