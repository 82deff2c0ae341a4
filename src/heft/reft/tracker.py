"""What the forward pass now running is about: where each row's prompt is, and every layer's rotation.

One tracker serves a base model, however many ReFT adapters it carries. It listens on the model (and on its decoder
body, for callers that go past the head), never replaces a module, and takes off only what it put on.

A prompt's length is, in this order: the `prompt_lengths` keyword of `forward`; the tokens before the first label that
is not −100; inside `generate`, the attended input it was given, kept for every later step, cached or not; with a
cache filled by an earlier call, that call's prompt; else the attended input.
"""

import inspect

import torch
from torch import nn
from torch.nn import functional

from heft.reft.interventions import Intervention
from heft.reft.orthonormal import orthonormal_rows
from heft.reft.positions import TokenLayout, attended_tokens, edited_rows, number_tokens, prompt_lengths_from_labels
from heft.reft.settings import Positions

_ON_CACHE = "_heft_prompt_lengths"


class ForwardTracker:
    """Follows the forward passes of one model. `layers` are the `ReftLayer`s that read it.

    `owners` numbers the adapters that run side by side: each edits only the tokens that `owner_BT` of the pass's
    `token_layout` gives to it, and none in a pass without one.
    """

    def __init__(self):
        self.layers: list = []
        self.owners: dict[str, int] = {}
        self._handles: list = []
        self._layout: TokenLayout | None = None
        self._labelled = False
        self._running: nn.Module | None = None
        self._checkpointing = False
        self._rows: dict = {}
        self._rotations: dict = {}
        self._generating = False
        self._generate_length = 0
        self._generate_mask: torch.Tensor | None = None
        self._generate_prompt_B: torch.Tensor | None = None
        self._plain_generate = None

    def attach(self, model: nn.Module) -> None:
        """Listen to `model`; its `generate`, if it has one, is followed so that a prompt's length is kept."""
        body = model.get_decoder() if hasattr(model, "get_decoder") else None
        for module in [model] if body is None or body is model else [model, body]:
            self._handles.append(module.register_forward_pre_hook(self._before_forward, with_kwargs=True))
            self._handles.append(module.register_forward_hook(self._after_forward, always_call=True))
        if hasattr(model, "generate"):
            self._plain_generate = model.generate
            model.generate = self._generate

    def detach(self, model: nn.Module) -> None:
        """Leave `model` as `attach` found it."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        if self._plain_generate is not None:
            del model.generate
            self._plain_generate = None

    def rows(
        self, positions: Positions, part: str, device: torch.device, adapter_name: str | None = None
    ) -> torch.Tensor:
        """Flat indices into (B·T,) of the tokens that an adapter's `part` edits in this pass."""
        if self._layout is None:
            raise RuntimeError("a block with a ReFT edit was called outside the model's own forward: call the model")
        key = (positions, part, self.owners.get(adapter_name))
        if key not in self._rows:
            if self._labelled and not positions.every and bool((self._layout.prompt_B == 0).any()):
                raise ValueError(
                    "a row is labelled from its first token on, so it has no prompt for a ReFT edit to stand in: set"
                    " the labels of the prompt to -100, pass prompt_lengths=[...], or use positions='all'"
                )
            rows_N = edited_rows(self._layout, positions, part)
            self._rows[key] = rows_N if key[2] is None else self._owned(rows_N, key[2])
        return self._rows[key].to(device)

    def _owned(self, rows_N: torch.Tensor, owner: int) -> torch.Tensor:
        """Those of the rows that belong to an owner."""
        if self._layout.owner_BT is None:
            return rows_N[:0]
        rows_N = rows_N[self._layout.owner_BT.flatten()[rows_N] == owner]
        if self._layout.order_BT is None:
            return rows_N
        return rows_N[self._layout.order_BT.flatten()[rows_N].argsort(stable=True)]

    def rotation(self, unit: Intervention) -> torch.Tensor | None:
        """R (r, d) of one unit; the first call of a pass computes those of all active units, stacked by shape.

        Under gradient checkpointing each unit computes its own when asked, since a recomputed block must not reach
        into the graph of the others.
        """
        if unit.rotation is None or self._checkpointing:
            return None
        if id(unit) not in self._rotations:
            self._compute_rotations()
        return self._rotations.get(id(unit))

    def _compute_rotations(self) -> None:
        groups: dict[tuple, list[Intervention]] = {}
        for layer in self.layers:
            for unit in layer.active_units():
                raw = unit.rotation
                if raw is not None:
                    groups.setdefault((raw.shape, raw.dtype, raw.device), []).append(unit)
        for units in groups.values():
            stacked = orthonormal_rows(torch.stack([unit.rotation for unit in units]))
            self._rotations.update({id(unit): rows for unit, rows in zip(units, stacked.unbind(), strict=True)})

    def _before_forward(self, module: nn.Module, args: tuple, kwargs: dict):
        given, layout = kwargs.pop("prompt_lengths", None), kwargs.pop("token_layout", None)
        if self._running is None:
            names = list(inspect.signature(module.forward).parameters)
            call = dict(zip(names, args, strict=False)) | kwargs
            tokens = call.get("input_ids") if call.get("input_ids") is not None else call.get("inputs_embeds")
            if tokens is not None:
                self._running = module
                self._rows, self._rotations = {}, {}
                self._labelled = False
                self._layout = layout if layout is not None else self._layout_of(tokens, call, given)
                self._checkpointing = module.training and _is_checkpointed(module)
        return args, kwargs

    def _after_forward(self, module: nn.Module, args: tuple, output) -> None:
        if self._running is module:
            self._running = None
            self._rotations = {}  # they hold this pass's graph
            outputs = output.values() if isinstance(output, dict) else output if isinstance(output, tuple) else [output]
            for value in outputs:
                if hasattr(value, "get_seq_length"):  # a cache that the model made itself
                    setattr(value, _ON_CACHE, self._layout.prompt_B)
            if self._checkpointing and torch.is_grad_enabled():
                self._resume_in_backward([value for value in outputs if torch.is_tensor(value)])

    def _resume_in_backward(self, outputs: list[torch.Tensor]) -> None:
        """See that a recomputed attention or MLP edits its own pass's tokens, whatever has run in between."""
        layout = self._layout

        def resume(_gradient):
            self._layout, self._rows, self._rotations, self._checkpointing = layout, {}, {}, True

        for tensor in outputs:
            if tensor.requires_grad:
                tensor.register_hook(resume)

    def _layout_of(self, tokens: torch.Tensor, call: dict, given) -> TokenLayout:
        batch, length = tokens.shape[:2]
        cache = call.get("past_key_values")
        cached = int(cache.get_seq_length()) if hasattr(cache, "get_seq_length") else 0
        mask = self._mask_in_generate(batch, cached + length)
        mask = call.get("attention_mask") if mask is None else mask
        attended_BS = attended_tokens(mask, batch, cached + length, tokens.device)
        labels = call.get("labels")
        self._labelled = given is None and labels is not None
        if given is not None:
            prompt_B = torch.as_tensor(given, device=tokens.device).long()
            if prompt_B.shape != (batch,):
                shape = list(prompt_B.shape)
                raise ValueError(f"prompt_lengths must hold one length for each of {batch} rows; got shape {shape}")
        elif labels is not None:
            answered_B = prompt_lengths_from_labels(labels.to(tokens.device), attended_BS[:, cached:])
            prompt_B = attended_BS[:, :cached].sum(1) + answered_B
        elif self._generating:
            prompt_B = self._kept_by_generate(attended_BS)
        else:
            unknown_cache_B = attended_BS[:, :cached].sum(1)
            prompt_B = getattr(cache, _ON_CACHE, unknown_cache_B) if cached else attended_BS.sum(1)
            if len(prompt_B) != batch:
                raise ValueError(
                    f"the cache was filled by a call of {len(prompt_B)} rows, and this one has {batch}: pass"
                    " prompt_lengths=[...], one for each row"
                )
        if cache is not None:  # some models give back no cache that they were handed with use_cache=False
            setattr(cache, _ON_CACHE, prompt_B)
        return TokenLayout(number_tokens(attended_BS)[:, cached:], prompt_B)

    def _mask_in_generate(self, batch: int, total: int) -> torch.Tensor | None:
        """(B, S): the mask that `generate` was given, for each of its beams; generated tokens are real."""
        given = self._generate_mask
        if given is None or batch % len(given):
            return None
        mask = given.bool().repeat_interleave(batch // len(given), dim=0)
        return functional.pad(mask, (0, total - mask.shape[1]), value=True)  # a negative pad cuts (chunked prefill)

    def _kept_by_generate(self, attended_BS: torch.Tensor) -> torch.Tensor:
        still_to_come = self._generate_length - attended_BS.shape[1]  # chunked prefill; left padding has been seen
        if self._generate_prompt_B is None or still_to_come >= 0:
            self._generate_prompt_B = attended_BS.sum(1) + max(0, still_to_come)
        return self._generate_prompt_B

    def _generate(self, *args, **kwargs):
        tokens = args[0] if args else kwargs.get("inputs", kwargs.get("input_ids", kwargs.get("inputs_embeds")))
        mask = kwargs.get("attention_mask")
        before = self._generating, self._generate_length, self._generate_mask, self._generate_prompt_B
        self._generating = True
        self._generate_length = tokens.shape[1] if torch.is_tensor(tokens) else 0
        self._generate_mask = mask if torch.is_tensor(mask) and mask.dim() == 2 else None
        self._generate_prompt_B = None
        try:
            return self._plain_generate(*args, **kwargs)
        finally:
            self._generating, self._generate_length, self._generate_mask, self._generate_prompt_B = before


def _is_checkpointed(module: nn.Module) -> bool:
    """Whether transformers recomputes some of the module in the backward pass (its own property was renamed)."""
    return any(getattr(part, "gradient_checkpointing", False) for part in module.modules())
