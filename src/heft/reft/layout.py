"""What one forward pass holds, and which of its tokens are edited (the rule itself: heft.edits.positions).

Every rule here counts attended tokens, so it does not matter on which side a row is padded, whether rows are alone
or in a batch, or how much of a row is already in the cache. Shapes: B rows, T tokens of this call, S = cached + T.
Sequences that are packed into one row are in heft.reft.packing.
"""

from dataclasses import dataclass

import torch

from heft.edits.positions import Positions


@dataclass(frozen=True)
class TokenLayout:
    """What one forward pass holds.

    Attributes:
        index_BT: number of each token among its sequence's attended tokens, from 0; −1 for padding.
        prompt_B: length of each row's prompt in attended tokens; (B, T) where rows are packed: of the prompt of the
            sequence that each token is part of.
        adapter_BT: which adapter may edit a token, where several run side by side (`ForwardTracker.adapter_index`);
            −1 for none.
        order_BT: where given, an adapter takes its own tokens in this order (dropout is drawn in the order of rows).
    """

    index_BT: torch.Tensor
    prompt_B: torch.Tensor
    adapter_BT: torch.Tensor | None = None
    order_BT: torch.Tensor | None = None

    @property
    def prompt_BT(self) -> torch.Tensor:
        """Length of the prompt that each token's sequence has: (B, T), or (B, 1) where it is the row's."""
        return self.prompt_B if self.prompt_B.dim() == 2 else self.prompt_B[:, None]


def attended_tokens(mask: torch.Tensor | dict | None, batch: int, total: int, device: torch.device) -> torch.Tensor:
    """Bool (B, S): which tokens are real, from any attention mask that a transformers model is given.

    Args:
        mask: None (all are real), (B, S), (B, 1, T, S), or a dict of the latter by attention type.
        batch: B.
        total: S; positions of a fixed-size cache beyond it are dropped.
        device: where the result lives when there is no mask.

    Raises:
        ValueError: a mask by queries that has dropped tokens of the cache, or one that is too short.
    """
    if isinstance(mask, dict):
        mask = mask.get("full_attention", next(iter(mask.values())))
    if mask is None:
        return torch.ones(batch, total, dtype=torch.bool, device=device)
    if mask.dim() == 4:  # every real token of this call is seen by itself at least, also in a sliding window
        mask = (mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] == 0).any(dim=1)
        if mask.shape[1] < total:
            raise ValueError(
                f"the attention mask covers {mask.shape[1]} of {total} tokens (a sliding window), so where the prompt"
                " is cannot be told: pass a 2-D attention_mask, to generate too"
            )
    if mask.shape[1] < total:
        raise ValueError(
            f"the attention mask covers {mask.shape[1]} of {total} tokens, those in the cache included: pass one of"
            f" shape ({batch}, {total})"
        )
    return mask[:, :total].bool().expand(batch, total)


def number_tokens(attended_BS: torch.Tensor) -> torch.Tensor:
    """Int (B, S): the number of each token among its row's attended ones, from 0; −1 for padding."""
    return (attended_BS.long().cumsum(1) - 1).masked_fill(~attended_BS, -1)


def prompt_lengths_from_labels(labels_BT: torch.Tensor, attended_BT: torch.Tensor) -> torch.Tensor:
    """Int (B,): attended tokens before the first label that is not −100 (all of them where there is none)."""
    before_answer = (labels_BT != -100).long().cumsum(1) == 0
    return (attended_BT & before_answer).sum(1)


def edited_tokens(layout: TokenLayout, positions: Positions, group: str) -> torch.Tensor:
    """Bool (B, T): the tokens of this pass that one set of weights edits."""
    return positions.edits(layout.index_BT, layout.prompt_BT, group)


def edited_token_indices(layout: TokenLayout, positions: Positions, group: str) -> torch.Tensor:
    """Flat indices into (B·T,) of the tokens that `edited_tokens` names, each once."""
    return edited_tokens(layout, positions, group).flatten().nonzero().squeeze(1)
