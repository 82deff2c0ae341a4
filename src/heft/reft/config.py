"""`ReftConfig`: what PEFT stores of a ReFT adapter."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from peft import PeftConfig
from peft.utils import PeftType
from pydantic import ValidationError

from heft.edits.positions import Positions, parse_positions
from heft.edits.settings import ReftSettings
from heft.settings.words import faults_of, in_one_line


def _default(name: str):
    return ReftSettings.model_fields[name].default


@dataclass
class ReftConfig(PeftConfig):
    """Configuration of a ReFT adapter; fields, defaults and checks are those of `heft.edits.settings.ReftSettings`.

    Args:
        intervention: `loreft`, `noreft`, `direft`, `consreft` or `lobireft` (heft.edits.equations).
        rank: dimensions of the edited subspace.
        layers: "all" or a list of layer numbers from 0; negative ones count from the end.
        site: whose output is edited: "block", "attention" or "mlp".
        positions: edited tokens: "all", "fN", "lN", "lN+", "fN+lN" or "fN+lN+".
        tied: whether first and last positions share weights (fN+lN only).
        activation: None, "relu", "gelu", "silu", "tanh" or "sigmoid", on Wh + b.
        dropout: probability in [0, 1), on the low-rank difference.
        modules_to_save: names of modules that are trained whole and saved beside the edits, as PEFT has it; with
            `task_type` SEQ_CLS, TOKEN_CLS or QUESTION_ANS PEFT adds the model's new head. Adapter directories of heft
            hold none.

    Raises:
        ValueError: a value is not one of these; all faults are named.
    """

    intervention: str = _default("intervention")
    rank: int = _default("rank")
    layers: str | list[int] = _default("layers")
    site: str = _default("site")
    positions: str = _default("positions")
    tied: bool = _default("tied")
    activation: str | None = _default("activation")
    dropout: float = _default("dropout")
    modules_to_save: list[str] | None = None

    target_modules: ClassVar[None] = None
    """PEFT's tuners look for this; what is edited follows from `layers` and `site`."""

    def __post_init__(self):
        super().__post_init__()
        self.peft_type = PeftType.REFT
        if isinstance(self.layers, Iterable) and not isinstance(self.layers, str):
            self.layers = list(self.layers)
        settings = {name: getattr(self, name) for name in ReftSettings.model_fields}
        try:
            ReftSettings.model_validate(settings, strict=True)
        except ValidationError as error:
            raise ValueError(f"ReftConfig: {in_one_line(faults_of(error, ReftSettings))}") from None

    @property
    def edited_positions(self) -> Positions:
        """`positions`, read."""
        return parse_positions(self.positions)
