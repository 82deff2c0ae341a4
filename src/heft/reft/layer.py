"""The edit, hung on a module of the model.

The layer is a child named `reft` of the module whose output it edits, and works through a forward hook: no module is
wrapped or renamed, so other adapters' weights keep their names and the model's recorded hidden states are the edited
ones.
"""

from collections.abc import Iterator

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from heft.edits.positions import GROUPS, Positions
from heft.reft.config import ReftConfig
from heft.reft.interventions import Intervention
from heft.reft.streams import Places, Streams
from heft.reft.tracker import ForwardTracker


class ReftLayer(nn.Module, BaseTunerLayer):
    """All ReFT adapters at one site. Each adapter has one unit of weights, or two where first and last differ."""

    adapter_layer_names = ("reft_shared", "reft_first", "reft_last")

    def __init__(self, tracker: ForwardTracker, streams: Streams):
        super().__init__()
        self.reft_shared = nn.ModuleDict()
        self.reft_first = nn.ModuleDict()
        self.reft_last = nn.ModuleDict()
        self.positions: dict[str, Positions] = {}
        self.tracker, self._streams = tracker, streams
        self._trained: list[str] = []
        self._handle = None
        self._active_adapter = []

    def _absent(self):
        """PEFT's own properties would look for a wrapped layer without end."""
        raise AttributeError("a ReftLayer wraps no layer, so it has no weight and no bias")

    weight = bias = property(_absent)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """The input: where the site is an `nn.Sequential`, this child of it is one of its steps."""
        return hidden

    def attach(self, module: nn.Module) -> None:
        """Become the child `reft` of `module` and edit its output."""
        module.reft = self
        self._handle = module.register_forward_hook(self._edit_output)
        self.tracker.layers.append(self)

    def detach(self, module: nn.Module) -> None:
        """Leave `module` as `attach` found it."""
        self._handle.remove()
        self.tracker.layers.remove(self)
        del module.reft
        self.tracker.release()

    def add(self, adapter_name: str, config: ReftConfig, hidden_size: int, device: torch.device) -> None:
        """Give an adapter its units, in float32; only those that its positions use."""
        for units in (self.reft_shared, self.reft_first, self.reft_last):
            if adapter_name in units:
                del units[adapter_name]
        for group in config.edited_positions.groups(config.tied):
            unit = Intervention(config.intervention, hidden_size, config.rank, config.activation, config.dropout)
            if not any(p.is_meta for p in unit.parameters()):
                unit.to(device)
            getattr(self, f"reft_{group}")[adapter_name] = unit
        self.positions[adapter_name] = config.edited_positions

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter's units (see PEFT)."""
        super().delete_adapter(adapter_name)
        self.positions.pop(adapter_name, None)

    def units(self) -> Iterator[tuple[str, Intervention]]:
        """Every adapter's name with each of its units."""
        for name in self.adapter_layer_names:
            yield from getattr(self, name).items()

    def active(self) -> Iterator[tuple[str, str, Intervention]]:
        """The adapter, the group and the unit of every edit that a forward pass makes now, in order."""
        if self.disable_adapters:
            return
        for adapter_name in self.active_adapters:
            for group in GROUPS:
                units = getattr(self, f"reft_{group}")
                if adapter_name in units:
                    yield adapter_name, group, units[adapter_name]

    def enable_adapters(self, enabled: bool) -> None:
        """Switch all adapters on or off (see PEFT); what trains afterwards is what trained before."""
        training = [name for name, parameter in self.named_parameters() if parameter.requires_grad]
        if not enabled:
            self._trained = training if not self.disable_adapters else self._trained
        super().enable_adapters(enabled)
        if enabled:
            for name, parameter in self.named_parameters():
                parameter.requires_grad_(name in self._trained or name in training)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refuse: an edit depends on the hidden state and cannot become part of a weight.

        Raises:
            ValueError: `adapter_names` is None or names an adapter of this layer.
        """
        mine = set(self.positions) & set(self.positions if adapter_names is None else adapter_names)
        if mine:
            raise ValueError(
                f"ReFT adapters {sorted(mine)} edit hidden states and cannot be merged into weights;"
                " merge the LoRA adapters alone with adapter_names=[...]"
            )

    def unmerge(self) -> None:
        """Nothing is ever merged here."""

    def _edit_output(self, module: nn.Module, args: tuple, output):
        active = list(self.active())
        if not active:
            return None
        hidden = output[0] if isinstance(output, tuple | list) else output
        if not torch.is_tensor(hidden):
            raise ValueError(
                f"{type(module).__name__} returns a {type(hidden).__name__}, and ReFT edits a tensor of hidden"
                " states: use another site (block, attention, mlp), or LoRA on this model"
            )
        places = self._streams.places(hidden.shape, *self.tracker.layout.index_BT.shape)
        edit = self._edited_everywhere if torch.compiler.is_compiling() else self._edited_in_places
        edited = edit(hidden, places, active)
        if edited is hidden:
            return None
        return type(output)([edited, *output[1:]]) if isinstance(output, tuple | list) else edited

    def _edited_in_places(
        self, hidden: torch.Tensor, places: Places, active: list[tuple[str, str, Intervention]]
    ) -> torch.Tensor:
        """The hidden states after each adapter's edit of its tokens."""
        edited = hidden
        side_by_side: list[tuple[str, torch.Tensor, Intervention]] = []
        for adapter_name, group, unit in active:
            index_N = self.tracker.edited_indices(self.positions[adapter_name], group, hidden.device, adapter_name)
            if index_N.numel() and adapter_name in self.tracker.adapter_index:
                if self._come_after(adapter_name, side_by_side):
                    edited, side_by_side = self._edited(edited, [edit[1:] for edit in side_by_side]), []
                side_by_side.append((adapter_name, places.of(index_N), unit))
            elif index_N.numel():
                edited = self._edited(edited, [(places.of(index_N), unit)])
        if side_by_side:  # each has tokens of its own, so all can read the same state and be added at once
            edited = self._edited(edited, [edit[1:] for edit in side_by_side])
        return edited

    def _come_after(self, adapter_name: str, side_by_side: list[tuple[str, torch.Tensor, Intervention]]) -> bool:
        """Whether an adapter may edit tokens that another of these edits, whose result it then reads."""
        return any(name != adapter_name and self.tracker.share_tokens(name, adapter_name) for name, *_ in side_by_side)

    def _edited(self, hidden: torch.Tensor, edits: list[tuple[torch.Tensor, Intervention]]) -> torch.Tensor:
        """The hidden states with every edit added in its places, which no other edit has."""
        flat_MD = hidden.reshape(-1, self._streams.width)
        index_N = torch.cat([indices for indices, _ in edits])
        parts = flat_MD[index_N].split([len(indices) for indices, _ in edits])
        deltas = [unit(part, self.tracker.rotation(unit)) for part, (_, unit) in zip(parts, edits, strict=True)]
        return flat_MD.index_add(0, index_N, torch.cat(deltas)).view_as(hidden)

    def _edited_everywhere(
        self, hidden: torch.Tensor, places: Places, active: list[tuple[str, str, Intervention]]
    ) -> torch.Tensor:
        """As `_edited_in_places`, for a compiler: every token's edit is computed and those that are not wanted dropped.

        How many tokens are edited depends on values, which would end the compiled graph at every layer.
        """
        flat_MD = hidden.reshape(-1, self._streams.width)
        for adapter_name, group, unit in active:
            edited_N = self.tracker.edited_flags(self.positions[adapter_name], group, adapter_name).to(hidden.device)
            flat_MD = flat_MD + torch.where(places.spread(edited_N)[:, None], unit(flat_MD), 0)
        return flat_MD.view_as(hidden)


def layers_of(model: nn.Module) -> dict[str, ReftLayer]:
    """The ReFT layers that a model carries, by their full names such as `model.layers.3.reft`."""
    return {name: module for name, module in model.named_modules() if isinstance(module, ReftLayer)}
