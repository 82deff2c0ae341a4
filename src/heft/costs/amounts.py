"""What a model costs, as numbers by what they depend on: FLOPs, and bytes that autograd saves. No torch."""

from dataclasses import dataclass, field

from heft.edits.positions import Positions


@dataclass(frozen=True)
class Flops:
    """FLOPs of a forward and of a backward pass."""

    forward: float = 0.0
    backward: float = 0.0

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.forward + other.forward, self.backward + other.backward)

    def __mul__(self, times: float) -> "Flops":
        return Flops(self.forward * times, self.backward * times)

    @property
    def total(self) -> float:
        """Both passes."""
        return self.forward + self.backward


@dataclass
class SavedBytes:
    """Bytes that autograd saves for the backward pass, in a batch with padding (which brings a mask to attention).

    Attributes:
        token: for each token that runs with gradients.
        pair: for each pair of such a token and one that it is compared with: every layer's copy of the mask.
        seen: for each token of the cache: keys and values, repeated for the query heads that share them.
        step: once per pass.
        edits: for each edited token, by the same keys as `ModelCosts.edits`.
    """

    token: float = 0.0
    pair: float = 0.0
    seen: float = 0.0
    step: float = 0.0
    edits: dict[tuple[Positions, str], float] = field(default_factory=dict)


@dataclass
class ModelCosts:
    """What a model with its adapters costs.

    Attributes:
        token: FLOPs for each token that goes through the body.
        pair: for each pair of a token and one that it is compared with, padding and future included, in all layers.
        column: for each position with logits.
        step: once per pass, whatever its size (orthonormal rows; factorisations are not counted).
        edits: for each token that an edit or a LoRA of some tokens acts on, by positions and group
            (heft.edits.positions).
        saved: what autograd saves for the backward pass.
        kv_bytes: a token's keys and values.
        lower: the part of `token`, `pair` and `edits` that the lowest layers have, where these are counted separately.
        copies_prefixes: whether keys and values of a prefix are copied and get gradients, which nobody needs; else
            they are read in place (heft.models.prefix_attention).
    """

    token: Flops = Flops()
    pair: Flops = Flops()
    column: Flops = Flops()
    step: Flops = Flops()
    edits: dict[tuple[Positions, str], Flops] = field(default_factory=dict)
    saved: SavedBytes = field(default_factory=SavedBytes)
    kv_bytes: int = 0
    lower: "ModelCosts | None" = None
    copies_prefixes: bool = True

    def attention(self, tokens: int, own: int, cached: int) -> Flops:
        """FLOPs of tokens that are compared with `own` columns of their pass and `cached` ones of a prefix."""
        backward = 1.0 if self.copies_prefixes else 0.5  # each of both products has a factor of the prefix
        seen = Flops(self.pair.forward, self.pair.backward * backward)
        return self.pair * (tokens * own) + seen * (tokens * cached)
