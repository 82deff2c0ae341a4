"""The edits that are in memory, and their arithmetic: for a graph that is replayed, and for one that is not.

An engine has as many slots as vLLM's LoRA (`--max-loras`); an adapter's edits lie in the slot of its LoRA. Before each
pass, `EditState.begin` says which tokens are edited. Then each place reads and changes the hidden states:

- **gathered**, where Python runs in every pass: only the edited tokens are computed.
- **masked**, where a CUDA graph is replayed: weights of all slots are one matrix of fixed shape and address, every
  token is computed with all of them, and a mask leaves what its own adapter adds. The work for a token is that of a
  LoRA of rank slots·rank.

No vLLM. Shapes: T tokens of a pass, d hidden size, N = slots·rank rows of weights, K = slots·KINDS kinds of tokens.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from heft.errors import HeftError
from heft.vllm_plugin.directory import Adapter, Edit, Place
from heft.vllm_plugin.tokens import Kind

KINDS = 4
"""How many kinds of tokens one adapter may tell apart; each ReFT stage has one, or two where `tied: false`."""


@dataclass(frozen=True)
class Piece:
    """Tokens of one request that are in a pass.

    Attributes:
        slot: of its adapter.
        offset: where they begin in the pass.
        start, count: number of the first one in its sequence, and how many there are.
        prompt: tokens of the sequence's prompt.
    """

    slot: int
    offset: int
    start: int
    count: int
    prompt: int


class EditState:
    """All slots of one model, and the tokens of the pass that runs.

    Args:
        places: where this model can be edited.
        slots: how many adapters are there at a time.
        rank: rows of weights that one adapter may have at one place.
        tokens: of a pass, at most, with padding.
        masked: whether passes may be replayed graphs.
    """

    def __init__(
        self,
        places: Sequence[Place],
        hidden_size: int,
        slots: int,
        rank: int,
        tokens: int,
        device: torch.device,
        masked: bool,
    ):
        self.rank, self.masked, self._device = rank, masked, device
        self._adapters: list[Adapter | None] = [None] * slots
        self.tables = {place: _Table(self, place, hidden_size, slots, device) for place in places}
        self.mask_TK = torch.zeros(tokens if masked else 0, slots * KINDS + 1, device=device)
        self._marked = False
        self.edited: dict[tuple[int, int], torch.Tensor] = {}

    def refusal(self, adapter: Adapter) -> str | None:
        """Why an adapter cannot be put into a slot; None where it can."""
        if len(adapter.layout.kinds) > KINDS:
            return f"it tells {len(adapter.layout.kinds)} kinds of tokens apart, and {KINDS} are possible"
        missing = {place.site for place in adapter.edits} - {place.site for place in self.tables}
        if missing:
            return (
                f"it edits outputs of {', '.join(sorted(missing))}, for which the model is not prepared: start vLLM"
                f' with --additional-config \'{{"heft": {{"sites": {json.dumps(sorted(missing | self._sites()))}}}}}\''
            )
        for place, edits in adapter.edits.items() if self.masked else ():
            rows = sum(len(edit.bias) for edit in edits)
            if rows > self.rank:
                return (
                    f"its edits of layer {place.layer} have rank {rows}, and there is room for {self.rank}: start vLLM"
                    f' with --additional-config \'{{"heft": {{"rank": {rows}}}}}\', or with --enforce-eager'
                )
            if any(edit.settings.activation for edit in edits):
                return "an edit with an activation is not part of a CUDA graph: start vLLM with --enforce-eager"
            if len({edit.name for edit in edits}) > 1:
                return (
                    f"layer {place.layer} is edited by {' and '.join(dict.fromkeys(edit.name for edit in edits))}, one"
                    " after the other, which is not part of a CUDA graph: start vLLM with --enforce-eager"
                )
        return None

    def put(self, slot: int, adapter: Adapter | None) -> None:
        """Fill a slot; None empties it."""
        if adapter is not None:
            reason = self.refusal(adapter)
            if reason is not None:
                raise HeftError(f"{adapter.layout.directory} cannot be served: {reason}")
        self._adapters[slot] = adapter
        for place, table in self.tables.items():
            table.put(slot, () if adapter is None else adapter.edits.get(place, ()))

    def kinds(self, slot: int) -> tuple[Kind, ...]:
        """The kinds of tokens of the adapter in a slot."""
        adapter = self._adapters[slot]
        return () if adapter is None else adapter.layout.kinds

    def begin(self, pieces: Iterable[Piece]) -> None:
        """Say which tokens the next pass edits: those of these requests that their adapters' positions name."""
        found: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for piece in pieces:
            for number, kind in enumerate(self.kinds(piece.slot)):
                for first, last in kind.ranges(piece.prompt, piece.start, piece.start + piece.count):
                    shift = piece.offset - piece.start
                    found.setdefault((piece.slot, number), []).append((first + shift, last + shift))
        if self.masked:
            self._mark(found)
        else:
            self.edited = {key: _indices(ranges).to(self._device) for key, ranges in found.items()}

    def _mark(self, found: Mapping[tuple[int, int], list[tuple[int, int]]]) -> None:
        if self._marked:
            self.mask_TK.zero_()
        self._marked = bool(found)
        for (slot, number), ranges in found.items():
            index = _indices(ranges).to(self._device, non_blocking=True)
            self.mask_TK[:, slot * KINDS + number].index_fill_(0, index, 1.0)

    def _sites(self) -> set[str]:
        return {place.site for place in self.tables}


