"""From logits to tokens: the likeliest, or one drawn by the request's own generator.

Shapes: V vocabulary, K places.
"""

from collections.abc import Sequence

import torch

from heft.evaluation.generation import LEAST_TEMPERATURE
from heft.serving.requests import Chosen


def choose(logits_V: torch.Tensor, temperature: float, top_p: float, generator: torch.Generator | None) -> int:
    """A token: the likeliest at temperature 0, else a draw.

    Draws are made on the CPU in float32, so that a seed gives the same tokens beside other requests as alone, and on
    any device up to its own rounding.
    """
    if temperature == 0:
        return int(logits_V.argmax())
    logits_V = logits_V.float().cpu()
    scaled_V = ((logits_V - logits_V.max()) / max(temperature, LEAST_TEMPERATURE)).softmax(-1)
    if top_p < 1:
        ordered_V, order_V = scaled_V.sort(descending=True, stable=True)
        before_V = ordered_V.cumsum(-1) - ordered_V
        kept_V = torch.where(before_V < top_p, ordered_V, 0.0)
        kept_V[0] = ordered_V[0]  # top_p may be smaller than rounding
        return int(order_V[torch.multinomial(kept_V, 1, generator=generator)])
    return int(torch.multinomial(scaled_V, 1, generator=generator))


def generator_of(seed: int | None) -> torch.Generator:
    """The source of one request's draws."""
    generator = torch.Generator()
    if seed is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def described(logits_KV: torch.Tensor, tokens: Sequence[int], top: int | None) -> tuple[Chosen, ...]:
    """The tokens at K places with their log-probabilities; 0 where none is wanted (`top` is None)."""
    if top is None:
        return tuple(Chosen(int(token), 0.0) for token in tokens)
    log_probs_KV = logits_KV.float().log_softmax(-1)
    chosen_K = log_probs_KV.gather(-1, torch.tensor(tokens, device=logits_KV.device)[:, None]).squeeze(1).tolist()
    if not top:
        return tuple(Chosen(int(token), value) for token, value in zip(tokens, chosen_K, strict=True))
    values_KN, ids_KN = log_probs_KV.topk(min(top, log_probs_KV.shape[-1]), dim=-1)
    tops = [
        tuple(zip(ids, values, strict=True)) for ids, values in zip(ids_KN.tolist(), values_KN.tolist(), strict=True)
    ]
    return tuple(Chosen(int(t), value, each) for t, value, each in zip(tokens, chosen_K, tops, strict=True))
