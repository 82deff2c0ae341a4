"""One prefix for several evaluations of a run.

A stage whose adapters act on last tokens only (`lN`, `lN+`) leaves what stands before them as it was. So the
evaluations before and after such stages need the prefix of each prompt once: the first of them computes and keeps it,
the others read it. Choices only; generated answers begin with their whole prompt.

The adapters of a run, loaded and evaluated on their own, take the same passes, with nothing kept: figures are those of
the run's last evaluation to the bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from peft import PeftConfig
from transformers import Cache, PreTrainedModel

from heft.adapters.methods import adapters_of
from heft.data.batching import batches_of_like_length, pass_tokens
from heft.data.encode import EncodedExample
from heft.data.padding import padding_matters
from heft.evaluation.shared_prefix import WORTH_IT, Pass, Question, shared_batches
from heft.models.prefix_states import keeps_plain_keys
from heft.models.sharding import is_sharded
from heft.recipe.recipe import EvaluationSettings, Recipe
from heft.training.checked_loss import longest_of
from heft.training.reuse.activation_cache import ROWS_PER_PASS
from heft.training.reuse.prefix import PrefixReuse
from heft.training.reuse.shared import RowPrefixes
from heft.training.reuse.stores import Store


@dataclass(frozen=True)
class SameEvaluations:
    """Evaluations of a run in which prompts have the same prefixes.

    Attributes:
        names: "base" or a stage after which the model is evaluated, in order.
        start: tokens from a prompt's end before which nothing changes from the first of them to the last.
        adapters: how many are new in them, the base having none.
    """

    names: tuple[str, ...]
    start: int
    adapters: int = 0

    @property
    def of_base(self) -> bool:
        """Whether no adapter acts on the prefixes."""
        return self.names[0] == "base"

    def prefix_passes(self, examples: Sequence[Question], batch_size: int, tokens_of_a_pass: int | None) -> list[Pass]:
        """The forward passes that compute the prefixes, those of a batch's questions together."""
        found = []
        for batch in shared_batches(examples, batch_size, self.start, tokens_of_a_pass, self.start):
            lengths = [count for stem in batch.stems if (count := stem.prompt - self.start) > 0]
            for rows in batches_of_like_length(lengths, ROWS_PER_PASS, tokens_of_a_pass):
                found.append(Pass(len(rows), lengths[rows[0]], 0, 0))
        return found

    def is_worth_it(self, examples: Sequence[Question], settings: EvaluationSettings, device: torch.device) -> bool:
        """Whether fewer tokens are computed than where each evaluation shares what its own questions have in common.

        Each adapter counts as one evaluation, and the base as none, since another run may have evaluated it already.
        """
        if self.adapters < 2 or not settings.share_prefix or not examples[0].choices:
            return False
        tokens, batch_size = pass_tokens(device, trains=False), settings.batch_size

        def computed(kept: int | None) -> int:
            batches = shared_batches(examples, batch_size, self.start, tokens, kept)
            return sum(each.tokens for batch in batches for each in batch.passes(batch_size, kept is not None))

        prefixes = sum(max(0, len(each.prompt) - self.start) for each in examples)
        return prefixes + self.adapters * computed(self.start) < WORTH_IT * self.adapters * computed(None)


def same_evaluations(recipe: Recipe, examples: Sequence[EncodedExample], device: torch.device) -> list[SameEvaluations]:
    """The evaluations of a recipe that keep prefixes for each other."""
    if recipe.sweep is not None:
        return []
    reaches = [
        (name, [None if each.positions is None else each.positions.reach_back() for each in adapters_of(name, stage)])
        for name, stage in recipe.stages.items()
    ]
    return [each for each in _alike(reaches) if each.is_worth_it(examples, recipe.evaluation, device)]


def _alike(stages: Sequence[tuple[str, list[int | None]]]) -> list[SameEvaluations]:
    """All evaluations, divided where an adapter acts on first tokens or on all (None), else on so many last ones."""
    names, start, adapters, found = ["base"], 0, 0, []
    for name, reaches in stages:
        new = len(reaches)
        if None in reaches:
            found.append(SameEvaluations(tuple(names), start, adapters))
            names, adapters = [], 0
            new = reaches[::-1].index(None) + 1  # the last such adapter, and those on top of it
        names.append(name)
        adapters += new
        start = max([start, *(reach for reach in reaches if reach is not None)])
    return [*found, SameEvaluations(tuple(names), start, adapters)]


def can_keep(model: PreTrainedModel, rows: Sequence[EncodedExample], pad_id: int) -> bool:
    """Whether a model's prefixes can be computed apart from what stands behind them."""
    if is_sharded(model) or not keeps_plain_keys(model):
        return False
    return not padding_matters(model, pad_id, longest_of(rows))


def as_in_a_run(
    model: PreTrainedModel, rows: Sequence[EncodedExample], settings: EvaluationSettings, pad_id: int
) -> "QuestionPrefixes | None":
    """For the evaluation of a model with the adapters of a run, whose last evaluation had kept prefixes: the same
    prefixes, which are not kept; else None."""
    reaches = [(name, [_reach(config)]) for name, config in getattr(model, "peft_config", {}).items()]
    same = _alike(reaches)[-1]
    if not same.is_worth_it(rows, settings, model.device) or not can_keep(model, rows, pad_id):
        return None
    return QuestionPrefixes(RowPrefixes(rows, same.start, ROWS_PER_PASS, same.of_base), model, same.start, pad_id)


def _reach(config: PeftConfig) -> int | None:
    """Tokens from a prompt's end on which an adapter acts; None where it acts on first tokens or on all."""
    positions = getattr(config, "edited_positions", None)
    return None if positions is None else positions.reach_back()


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
        return replace(self.rows.reuse(self.model, self.start, self.pad_id), by_request=True)

    def nothing_kept(self) -> "QuestionPrefixes":
        """The same, each prefix computed where it is asked for."""
        alone = replace(self)
        vars(alone)["_reuse"] = replace(self._reuse, store=Store())
        return alone

    def cache(self, questions: Sequence[Question], lengths: Sequence[int]) -> Cache:
        """Keys and values of the first `lengths` tokens of each prompt, aligned at the right."""
        return self._reuse.cache([self.rows.number(question) for question in questions], lengths)
