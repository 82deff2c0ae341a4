"""What this plugin keeps for one model runner of vLLM."""

from dataclasses import dataclass, field

from heft.vllm_plugin.edits import EditState


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
