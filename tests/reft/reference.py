"""LoReFT written a second time, for comparison: plain hooks, R by QR, tokens taken and put back by explicit index."""

import torch
from torch import nn


class ReferenceEdit(nn.Module):
    """h + (Wh + b − Rh)R with W (r×d), b (r) and R the Q of a QR decomposition of A (r×d), signs made positive."""

    def __init__(self, A: torch.Tensor, W: torch.Tensor, b: torch.Tensor):
        super().__init__()
        self.A, self.W, self.b = (nn.Parameter(t.detach().clone()) for t in (A, W, b))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        q, upper = torch.linalg.qr(self.A.T)
        R = (q * torch.sign(torch.diagonal(upper))).T
        return h + (h @ self.W.T + self.b - h @ R.T) @ R


class ReferenceLoreft:
    """Edits every block of a Llama at given columns of each row.

    Args:
        model: a plain LlamaForCausalLM; all of it is frozen.
        edits: per layer, the edits of the first and of the last tokens (the same one twice where they are tied).
    """

    def __init__(self, model, edits: list[tuple[ReferenceEdit, ReferenceEdit]]):
        self.model = model.requires_grad_(False)
        self.edits = edits
        self.columns: list[tuple[list[int], list[int]]] = []
        for layer, pair in zip(model.model.layers, edits, strict=True):
            layer.register_forward_hook(lambda _, args, output, pair=pair: self._edited(output, pair))

    def _edited(self, hidden: torch.Tensor, pair: tuple[ReferenceEdit, ReferenceEdit]) -> torch.Tensor:
        for kind in (0, 1):
            for row, columns in enumerate(self.columns):
                index = torch.tensor(columns[kind])[:, None].expand(-1, hidden.shape[-1])
                taken = torch.gather(hidden[row], 0, index)
                new_row = torch.scatter(hidden[row], 0, index, pair[kind](taken))
                hidden = torch.cat([hidden[:row], new_row[None], hidden[row + 1 :]])
        return hidden

    def parameters(self) -> list[nn.Parameter]:
        unique = {id(p): p for pair in self.edits for edit in pair for p in edit.parameters()}
        return list(unique.values())

    def loss(self, ids, mask, labels, columns) -> torch.Tensor:
        """Mean cross-entropy of the labels, with each row edited at its (first, last) columns."""
        self.columns = columns
        return self.model(input_ids=ids, attention_mask=mask, labels=labels).loss
