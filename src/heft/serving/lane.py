"""Texts that get their next tokens together, each by its own adapters."""

import math
from collections.abc import Callable, Sequence

import torch

from heft.serving.catalog import Catalog
from heft.serving.choosing import choose, described, generator_of
from heft.serving.forward import Computed, Passes, Row
from heft.serving.requests import Chosen, Failed, Finished, Generation, Piece, failure_of
from heft.serving.states import BatchStates
from heft.serving.texts import GrowingText

_NOT_FINITE = Failed(
    "the model computes NaN or infinity for this text: weights are damaged, or a training diverged (`heft verify` names"
    " tensors that are not finite)"
)


class RunningText:
    """One text on its way.

    Attributes:
        work: what is asked.
        tokens: generated so far.
    """

    def __init__(self, work: Generation, catalog: Catalog):
        self.work, self.tokens = work, []
        self.row = Row(work.served, (), work.positions_from)
        ends = () if work.ignore_ends else work.served.ends
        self._ends = frozenset(ends)
        self._text = GrowingText(catalog.tokenizer, ends, work.stop, work.follows)
        self._generator = generator_of(work.seed) if work.temperature else None
        self._untold: list[Chosen] = []

    def take(self, logits_V: torch.Tensor, largest: float, likeliest: int) -> Finished | Failed | None:
        """Choose the next token, and say what can be said; what ends the text, or None.

        `largest` is the largest logit and `likeliest` its token, which are read for all texts at once.
        """
        if not math.isfinite(largest):
            return _NOT_FINITE
        work = self.work
        token = choose(logits_V, work.temperature, work.top_p, self._generator) if work.temperature else likeliest
        if token in self._ends:
            return self._finish("stop")
        self.tokens.append(token)
        self._untold += described(logits_V[None], [token], work.top)
        self._text.add(token)
        if self._text.has_stopped:
            return self._finish("stop")
        if len(self.tokens) >= work.max_tokens:
            return self._finish("length")
        if work.wants_pieces:
            self._say(self._text.take())
        return None

    def _finish(self, reason: str) -> Finished:
        self._say(self._text.take(is_last=True))
        return Finished(reason)

    def _say(self, text: str) -> None:
        if (text or self._untold) and not self.work.cancelled:
            self.work.tell(Piece(text, tuple(self._untold)))
            self._untold = []


class Lane:
    """Running texts and their keys and values. `end` is called with each request that is done, and how."""

    def __init__(self, passes: Passes, catalog: Catalog, end: Callable[[Generation, Finished | Failed], None]):
        self._passes, self._catalog, self._end = passes, catalog, end
        self.texts: list[RunningText] = []
        self._batch = BatchStates()

    def join(self, begun: Sequence[tuple[Generation, Computed]]) -> None:
        """Begin texts whose prompts have been computed."""
        stay, states = [], []
        for work, computed in begun:
            text = RunningText(work, self._catalog)
            event = _next(text, computed.logits_KV[-1], *_likeliest(computed.logits_KV[-1:])[0])
            if event is None:
                stay.append(text)
                states.append(computed.states)
            else:
                self._end(work, event)
        if stay:
            self._batch.join(states)
            self.texts += stay

    def step(self) -> None:
        """Give each text one more token; those that end leave."""
        last = [text.tokens[-1] for text in self.texts]
        logits_BV = self._passes.step([text.row for text in self.texts], last, self._batch)
        ended = {}
        for text, logits_V, found in zip(self.texts, logits_BV, _likeliest(logits_BV), strict=True):
            event = _next(text, logits_V, *found)
            if event is not None:
                ended[text] = event
        self._keep([text for text in self.texts if text not in ended])
        for text, event in ended.items():
            self._end(text.work, event)

    def leave_if(self, goes: Callable[[Generation], bool]) -> list[Generation]:
        """Let texts go whose requests are given up; these requests."""
        gone = [text.work for text in self.texts if goes(text.work)]
        if gone:
            self._keep([text for text in self.texts if text.work not in gone])
        return gone

    def leave_all(self) -> list[RunningText]:
        """Let all go."""
        gone, self.texts, self._batch = self.texts, [], BatchStates()
        return gone

    def _keep(self, texts: list[RunningText]) -> None:
        if len(texts) < len(self.texts):
            self._batch.keep([row for row, text in enumerate(self.texts) if text in texts])
            self.texts = texts


def _next(text: RunningText, logits_V: torch.Tensor, largest: float, likeliest: int) -> Finished | Failed | None:
    """As `RunningText.take`; an error there ends that text alone."""
    try:
        return text.take(logits_V, largest, likeliest)
    except Exception as error:
        return failure_of(error)


def _likeliest(logits_BV: torch.Tensor) -> list[tuple[float, int]]:
    """The largest logit of each row, and its token; NaN where one is NaN."""
    values_B, tokens_B = logits_BV.max(dim=-1)
    return list(zip(values_B.tolist(), tokens_B.tolist(), strict=True))
