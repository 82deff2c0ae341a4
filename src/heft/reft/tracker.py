"""What the forward pass now running is about: where each row's prompt is, and every layer's rotation.

One tracker serves a base model, however many adapters with positions it carries: ReFT's (heft.reft.layer), and LoRA's
(heft.alora.variant). It listens on the model (and on its decoder
body, for callers that go past the head), never replaces a module, and takes off only what it put on.

A prompt's length is, in this order: the `prompt_lengths` keyword of `forward`; the tokens before the first label that
is not −100; inside `generate`, the attended input of the call, for every later step, cached or not; with a
cache filled by an earlier call, that call's prompt; else the attended input. Where that would be a guess (a training
pass, rows that look padded without a mask, a cache of unknown length) edits of prompt positions are
refused, and those of all tokens are not.

Shapes: B rows, T tokens of this pass, S columns with those in the cache.
"""

import inspect
import threading
from collections.abc import Iterator
from functools import partial
from typing import Protocol

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper
from transformers import PreTrainedModel

from heft.edits.arithmetic import orthonormal_rows
from heft.edits.positions import Positions
from heft.reft.caches import Seen, cache_of, is_cache, note_on
from heft.reft.generating import GenerateCall
from heft.reft.interventions import Intervention
from heft.reft.layout import TokenLayout, edited_token_indices, edited_tokens
from heft.reft.prompts import PassReader, PassReading, read_all_tokens, read_generated_tokens
from heft.reft.refusals import ANOTHER_THREAD, PAGED, REPLICA, TWO_TEXTS, refuse_if
from heft.reft.sites import decoder_of

_HELD_AS = "_heft_tracker"
"""The attribute by which a model holds its tracker."""


class Branch(Protocol):
    """A weight update of one module and adapter that is added for some tokens only (heft.alora.variant)."""

    positions: Positions

    def is_there(self) -> bool:
        """Whether the module still has it."""

    def is_active(self) -> bool:
        """Whether a forward pass adds it now."""


