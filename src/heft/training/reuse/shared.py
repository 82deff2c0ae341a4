"""One prefix for several stages: as long as every adapter acts on last positions only, what stands before them is the
base's, whichever stage trains.

So all stages of a run that reuse prefixes cut them at one place, the largest reach of their adapters, and the prefixes
that the first of them has computed serve the later ones too. They are computed with no adapter on, in batches of all
training rows, so that the numbers are the same in whichever stage, and after a resume. The trials of a search, whose
adapters reach back unlike far, take as much of each kept prefix as stands before their own (heft.tune.kept).
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedModel

from heft.adapters.methods import adapters_of
from heft.data.encode import EncodedExample
from heft.data.padding import padding_matters
from heft.recipe.recipe import Recipe, Stage
from heft.training.checked_loss import longest_of
from heft.training.reuse.activation_cache import ROWS_PER_PASS
from heft.training.reuse.prefix import PrefixReuse
from heft.training.reuse.stores import Store, choose_store, open_store


@dataclass(frozen=True)
class SharedPrefix:
    """What the stages of a recipe share.

    Attributes:
        stages: names of those that train behind one prefix, two at least, in order.
        start: tokens from a prompt's end on which any adapter so far acts.
        rows_per_pass: rows that are computed together.
    """

    stages: tuple[str, ...]
    start: int
    rows_per_pass: int


def shared_prefix(recipe: Recipe) -> SharedPrefix | None:
    """The stages that can share a prefix, by what the recipe says; None where there are not two.

    Stages whose adapters act on first positions or on all tokens end it. One that reuses nothing, or keeps nothing
    between its steps, has no part in it; nor has the last stage of a sweep, whose configurations share one of their
    own.
    """
    reach, start, members = 0, 0, {}
    for name, stage in recipe.stages.items():
        own = reach_back(name, stage)
        if own is None or recipe.sweep is not None:
            break
        reach = max(reach, own)
        if keeps_prefixes(stage):
            members[name], start = stage.micro_batch_size or stage.batch_size, reach
    return SharedPrefix(tuple(members), start, min(ROWS_PER_PASS, *members.values())) if len(members) > 1 else None


def reach_back(name: str, stage: Stage) -> int | None:
    """Tokens from a prompt's end on which a stage's adapters act; None where one acts on first tokens or on all."""
    positions = [adapter.positions for adapter in adapters_of(name, stage)]
    reaches = [None if each is None else each.reach_back() for each in positions]
    return None if None in reaches else max(reaches)


def keeps_prefixes(stage: Stage) -> bool:
    """Whether a stage's settings allow that prefixes are kept between its steps."""
    return not stage.is_frozen and stage.reuse and stage.cache != "off" and not stage.gradient_checkpointing


class RowPrefixes:
    """Prefixes of rows, kept from stage to stage of a run, from evaluation to evaluation, or from trial to trial.

    Args:
        rows: all training rows, of which each stage may hold out others.
        lacks: tokens from a prompt's end that are not kept: the least that any stage acts on.
        rows_per_pass: rows that are computed together.
        of_base: whether no adapter acts on them, so that they are computed with none on.
    """

    def __init__(self, rows: Sequence[EncodedExample], lacks: int, rows_per_pass: int, of_base: bool = True):
        self.lacks, self._rows, self._rows_per_pass, self._of_base = lacks, rows, rows_per_pass, of_base
        self._numbers = {id(row.prompt): number for number, row in enumerate(rows)}
        self._store: Store | None = None
        self._scratch: tempfile.TemporaryDirectory | None = None
        self._layout: list[tuple[int, int]] = []

    @property
    def kind(self) -> str | None:
        """Where they are kept, "memory" or "disk"; None before the first stage."""
        return None if self._store is None else self._store.kind

    def reuse(
        self, model: PreTrainedModel, start: int, pad_id: int, examples: Sequence[EncodedExample] | None = None
    ) -> PrefixReuse:
        """For adapters that act on the last `start` tokens of a prompt at most, `lacks` at least.

        Args:
            examples: what batches number; None for all rows.
        """
        return PrefixReuse(
            model,
            self._rows,
            start,
            pad_id,
            self._store or Store(),
            self._rows_per_pass,
            layout=self._layout,
            numbers=None if examples is None else [self.number(example) for example in examples],
            of_base=self._of_base,
            lacks=self.lacks,
            equal_lengths=padding_matters(model, pad_id, longest_of(self._rows)),
        )

    def number(self, row: EncodedExample) -> int:
        """Of one of the rows, or of one that has its prompt, the very object."""
        return self._numbers[id(row.prompt)]

    def store(self, kind: str) -> Store:
        """The store that an earlier stage has filled, or a new one of that kind."""
        if self._store is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="heft-")
            lengths = [max(0, len(row.prompt) - self.lacks) for row in self._rows]
            self._store = open_store(kind, lengths, Path(self._scratch.name))
        return self._store

    def make_room(self, model: PreTrainedModel, pad_id: int) -> str:
        """Open a store that has room for all rows; its kind, or "off" where there is no room or nothing to keep."""
        reuse = self.reuse(model, self.lacks, pad_id)
        size = sum(map(reuse.cached_length, range(len(self._rows)))) * reuse.bytes_per_token()
        kind = choose_store("auto", size, 2.0, Path(tempfile.gettempdir())) if size else "off"
        if kind != "off":
            self.store(kind)
        return kind

    def close(self) -> None:
        """Forget all."""
        self._store = None
        if self._scratch is not None:
            self._scratch.cleanup()


@dataclass(frozen=True)
class StagePrefixes:
    """Kept prefixes as one stage takes them: `base` as far as `shared.start`."""

    shared: SharedPrefix
    base: RowPrefixes
