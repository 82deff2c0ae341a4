"""Which rows each optimizer step takes, in which order and in which micro-batches.

All random numbers come from torch's default generator, seeded by `set_seed`: each pass over the rows draws one for the
DataLoader (the seed of its workers) and, in training, one permutation.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from accelerate.utils import synchronize_rng_states
from torch.utils.data import DataLoader, Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler

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

        The order is random, but rows of a batch are of similar length (transformers: `group_by_length`). Several
        processes get the same order.
        """
        per_step = accumulation_steps(stage)
        sampler = LengthGroupedSampler(stage.batch_size, lengths=self.lengths[: len(self.rows)])
        micro_batches = _in_batches(sampler, stage.batch_size // per_step)
        while step := list(itertools.islice(micro_batches, per_step)):
            yield step

    def validation(self, stage: TrainingSettings, seed: int) -> list[list[int]]:
        """The validation rows in batches of similar length, the same at every evaluation."""
        first, batch_size = len(self.rows), stage.micro_batch_size or stage.batch_size
        generator = torch.Generator().manual_seed(seed)
        sampler = LengthGroupedSampler(batch_size, lengths=self.lengths[first:], generator=generator)
        return [[first + row for row in rows] for rows in _in_batches(sampler, batch_size)]

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


def _in_batches(sampler: Sampler, batch_size: int) -> Iterator[list[int]]:
    """Row numbers; every process takes over the main one's random numbers first, and so draws the same order."""
    if distributed.count() > 1:
        synchronize_rng_states(["torch"])
    yield from DataLoader(range(len(sampler)), batch_size, sampler=sampler, collate_fn=list)