class ForwardTracker:
    """Follows the forward passes of one model. `layers` are the `ReftLayer`s that read it, `branches` LoRA's.

    `adapter_index` numbers the adapters that run side by side: each edits only the tokens that have its number, or one
    of its numbers, in `adapter_BT` of the pass's `token_layout`, and none in a pass without one.

    `keeps_rotations` says that no weight changes between passes, so that rotations are computed once;
    `forget_rotations` is to be called whenever adapters come or go.
    """

    def __init__(self):
        self.layers: list = []
        self.branches: list[Branch] = []
        self.adapter_index: dict[str, int | tuple[int, ...]] = {}
        self.keeps_rotations = False
        self._model: nn.Module | None = None
        self._handles: list = []
        self._layout: TokenLayout | None = None
        self._seen: Seen | None = None
        self._padding_ids: set[int] = {0}
        self._running: nn.Module | None = None
        self._thread: int | None = None
        self._checkpointing = False
        self._indices: dict = {}
        self._flags: dict = {}
        self._rotations: dict = {}
        self._generating: GenerateCall | None = None  # for compiled code, which does not ask for its thread
        self._generating_in: dict[int, GenerateCall] = {}  # by thread
        self._replaced: dict = {}

    @classmethod
    def on(cls, model: nn.Module) -> "ForwardTracker":
        """The model's tracker, attached now where it has none."""
        found = tracker_of(model)
        if found is None:
            found = cls()
            found.attach(model)
        return found

    def attach(self, model: nn.Module) -> None:
        """Listen to `model`, and to its `generate`, so that a prompt's length is known in every step.

        Raises:
            ValueError: it has an encoder beside its decoder.
        """
        refuse_if(getattr(model.config, "is_encoder_decoder", False), TWO_TEXTS)
        self._model, body = model, decoder_of(model)
        setattr(model, _HELD_AS, self)
        padding_id = getattr(model.config.get_text_config(), "pad_token_id", None)
        self._padding_ids = {0} if padding_id is None else {0, padding_id}
        for module in [model] if body is model else [model, body]:
            names = tuple(inspect.signature(type(module).forward).parameters)[1:]
            before = partial(self._before_forward, names)
            self._handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            self._handles.append(module.register_forward_hook(self._after_forward, always_call=True))
        for name, own in (("generate", self._generate), ("init_continuous_batching", self._batch_continuously)):
            if hasattr(model, name):
                self._replaced[name] = getattr(model, name)
                setattr(model, name, own)

    def detach(self) -> None:
        """Leave the model as `attach` found it."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for name in self._replaced:
            delattr(self._model, name)
        self._replaced.clear()
        delattr(self._model, _HELD_AS)

    def release(self) -> None:
        """Leave the model where no adapter with positions is left on it."""
        self.branches = [branch for branch in self.branches if branch.is_there()]
        if not self.layers and not self.branches and self._handles:
            self.detach()

    def positions(self) -> list[Positions]:
        """What the adapters of the model edit, active or not; each once."""
        of_layers = (positions for layer in self.layers for positions in layer.positions.values())
        of_branches = (branch.positions for branch in self.branches if branch.is_there())
        return list(dict.fromkeys((*of_layers, *of_branches)))

    @property
    def layout(self) -> TokenLayout:
        """The tokens of the pass now running.

        Raises:
            RuntimeError: there is none.
        """
        recomputes = self._checkpointing  # in the backward pass
        if self._layout is None or (self._running is None and not recomputes):
            raise RuntimeError(
                "a part of the model with an adapter of some positions was called outside the model's own forward: call"
                " the model"
            )
        return self._layout

    def edited_indices(
        self, positions: Positions, group: str, device: torch.device, adapter_name: str | None = None
    ) -> torch.Tensor:
        """Flat indices into (B·T,) of the tokens that an adapter edits with a group's weights in this pass."""
        layout, adapter = self.layout, self.adapter_index.get(adapter_name)
        key = (positions, group, adapter)
        if key not in self._indices:
            index_N = edited_token_indices(layout, positions, group)
            self._indices[key] = index_N if adapter is None else self._own(index_N, adapter)
        return self._indices[key].to(device)

    def edited_flags(self, positions: Positions, group: str, adapter_name: str | None = None) -> torch.Tensor:
        """Bool (B·T,): as `edited_indices`, without a look at values, for `torch.compile`."""
        edited_N = edited_tokens(self.layout, positions, group).flatten()
        adapter = self.adapter_index.get(adapter_name)
        if adapter is None:
            return edited_N
        adapter_BT = self.layout.adapter_BT
        return torch.zeros_like(edited_N) if adapter_BT is None else edited_N & _has(adapter_BT.flatten(), adapter)

    def acted_on(self, positions: Positions, device: torch.device, adapter_name: str | None) -> torch.Tensor | None:
        """Bool (B·T,): the tokens of this pass that an adapter acts on; None where these are all."""
        key = (positions, self.adapter_index.get(adapter_name))
        if torch.compiler.is_compiling():
            return self.edited_flags(positions, "shared", adapter_name).to(device)
        if key not in self._flags:
            flags_N = self.edited_flags(positions, "shared", adapter_name)
            self._flags[key] = None if not flags_N.is_meta and bool(flags_N.all()) else flags_N.to(device)
        flags_N = self._flags[key]
        return None if flags_N is None else flags_N.to(device)

    def share_tokens(self, one: str, other: str) -> bool:
        """Whether two adapters that run side by side have a number in common, so that both may edit a token."""
        numbers = [self.adapter_index[name] for name in (one, other)]
        first, second = ({each} if isinstance(each, int) else set(each) for each in numbers)
        return bool(first & second)

    def forget_rotations(self) -> None:
        """Compute rotations anew in the next pass."""
        self._rotations = {}

    def _own(self, index_N: torch.Tensor, adapter: int | tuple[int, ...]) -> torch.Tensor:
        """Those of the tokens that have an adapter's number."""
        if self._layout.adapter_BT is None:
            return index_N[:0]
        index_N = index_N[_has(self._layout.adapter_BT.flatten()[index_N], adapter)]
        if self._layout.order_BT is None:
            return index_N
        return index_N[self._layout.order_BT.flatten()[index_N].argsort(stable=True)]

    def rotation(self, unit: Intervention) -> torch.Tensor | None:
        """R (r, d) of one unit; the first call of a pass computes those of all active units, stacked by shape.

        None where each unit computes its own: under gradient checkpointing a recomputed block must not
        reach into the graph of the others, parameters that are sharded (FSDP2, ZeRO-3) or on disk are whole in their
        own block only, and a compiler had better see each by itself.
        """
        if unit.rotation is None or self._checkpointing or torch.compiler.is_compiling():
            return None
        if id(unit) not in self._rotations:
            self._compute_rotations()
        return self._rotations.get(id(unit))

    def _compute_rotations(self) -> None:
        units = [unit for layer in self.layers for _, _, unit in layer.active() if unit.rotation is not None]
        if not all(_is_whole(unit.rotation) for unit in units):
            return
        groups: dict[tuple, list[Intervention]] = {}
        for unit in units:
            groups.setdefault((unit.rotation.shape, unit.rotation.dtype, unit.rotation.device), []).append(unit)
        for alike in groups.values():
            stacked = orthonormal_rows(torch.stack([unit.raw_rows() for unit in alike]))
            self._rotations.update({id(unit): rows for unit, rows in zip(alike, stacked.unbind(), strict=True)})

    def _before_forward(self, names: tuple[str, ...], module: nn.Module, args: tuple, kwargs: dict):
        given, layout = kwargs.pop("prompt_lengths", None), kwargs.pop("token_layout", None)
        refuse_if(getattr(module, "_is_replica", False), REPLICA)
        refuse_if(self._running is not None and not self._is_same_thread(), ANOTHER_THREAD)
        if self._running not in (None, module):  # the body within the model
            if isinstance(kwargs.get("logits_to_keep"), int):
                kwargs["logits_to_keep"] = 0  # Gemma 4 would give its upper blocks those columns only
            return args, kwargs  # (the same module again: what it ran was interrupted)
        call = dict(zip(names, args, strict=False)) | kwargs
        tokens = call.get("input_ids") if call.get("input_ids") is not None else call.get("inputs_embeds")
        if tokens is not None:
            reading = (layout, None) if layout is not None else self._read(module, tokens, call, given)
            self._layout, self._seen = reading
            self._indices, self._flags, self._running = {}, {}, module
            self._rotations = self._rotations if self.keeps_rotations else {}
            compiling = torch.compiler.is_compiling()
            self._thread = None if compiling else threading.get_ident()
            self._checkpointing = module.training and not compiling and _is_checkpointed(module)
        return args, kwargs

    def _read(self, module: nn.Module, tokens: torch.Tensor, call: dict, given) -> PassReading:
        edits_prompts, generating, cache = self._edits_prompts(), self._generating, cache_of(call)
        if torch.compiler.is_compiling():  # without a look at the length of a cache, which may be a tensor
            if not edits_prompts:
                return read_all_tokens(tokens, call)
            if generating is not None and generating.is_past_prompt(cache):
                return read_generated_tokens(tokens, generating)
        else:
            generating = self._generating_in.get(threading.get_ident())
        if generating is not None and not generating.has(cache):
            generating = None
        reader = PassReader(tokens, call, generating, module.training, self._padding_ids)
        return reader.read(given, edits_prompts)

    def _edits_prompts(self) -> bool:
        """Whether an active adapter edits positions of the prompt."""
        return any(not positions.all_tokens for positions in self._active_positions())

    def _active_positions(self) -> Iterator[Positions]:
        for layer in self.layers:
            yield from (layer.positions[name] for name, _, _ in layer.active())
        yield from (branch.positions for branch in self.branches if branch.is_active())

    def _after_forward(self, module: nn.Module, args: tuple, output) -> None:
        if self._running is not module or not self._is_same_thread():
            return
        self._running = None
        if not self.keeps_rotations:
            self._rotations = {}  # they hold this pass's graph
        if torch.compiler.is_compiling():
            self._layout, self._seen = None, None  # so that no tensor of the graph has to leave it
            return
        outputs = output.values() if isinstance(output, dict) else output if isinstance(output, tuple) else [output]
        for value in outputs:
            if is_cache(value) and self._seen is not None:  # a cache that the model made itself
                note_on(value, self._seen)
        if self._checkpointing and torch.is_grad_enabled():
            self._resume_in_backward([value for value in outputs if torch.is_tensor(value)])

    def _is_same_thread(self) -> bool:
        """Whether the pass now running is this thread's; that of compiled code is taken for it."""
        return torch.compiler.is_compiling() or self._thread in (None, threading.get_ident())

    def _resume_in_backward(self, outputs: list[torch.Tensor]) -> None:
        """Make a recomputed attention or MLP edit its own pass's tokens, whatever has run in between."""
        layout = self._layout

        def resume(_gradient):
            self._layout, self._checkpointing = layout, True
            self._indices, self._flags, self._rotations = {}, {}, {}

        for tensor in outputs:
            if tensor.requires_grad:
                tensor.register_hook(resume)

    def _generate(self, *args, **kwargs):
        defaults = getattr(self._model, "generation_config", None)
        thread = threading.get_ident()
        before, outer = self._generating, self._generating_in.get(thread)
        self._generating = self._generating_in[thread] = GenerateCall.of(args, kwargs, defaults)
        try:
            return self._replaced["generate"](*args, **kwargs)
        finally:
            self._generating = before
            if outer is None:
                del self._generating_in[thread]
            else:
                self._generating_in[thread] = outer

    def _batch_continuously(self, *args, **kwargs):
        """Refuse before a thread starts, in which the error would be lost."""
        refuse_if(self._edits_prompts(), PAGED)
        return self._replaced["init_continuous_batching"](*args, **kwargs)


