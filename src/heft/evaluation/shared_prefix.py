"""What rows of an evaluation have in common, and in which forward passes it is computed once.

Two things are shared. Examples of one text (equal `group`, such as BoolQ's passage) share their longest common run of
leading tokens, up to the first token that is edited by its distance from a prompt's end. Choices of one example share
their prompt, edits included, and the tokens that all of them begin with. Until a `lN` edit, whether a token is edited
depends on its number alone, and its activations on the tokens before it; so what is shared is what each row alone
would have computed.

This file only plans: no model, no tensors. Shapes: T tokens of a row, S of them shared.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from heft.data.batching import batches_of_like_length, packs

WORTH_IT = 0.9
"""A text is shared where the tokens computed, padding included, fall below this part of what they are without."""


class Question(Protocol):
    """What is scored: an `EncodedExample`, or what another program asks."""

    @property
    def id(self) -> str:
        """Names it in messages."""

    @property
    def group(self) -> str | None:
        """Equal for questions that share a text; None where nothing is shared."""

    @property
    def prompt(self) -> tuple[int, ...]:
        """Token ids of the prompt."""

    @property
    def choices(self) -> tuple[tuple[int, ...], ...]:
        """Token ids of each choice."""


@dataclass(frozen=True)
class Stem:
    """The part of an example that is common to all its choices, and what is left of each.

    Attributes:
        index: of the example.
        ids: prompt, and the leading tokens that every choice has before its last token.
        prompt: tokens of the prompt.
        rests: (choice, its tokens after the stem but for the last one), where there are any.
    """

    index: int
    ids: tuple[int, ...]
    prompt: int
    rests: tuple[tuple[int, tuple[int, ...]], ...]

    @property
    def scored(self) -> int:
        """Columns at the stem's end whose logits predict tokens of choices."""
        return len(self.ids) - self.prompt + 1


def stem_of(index: int, example: Question) -> Stem:
    """The stem of one example's choices."""
    fed = [choice[:-1] for choice in example.choices]
    common = common_length(fed)
    rests = tuple((c, ids[common:]) for c, ids in enumerate(fed) if len(ids) > common)
    return Stem(index, example.prompt + fed[0][:common], len(example.prompt), rests)


@dataclass(frozen=True)
class SharedBatch:
    """Stems that run together, and the prefixes that run before them.

    Attributes:
        families: stems that share a text, each with the number of tokens they share; (stems, 0) where none.
    """

    families: tuple[tuple[tuple[Stem, ...], int], ...]

    @property
    def stems(self) -> list[Stem]:
        """All stems, family after family."""
        return [stem for stems, _ in self.families for stem in stems]

    @property
    def width(self) -> int:
        """Columns of the longest stem."""
        return max(len(stem.ids) for stem in self.stems)

    @property
    def split(self) -> int:
        """Columns left of which every stem's tokens are shared; what is right of it runs for each stem."""
        return self.width - max(len(stem.ids) - shared for stems, shared in self.families for stem in stems)

    def choice_passes(self, batch_size: int) -> list[list[tuple[int, int, tuple[int, ...]]]]:
        """(number of the stem, choice, rest) of the rows that run on the stems' caches, longest rest first."""
        rows = [(number, c, ids) for number, stem in enumerate(self.stems) for c, ids in stem.rests]
        rows.sort(key=lambda row: -len(row[2]))
        return [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]

    def passes(self, batch_size: int, is_kept: bool = False) -> list["Pass"]:
        """Every forward pass of the batch; `is_kept` says that the prefixes are there already."""
        found = []
        if self.split and not is_kept:
            found.append(Pass(len(self.families), max(shared for _, shared in self.families), 0, 0))
        stems, width, split = self.stems, self.width, self.split
        found.append(Pass(len(stems), width - split, split, max(stem.scored for stem in stems)))
        for rows in self.choice_passes(batch_size):
            longest = len(rows[0][2])
            found.append(Pass(len(rows), longest, width, longest))
        return found

    def parts(self, is_kept: bool = False) -> list["Part"]:
        """What runs of each row in these passes."""
        start, found = self.split - self.width, []
        for stems, shared in self.families:
            if self.split and not is_kept:
                found.append(Part(min(stem.prompt for stem in stems), 0, shared))
            for stem in stems:
                end = len(stem.ids)
                found.append(Part(stem.prompt, max(0, end + start), end))
                found += [Part(stem.prompt, end, end + len(ids)) for _, ids in stem.rests]
        return found


