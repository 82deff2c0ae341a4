"""`ActivatedLoraConfig`: what PEFT stores of a LoRA adapter that acts on some tokens only."""

from dataclasses import dataclass, fields

from peft import LoraConfig
from peft.utils import PeftType

from heft.edits.positions import Positions, parse_branch_positions

_PLAIN_STARTS = (True, False, "gaussian", "orthogonal")
"""Starts that leave the base's weights as they are."""
_ACTS_ON_ALL = ("target_parameters", "trainable_token_indices", "modules_to_save", "layer_replication")
"""Settings of PEFT that no position can be told for, or that change weights for all tokens."""


@dataclass
class ActivatedLoraConfig(LoraConfig):
    """Configuration of a LoRA adapter with positions; all other fields are PEFT's `LoraConfig`'s.

    Args:
        positions: `lN+`: the last N tokens of the prompt and every later one; `lN` is read so too.
        invocation_tokens: ids of the last N tokens of every prompt, where these are the same; the adapter is then
            saved as PEFT's own aLoRA (`alora_invocation_tokens`).

    Raises:
        ValueError: positions are another, or a field asks for what has no positions; all faults are named.
    """

    positions: str = "l1+"
    invocation_tokens: list[int] | None = None

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = PeftType.ACTIVATED_LORA
        self.positions = str(parse_branch_positions(self.positions))
        faults = [name for name in _ACTS_ON_ALL if getattr(self, name)]
        faults += [f.name for f in fields(self) if f.metadata.get("is_lora_variant") and getattr(self, f.name)]
        if self.init_lora_weights not in _PLAIN_STARTS:
            faults.append(f"init_lora_weights={self.init_lora_weights!r}")
        if self.bias != "none":
            faults.append(f"bias={self.bias!r}")
        if self.edited_positions.all_tokens:
            faults.append("positions='all', which is LoraConfig")
        elif self.invocation_tokens is not None and len(self.invocation_tokens) != self.edited_positions.last:
            faults.append(f"{len(self.invocation_tokens)} invocation_tokens for positions {self.positions}")
        if faults:
            raise ValueError(f"LoRA with positions cannot have {', '.join(faults)}")

    @property
    def edited_positions(self) -> Positions:
        """`positions`, read."""
        return parse_branch_positions(self.positions)