def _has(numbers: torch.Tensor, adapter: int | tuple[int, ...]) -> torch.Tensor:
    """Bool, of the same shape: where a token has an adapter's number, or one of its numbers."""
    if isinstance(adapter, int):
        return numbers == adapter
    return torch.isin(numbers, torch.tensor(adapter, device=numbers.device, dtype=numbers.dtype))


def tracker_of(model: nn.Module) -> ForwardTracker | None:
    """The tracker of a model, perhaps wrapped; None where no adapter has positions."""
    return next((held for module in _models_in(model) if (held := vars(module).get(_HELD_AS)) is not None), None)


def _models_in(module: nn.Module, in_model: bool = False) -> Iterator[nn.Module]:
    """The module and those in it that may be models; not the layers of one, thousands of modules in lists."""
    yield module
    in_model = in_model or isinstance(module, PreTrainedModel)
    for child in module.children():
        if not (in_model and isinstance(child, nn.ModuleList)):
            yield from _models_in(child, in_model)


def positions_of(model: nn.Module) -> list[Positions]:
    """What the adapters of a model edit, each once; a LoRA of all tokens has no positions."""
    tracker = tracker_of(model)
    return [] if tracker is None else tracker.positions()


def _is_checkpointed(module: nn.Module) -> bool:
    """Whether some of the module is recomputed in the backward pass, by transformers or by torch's wrapper (FSDP)."""
    if getattr(module, "gradient_checkpointing", False) or isinstance(module, CheckpointWrapper):
        return True
    if isinstance(module, BaseTunerLayer):  # its adapters are not
        return any(_is_checkpointed(child) for name, child in module.named_children() if name == "base_layer")
    return any(map(_is_checkpointed, module.children()))


def _is_whole(parameter: torch.Tensor) -> bool:
    """Whether a parameter is all there: no shard (FSDP2's DTensor), flattened, emptied (FSDP1, ZeRO-3) or on disk."""
    return type(parameter) in (nn.Parameter, torch.Tensor) and parameter.dim() == 2 and not parameter.is_meta
