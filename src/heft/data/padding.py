"""Whether what a model makes of a row depends on the padding beside it.

Most do not: positions are counted over real tokens and padding is masked. Models that count positions in columns (BART
and its kin) or keep a recurrent state without a mask (RWKV, xLSTM) do, and so do those that scale rotary positions by
the longest row of a batch (dynamic NTK, LongRoPE). Rows of one length are then put together, which need no padding.
"""

from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel

from heft.data.encode import left_pad
from heft.models.equality import rounding
from heft.models.forward import logits_of
from heft.models.prefix_states import scaled_beyond

_SHORT, _LONG = 5, 13
_KNOWN: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


@torch.no_grad()
def padding_matters(model: PreTrainedModel, pad_id: int, longest: int) -> bool:
    """Whether a short row beside a long one, padded on the left, gives other logits than alone; tried once a model.

    `longest` is the number of tokens of the longest row that is to come.
    """
    scaled = scaled_beyond(model)
    if scaled is not None and longest > scaled:
        return True
    if model not in _KNOWN:
        most = next(model.get_input_embeddings().parameters()).shape[0]  # trained tokens would be added to `weight`
        ids = [(pad_id + 1 + 7 * i) % most for i in range(_LONG)]
        short, long = ids[:_SHORT], ids
        was_training, _ = model.training, model.eval()
        alone, beside = (_last_logits(model, rows, pad_id) for rows in ([short], [short, long]))
        model.train(was_training)
        _KNOWN[model] = bool((alone - beside).abs().max() > rounding(model.dtype) * alone.abs().max())
    return _KNOWN[model]


def _last_logits(model: PreTrainedModel, rows: list[list[int]], pad_id: int) -> torch.Tensor:
    """Logits (V,) after the first row."""
    inputs = left_pad(rows, pad_id, model.device)
    lengths = torch.tensor([len(row) for row in rows], device=model.device)
    return logits_of(model, 1, **inputs, prompt_lengths=lengths, use_cache=False)[0, -1].float()
