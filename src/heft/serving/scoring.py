"""A request for log-likelihoods, row by row, as `heft.evaluation.likelihood` takes them on its plain path."""

import torch

from heft.evaluation.finite import NotFinite
from heft.serving.choosing import described
from heft.serving.forward import Row
from heft.serving.requests import Chosen, Failed, Finished, Scoring


class ScoringJob:
    """What is left to compute of a `Scoring`. It stands for its request in the engine's queue.

    Continuations of one token each need one row, the prompt; others a row each, without their last token.
    """

    def __init__(self, work: Scoring):
        self.work, self.served = work, work.served
        self._scores: dict[int, tuple[Chosen, ...]] = {}
        one_row = all(len(each) == 1 for each in work.continuations)
        self._of_row = [range(len(work.continuations))] if one_row else [[n] for n in range(len(work.continuations))]
        self.pending: dict[int, Row] = {}
        for tag, numbers in enumerate(self._of_row):
            first = work.continuations[numbers[0]]
            ids = work.prompt + first[:-1]
            self.pending[tag] = Row(work.served, ids, work.positions_from, keep=len(first), tag=tag)

    @property
    def arrived(self) -> float:
        """As of the request."""
        return self.work.arrived

    @property
    def cancelled(self) -> bool:
        """As of the request."""
        return self.work.cancelled

    @property
    def is_late(self) -> bool:
        """As of the request."""
        return self.work.is_late

    def tell(self, event: Finished | Failed) -> None:
        """Tell who asked."""
        self.work.tell(event)

    def add(self, row: Row, logits_KV: torch.Tensor) -> bool:
        """Take a row's logits; whether it was the last row."""
        del self.pending[row.tag]
        for number in self._of_row[row.tag]:
            tokens = self.work.continuations[number]
            self._scores[number] = described(logits_KV[-len(tokens) :], tokens, self.work.top or 0)
        return not self.pending

    def outcome(self) -> Finished | Failed:
        """The scores, or why there are none."""
        scores = tuple(self._scores[number] for number in range(len(self.work.continuations)))
        values = torch.tensor([each.log_probability for score in scores for each in score])
        if not values.isfinite().all():
            return Failed(
                str(NotFinite("the model computes NaN or infinity for a continuation: its weights are damaged"))
            )
        return Finished(scores=scores)
