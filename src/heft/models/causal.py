"""Whether a model reads from left to right, as every score of an answer takes it to."""

import torch
from transformers import PreTrainedModel

from heft.errors import HeftError
from heft.models.equality import rounding

_COLUMNS = 6


def require_causal(name: str, model: PreTrainedModel) -> None:
    """Require that what a model says behind a token does not depend on the tokens after it.

    Two rows that begin alike are computed where no attention of the model says that it is causal. Some classes for
    causal models attend to both sides unless their configuration says otherwise (BERT's kin), or do so always (XLNet).

    Raises:
        HeftError: the model reads ahead.
    """
    if any(getattr(module, "is_causal", False) is True for module in model.modules()):
        return
    first, others = 5, torch.arange(_COLUMNS - 1, device=model.device) + 6
    ids = torch.full((2, _COLUMNS), first, device=model.device)
    ids[1, 1:] = others
    try:
        with torch.no_grad():
            logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.float()
    except Exception:  # of so few tokens, or of these, a model may raise anything
        return
    spread = logits.max() - logits.min()
    if (logits[0, 0] - logits[1, 0]).abs().max() <= rounding(model.dtype) * spread or not spread.isfinite():
        return
    advice = "take one that was trained to generate text from left to right"
    if getattr(model.config, "is_decoder", None) is False:
        advice = f"set is_decoder: true in config.json of a copy that was trained so, or {advice}"
    raise HeftError(
        f"model {name!r} reads ahead: what it expects after a token depends on the tokens behind it, so an answer"
        f" would be scored by a look at itself; {advice}"
    )
