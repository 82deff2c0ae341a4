"""Who trains the trials of a round: the search's own bench, one after the other, or processes of a cluster at once.

A trial depends on nothing but its stages and the coarse stage below it, so who trains it, and when, changes no result.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from heft.cluster.crew import Crew
from heft.recipe.recipe import Stage
from heft.tune.bench import Bench
from heft.tune.trial import Outcome
from heft.tune.weights import Before


@dataclass(frozen=True)
class Piece:
    """One training: of a trial, or of several side by side; as `Bench.train_on_top` takes it."""

    before: Before | None
    name: str
    stages: Sequence[Stage]
    values: Sequence[dict[str, Any]]
    keeps: bool = False


class Trainer(Protocol):
    """Trains and measures trials."""

    def train(self, pieces: Sequence[Piece]) -> Iterator[list[Outcome]]:
        """What each piece came to, as they end."""
        ...


@dataclass(frozen=True)
class OnTheBench:
    """One after the other, on the search's own model."""

    bench: Bench

    def train(self, pieces: Sequence[Piece]) -> Iterator[list[Outcome]]:
        """See `Trainer`."""
        for piece in pieces:
            yield self.bench.train_on_top(piece.before, piece.name, piece.stages, piece.values, piece.keeps)


@dataclass(frozen=True)
class OnACrew:
    """At once, each on a model of its own; metrics.jsonl is written here.

    `put` gives a reference of what is sent, so that a process takes it only once its environment is set.
    """

    bench: Bench
    crew: Crew
    put: Callable[[Any], Any]

    def train(self, pieces: Sequence[Piece]) -> Iterator[list[Outcome]]:
        """See `Trainer`."""
        sent = [[self.put(replace(piece, before=_with_weights(piece.before)))] for piece in pieces]
        for _, (outcomes, metrics, weights) in self.crew.done(sent, self.bench.reporter, "trials"):
            for values in metrics:
                self.bench.directory.metrics(values)
            for key, own in weights.items():
                self.bench.weights.keep(key, own)
            yield outcomes


@dataclass(frozen=True)
class Weights:
    """A coarse stage's weights, which are there, in place of a way to find them."""

    weights: Mapping[str, torch.Tensor]

    def __call__(self) -> Mapping[str, torch.Tensor]:
        return self.weights


def _with_weights(before: Before | None) -> Before | None:
    if before is None:
        return None
    return replace(before, weights=Weights({name: each.cpu() for name, each in before.weights().items()}))