class _Table:
    """What is edited at one place, by slot."""

    def __init__(self, state: EditState, place: Place, hidden_size: int, slots: int, device: torch.device):
        self.state, self.place = state, place
        self._slots: list[tuple[Edit, ...]] = [()] * slots
        if state.masked:
            rows = slots * state.rank
            self.matrix_ND = torch.zeros(rows, hidden_size, device=device)
            self.bias_N = torch.zeros(rows, device=device)
            self.basis_ND = torch.zeros(rows, hidden_size, device=device)
            self.kind_N = torch.full((rows,), slots * KINDS, device=device)  # of the column that is always 0

    def put(self, slot: int, edits: Sequence[Edit]) -> None:
        device = self.state._device
        self._slots[slot] = tuple(edit.to(device) for edit in edits)
        if not self.state.masked:
            return
        begin = slot * self.state.rank
        for table in (self.matrix_ND, self.bias_N, self.basis_ND):
            table[begin : begin + self.state.rank].zero_()
        self.kind_N[begin : begin + self.state.rank] = len(self._slots) * KINDS
        for edit in edits:
            end = begin + len(edit.bias)
            self.matrix_ND[begin:end], self.bias_N[begin:end] = edit.matrix.to(device), edit.bias.to(device)
            self.basis_ND[begin:end], self.kind_N[begin:end] = edit.basis.to(device), slot * KINDS + edit.kind
            begin = end

    def edit(self, hidden: torch.Tensor, residual: torch.Tensor | None) -> None:
        """Add to `hidden` what the edits add to the state, which is the sum of `hidden` and `residual`."""
        if self.state.masked:
            self._edit_masked(hidden, residual)
            return
        edited = self.state.edited
        for slot in {slot for slot, _ in edited}:
            for edit in self._slots[slot]:  # stage by stage, since a later one reads what those before it give
                index = edited.get((slot, edit.kind))
                if index is not None:
                    state = hidden[index] if residual is None else hidden[index] + residual[index]
                    hidden.index_add_(0, index, edit.delta(state))

    def _edit_masked(self, hidden: torch.Tensor, residual: torch.Tensor | None) -> None:
        state = (hidden if residual is None else hidden + residual).float()
        difference_TN = F.linear(state, self.matrix_ND, self.bias_N)
        mask_TN = self.state.mask_TK[: len(hidden)].index_select(1, self.kind_N)
        hidden.add_((difference_TN.mul_(mask_TN) @ self.basis_ND).to(hidden.dtype))


def _indices(ranges: Sequence[tuple[int, int]]) -> torch.Tensor:
    return torch.cat([torch.arange(first, last) for first, last in ranges])
