"""Logits of rows, alone or padded on either side, and what rounding may change of them.

Shapes: B rows, T tokens, K columns whose logits are compared, V vocabulary.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from heft.adapters.lora_targets import expert_names
from heft.data.encode import EncodedExample, left_pad
from heft.models.forward import logits_of
from heft.verify.finding import Finding, judged

COLUMNS = 16
"""Logits are compared after this many last tokens of a row: whatever happens to an earlier token shows there."""


@torch.inference_mode()
def row_logits(model: PreTrainedModel, rows: Sequence[EncodedExample], pad_id: int, side: str = "left") -> torch.Tensor:
    """Logits (B, K, V) in float32, on the CPU, after the last tokens of each row (prompt and answer).

    Args:
        model: in evaluation mode.
        rows: prompts with answers; K is `COLUMNS`, or the shortest row.
        pad_id: id of the padding token.
        side: where the batch is padded, "left" or "right".
    """
    ids = [row.prompt + row.answer for row in rows]
    inputs = left_pad(ids, pad_id) if side == "left" else right_pad(ids, pad_id)
    inputs = {key: value.to(model.device) for key, value in inputs.items()}
    inputs["prompt_lengths"] = torch.tensor([len(row.prompt) for row in rows], device=model.device)
    width = inputs["input_ids"].shape[1]
    kept = min(COLUMNS, *map(len, ids)) if len(ids) > 1 else min(COLUMNS, len(ids[0]))
    ends = [width if side == "left" else len(row) for row in ids]
    columns = sorted({column for end in ends for column in range(end - kept, end)})
    keep = torch.tensor(columns, device=model.device)
    logits_BCV = logits_of(model, keep, **inputs, use_cache=False).float().cpu()
    place = {column: i for i, column in enumerate(columns)}
    picked = [logits_BCV[i, [place[c] for c in range(end - kept, end)]] for i, end in enumerate(ends)]
    return torch.stack(picked)


def logits_in_plain_peft(
    base: PreTrainedModel, folder: Path, rows: Sequence[EncodedExample], pad_id: int
) -> torch.Tensor | Exception:
    """Logits (B, K, V) with one folder loaded by `PeftModel.from_pretrained`, or why it does not load.

    The base is left as it was.
    """
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")  # PEFT asks by the old name
            model = PeftModel.from_pretrained(base, str(folder))
    except Exception as error:  # whatever PEFT raises, the folder does not load
        return error
    try:
        return row_logits(model.eval(), rows, pad_id)
    finally:
        model.unload()
        base.requires_grad_(False)


def right_pad(rows: Sequence[Sequence[int]], pad_id: int) -> dict[str, torch.Tensor]:
    """As `heft.data.encode.left_pad`, padded on the right."""
    left = left_pad(rows, pad_id)
    width = left["input_ids"].shape[1]
    shifts = [width - len(row) for row in rows]
    turned = {key: torch.stack([row.roll(-n) for row, n in zip(left[key], shifts, strict=True)]) for key in left}
    turned["position_ids"] = (turned["attention_mask"].cumsum(1) - 1).clamp(min=0)
    return turned


def largest(first: torch.Tensor, second: torch.Tensor) -> float:
    """The largest absolute difference; NaN where either side has one."""
    return (first - second).abs().max().item()


def apart(model: PreTrainedModel, first: torch.Tensor, second: torch.Tensor) -> float:
    """How far two sets of a model's logits (…, V) are apart, as `rounding_of` judges: the largest difference.

    In a mixture of experts in less than float32 it is the median over tokens: rounding sends some tokens to other
    experts, which changes all of their logits, and a mistake changes those of most tokens.
    """
    if not _reroutes(model):
        return largest(first, second)
    return (first - second).abs().amax(-1).median().item()


def _reroutes(model: PreTrainedModel) -> bool:
    """Whether rounding may send tokens to other experts."""
    is_mixture = bool(expert_names(model)) or any(".experts." in name for name, _ in model.named_parameters())
    return is_mixture and model.dtype != torch.float32


def judged_logits(
    check: str,
    compared: str,
    first_BKV: torch.Tensor,
    second_BKV: torch.Tensor,
    tolerance: float,
    why: str,
    must_exceed: bool = False,
    difference: float | None = None,
) -> Finding:
    """A finding on two sets of logits: their largest difference, unless another is given, and how many most likely
    tokens differ."""
    counted = {"differ": changed_predictions(first_BKV, second_BKV), "of": first_BKV[..., 0].numel()}
    difference = largest(first_BKV, second_BKV) if difference is None else difference
    return judged(check, compared, "logits", difference, tolerance, why, must_exceed, **counted, things="predictions")


def changed_predictions(first_BKV: torch.Tensor, second_BKV: torch.Tensor) -> int:
    """At how many places the most likely token differs."""
    return int((first_BKV.argmax(-1) != second_BKV.argmax(-1)).sum())


@dataclass(frozen=True)
class Rounding:
    """What may differ where the same sums are taken in another order.

    Attributes:
        relative: largest difference of logits, as a share of the largest logit.
        scale: the largest absolute logit of the probe that is a number, of the base's and the adapted model's.
        why: in words.
    """

    relative: float
    scale: float
    why: str

    @property
    def logits(self) -> float:
        """The tolerance of logits."""
        return self.relative * self.scale

    def log_likelihoods(self, tokens: int) -> float:
        """The tolerance of a sum of `tokens` log-probabilities, each a difference of two terms as large as a logit."""
        return 2 * tokens * self.logits


def rounding_of(model: PreTrainedModel, quantization: str | None, logits_BKV: torch.Tensor) -> Rounding:
    """The tolerances for a model's number format.

    float32 has 24 bits. Sums in another order were seen to change logits of models of 3 and 4 layers by up to 1e-6
    of the largest; deeper ones add up more, so 1e-4 leaves room. bfloat16 has 8 bits.
    """
    scale = logits_BKV.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).abs().max().item()
    if quantization:
        relative, what = 0.1, f"{quantization} weights, whose products may be rounded by what else is in a batch"
    elif model.dtype == torch.float32:
        relative, what = 1e-4, "float32 sums in another order"
    else:
        relative, what = 5e-2, "bfloat16 sums, of 8 bits, in another order"
    routed = ", which send some tokens to other experts: the median over tokens" if _reroutes(model) else ""
    return Rounding(relative, scale, f"{relative:g} of the largest logit, {scale:.3g}; {what}{routed}")