@dataclass(frozen=True)
class Part:
    """Tokens of one row that run, no padding among them: of its prompt, the first one that runs, and the end."""

    prompt: int
    start: int
    end: int


@dataclass(frozen=True)
class Pass:
    """The shape of one forward pass, padding included: rows, columns, columns in the cache, columns with logits."""

    rows: int
    columns: int
    cached: int
    scored: int

    @property
    def tokens(self) -> int:
        """Tokens that the model computes."""
        return self.rows * self.columns


def shared_batches(
    examples: Sequence[Question],
    batch_size: int,
    last_edited: int,
    tokens_of_a_pass: int | None = None,
    kept: int | None = None,
) -> list[SharedBatch]:
    """The batches of an evaluation; the same for the same arguments, so that figures repeat.

    Args:
        examples: all with choices.
        batch_size: most rows of a forward pass.
        last_edited: how many tokens from a prompt's end any adapter edits; they are not shared between examples.
        tokens_of_a_pass: see `heft.data.batching.batches_of_like_length`; for stems that share nothing.
        kept: tokens from a prompt's end before which every prefix is there already; None where none is.
    """
    stems = [stem_of(i, example) for i, example in enumerate(examples)]
    if kept is not None:
        return _behind_kept(stems, batch_size, kept, tokens_of_a_pass)
    alone, together = [], []
    for family in _families(stems, examples, batch_size):
        shared = _shared_tokens(family, last_edited)
        if len(family) > 1 and _cost([(family, shared)]) < WORTH_IT * _cost([(family, 0)]):
            together.append((family, shared))
        else:
            alone += family
    together.sort(key=lambda family: (-family[1], family[0][0].index))
    batches = []
    for families in packs(together, lambda family: len(family[0]), batch_size):
        stems_of_batch = [stem for stems, _ in families for stem in stems]
        if _cost(families) < sum(len(stem.ids) for stem in stems_of_batch):
            batches.append(SharedBatch(tuple(families)))
        else:
            alone += stems_of_batch
    alone.sort(key=lambda stem: stem.index)
    for batch in batches_of_like_length([len(stem.ids) for stem in alone], batch_size, tokens_of_a_pass):
        batches.append(SharedBatch(tuple(((alone[i],), 0) for i in batch)))
    return sorted(batches, key=lambda batch: (-batch.width, batch.stems[0].index))


def _behind_kept(stems: Sequence[Stem], batch_size: int, kept: int, tokens_of_a_pass: int | None) -> list[SharedBatch]:
    """Each stem from the end of its own prefix on; where these are as long, prefixes of like length go together."""
    stems = sorted(stems, key=lambda stem: -stem.prompt)
    there = [max(0, stem.prompt - kept) for stem in stems]
    own = [len(stem.ids) - count for stem, count in zip(stems, there, strict=True)]
    batches = batches_of_like_length(own, batch_size, tokens_of_a_pass)
    return [SharedBatch(tuple(((stems[i],), there[i]) for i in batch)) for batch in batches]


def common_length(rows: Sequence[Sequence[int]]) -> int:
    """How many leading tokens all rows have in common."""
    first, last = min(rows), max(rows)  # in the order of words, these two differ the earliest
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def _families(stems: Sequence[Stem], examples: Sequence[Question], batch_size: int) -> Iterable[tuple[Stem, ...]]:
    groups: dict[object, list[Stem]] = {}
    for stem in stems:
        group = examples[stem.index].group
        groups.setdefault(stem.index if group is None else group, []).append(stem)
    for members in groups.values():
        for start in range(0, len(members), batch_size):
            yield tuple(members[start : start + batch_size])


def _shared_tokens(family: Sequence[Stem], last_edited: int) -> int:
    """Leading tokens that are the same and equally edited in all; at least one token of each stem is left over."""
    shortest = min(stem.prompt for stem in family)
    return max(0, min(common_length([stem.ids for stem in family]), shortest - max(1, last_edited)))


def _cost(families: Sequence[tuple[tuple[Stem, ...], int]]) -> int:
    batch = SharedBatch(tuple(families))
    prefixes = len(families) * max(shared for _, shared in families) if batch.split else 0
    return prefixes + len(batch.stems) * (batch.width - batch.split)
