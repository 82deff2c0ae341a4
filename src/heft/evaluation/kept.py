"""One prefix for several evaluations of a run.

A stage whose adapters act on last tokens only (`lN`, `lN+`) leaves what stands before them as it was. So the
evaluations before and after such stages need the prefix of each prompt once: the first of them computes and keeps it,
the others read it. Choices only; generated answers begin with their whole prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from transformers import Cache, PreTrainedModel

from heft.data.batching import batches_of_like_length, pass_tokens
from heft.data.encode import EncodedExample
from heft.evaluation.shared_prefix import WORTH_IT, Question, shared_batches
from heft.recipe.recipe import Recipe
from heft.training.reuse.activation_cache import ROWS_PER_PASS
from heft.training.reuse.prefix import PrefixReuse
from heft.training.reuse.shared import RowPrefixes, reach_back


@dataclass(frozen=True)
class SameEvaluations:
    """Evaluations of a run in which prompts have the same prefixes.

    Attributes:
        names: "base" or a stage after which the model is evaluated, in order.
        start: tokens from a prompt's end before which nothing changes from the first of them to the last.
    """

    names: tuple[str, ...]
    start: int

    @property
    def of_base(self) -> bool:
        """Whether no adapter acts on the prefixes."""
        return self.names[0] == "base"

    def prefix_batches(self, examples: Sequence[Question], tokens_of_a_pass: int | None) -> list[list[int]]:
        """Lengths of the prefixes that are computed together."""
        lengths = [count for each in examples if (count := len(each.prompt) - self.start) > 0]
        batches = batches_of_like_length(lengths, ROWS_PER_PASS, tokens_of_a_pass)
        return [[lengths[i] for i in batch] for batch in batches]


def same_evaluations(recipe: Recipe, examples: Sequence[EncodedExample], device: torch.device) -> list[SameEvaluations]:
    """The evaluations of a recipe that keep prefixes for each other.

    Each has two stages at least: the base, which other runs may have evaluated already, is not counted. None where
    questions of one text save more by sharing it in each evaluation.
    """
    settings = recipe.evaluation
    if recipe.sweep is not None or not settings.share_prefix or not examples[0].choices:
        return []
    tokens = pass_tokens(device, trains=False)
    found = []
    for same in _alike(recipe):
        times = sum(name != "base" for name in same.names)
        if times > 1 and _is_worth_it(examples, same.start, times, settings.batch_size, tokens):
            found.append(same)
    return found


def _alike(recipe: Recipe) -> list[SameEvaluations]:
    """All evaluations, divided where a stage acts on first tokens or on all."""
    names, start, found = ["base"], 0, []
    for name, stage in recipe.stages.items():
        reach = reach_back(name, stage)
        if reach is None:
            found.append(SameEvaluations(tuple(names), start))
            names = []
        names.append(name)
        start = max(start, reach or 0)
    return [*found, SameEvaluations(tuple(names), start)]


def _is_worth_it(
    examples: Sequence[Question], start: int, times: int, batch_size: int, tokens_of_a_pass: int | None
) -> bool:
    """Whether fewer tokens are computed behind prefixes that are kept than where each evaluation shares its own."""

    def computed(kept: int | None) -> int:
        batches = shared_batches(examples, batch_size, start, tokens_of_a_pass, kept)
        return sum(each.tokens for batch in batches for each in batch.passes(batch_size, kept is not None))

    prefixes = sum(max(0, len(each.prompt) - start) for each in examples)
    return prefixes + times * computed(start) < WORTH_IT * times * computed(None)


@dataclass(frozen=True)
class QuestionPrefixes:
    """Kept prefixes as `heft.evaluation` takes them (heft.evaluation.shared_pass.KeptPrefixes).

    Attributes:
        rows: gives them out.
        model: whose adapters act on the last `start` tokens at most, or were on when prefixes were computed.
        start: as in `SameEvaluations`.
        pad_id: id of the padding token.
    """

    rows: RowPrefixes
    model: PreTrainedModel
    start: int
    pad_id: int

    @cached_property
    def _reuse(self) -> PrefixReuse:
        return self.rows.reuse(self.model, self.start, self.pad_id)

    def cache(self, questions: Sequence[Question], lengths: Sequence[int]) -> Cache:
        """Keys and values of the first `lengths` tokens of each prompt, aligned at the right."""
        return self._reuse.cache([self.rows.number(question) for question in questions], lengths)
