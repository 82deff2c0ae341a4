"""Which rows each optimizer step takes, in which order and in which micro-batches.

All random numbers come from torch's default generator, seeded by `set_seed`: an epoch draws them before its first step.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from accelerate.utils import synchronize_rng_states
from transformers.trainer_pt_utils import get_length_grouped_indices

from heft.data.batching import batches_of_like_length
from heft.data.encode import IGNORED, EncodedExample, training_batch
from heft.recipe.training import TrainingSettings
from heft.runtime import distributed


@dataclass(frozen=True)
class TrainingData:
    """The rows of a stage, numbered from 0: those that it trains on, then those, if any, that it is validated on."""

    rows: Sequence[EncodedExample]
    validation_rows: Sequence[EncodedExample]
    pad_id: int

    @cached_property
    def examples(self) -> list[EncodedExample]:
        """All rows by their numbers."""
        return [*self.rows, *self.validation_rows]

    @cached_property
    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [each.length for each in self.examples]

    def answer_tokens(self, rows: Sequence[int]) -> int:
        """How many tokens the answers of these rows have."""
        return sum(len(self.examples[row].answer) for row in rows)

    def epoch(self, stage: TrainingSettings) -> Iterator[list[list[int]]]:
        """The training rows of each optimizer step of one epoch, as a list of micro-batches.

        Rows of a batch are of similar length, and batches are in random order. Several processes get the same order.
        """
        if distributed.count() > 1:  # every process takes over the main one's random numbers first
            synchronize_rng_states(["torch"])
        size = stage.batch_size // accumulation_steps(stage)
        for step in _random_batches(self.lengths[: len(self.rows)], stage.batch_size):
            yield [step[at : at + size] for at in range(0, len(step), size)]

    def validation(self, stage: TrainingSettings) -> list[list[int]]:
        """The validation rows in batches of similar length."""
        first = len(self.rows)
        batches = batches_of_like_length(self.lengths[first:], stage.micro_batch_size or stage.batch_size)
        return [[first + row for row in rows] for rows in batches]

    def share(self, rows: Sequence[int], process: int, processes: int) -> dict[str, torch.Tensor]:
        """One process's part of a micro-batch as tensors, with the numbers of its rows, `row_ids` (B,).

        All processes have to run a step. One that gets no row of a small batch takes a row without labels, which adds
        nothing to the loss.
        """
        share = rows[process::processes] or rows[:1]
        batch = training_batch([self.examples[row] for row in share], self.pad_id)
        if process >= len(rows):
            batch["labels"].fill_(IGNORED)
        batch["row_ids"] = torch.tensor(share)
        return batch


def accumulation_steps(stage: TrainingSettings, processes: int | None = None) -> int:
    """Micro-batches of an optimizer step (transformers: `gradient_accumulation_steps`).

    The fewest equal ones that the batch splits into, of at most `micro_batch_size` rows for each process; None for the
    processes of this run.
    """
    largest = (stage.micro_batch_size or stage.batch_size) * (processes or distributed.count())
    fewest = math.ceil(stage.batch_size / largest)
    return next(n for n in range(fewest, stage.batch_size + 1) if stage.batch_size % n == 0)


def epoch_of(step: int, rows: int, stage: TrainingSettings) -> float:
    """Passes over the training rows after so many steps, counted in micro-batches."""
    per_step = accumulation_steps(stage)
    micro_batches = math.ceil(rows / (stage.batch_size // per_step))
    epoch, within = divmod(step - 1, math.ceil(rows / stage.batch_size))
    return epoch + min((within + 1) * per_step, micro_batches) / micro_batches


def is_validation_due(step: int, steps: int, rows: int, stage: TrainingSettings) -> bool:
    """Whether the validation loss is computed after this one of all steps: every so many, or epoch, and at the end."""
    every = stage.evaluate_every or math.ceil(rows / stage.batch_size)
    return step == steps or step % every == 0


def _random_batches(lengths: Sequence[int], batch_size: int) -> list[list[int]]:
    """All rows in batches; the last may be smaller, and its rows are of any length.

    The others are those of transformers' `group_by_length`, whose order is from long rows to short ones in each of some
    windows, so that training ends on the shortest. Here it is random.
    """
    order = torch.randperm(len(lengths)).tolist()
    whole = len(order) - len(order) % batch_size
    left = [order[whole:]] if whole < len(order) else []
    if not whole:
        return left
    grouped = get_length_grouped_indices([lengths[row] for row in order[:whole]], batch_size)
    batches = [[order[place] for place in grouped[at : at + batch_size]] for at in range(0, whole, batch_size)]
    return [batches[number] for number in torch.randperm(len(batches)).tolist()] + left
