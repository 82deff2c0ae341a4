"""The order of rows, and how a batch is shared out between processes."""

import itertools

import pytest
import torch
from torch import nn
from transformers import Trainer, TrainingArguments, set_seed

from heft.data.encode import IGNORED, EncodedExample
from heft.recipe.recipe import LoraStage
from heft.tasks.base import Example
from heft.training.batches import TrainingData, accumulation_steps, epoch_of

LENGTHS = [3, 9, 4, 4, 7, 12, 5, 8, 6, 3, 10, 11, 5, 4, 9, 7, 6, 8, 3]


def stage(**settings):
    return LoraStage(method="lora", **settings)


def data(lengths, validation=()):
    """Rows of so many tokens, each answered by the token of its number."""
    example = Example(id="x", prompt="x", choices=(" a", " b"), gold=0, answer=" a")
    rows = [EncodedExample(example, (99,) * (n - 1), (), (row,), 0) for row, n in enumerate([*lengths, *validation])]
    return TrainingData(rows[: len(lengths)], rows[len(lengths) :], pad_id=0)


@pytest.mark.parametrize(("count", "processes"), [(6, 2), (5, 2), (7, 3), (1, 1)])
def test_every_row_of_a_batch_goes_to_one_process(count, processes):
    rows = range(100, 100 + count)
    shares = [data(range(3, 203)).share(rows, process, processes) for process in range(processes)]
    assert sorted(row for share in shares for row in share["row_ids"].tolist()) == list(rows)
    for share in shares:
        assert share["row_ids"].tolist() == share["input_ids"][:, -1].tolist() == share["labels"][:, -1].tolist()
    assert max(len(s["row_ids"]) for s in shares) - min(len(s["row_ids"]) for s in shares) <= 1


def test_a_process_that_gets_no_row_gets_one_that_counts_for_nothing():
    share = data([3, 4]).share([0], 1, 2)
    assert torch.equal(share["labels"], torch.full((1, 3), IGNORED))
    assert share["row_ids"].tolist() == [0]


@pytest.mark.parametrize(
    ("batch_size", "micro_batch_size", "expected"), [(8, None, 1), (8, 4, 2), (6, 2, 3), (7, 7, 1), (6, 3, 2)]
)
def test_a_batch_is_split_into_the_fewest_equal_micro_batches(batch_size, micro_batch_size, expected):
    assert accumulation_steps(stage(batch_size=batch_size, micro_batch_size=micro_batch_size)) == expected


def test_with_more_processes_than_rows_a_step_is_one_micro_batch(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert accumulation_steps(stage(batch_size=8, micro_batch_size=2)) == 2
    assert accumulation_steps(stage(batch_size=2)) == 1


@pytest.mark.parametrize("settings", [{"batch_size": 4}, {"batch_size": 6, "micro_batch_size": 2}])
def test_an_epoch_has_every_row_once_in_steps_of_the_batch_size(settings):
    steps = list(data(LENGTHS).epoch(stage(**settings)))
    assert sorted(itertools.chain.from_iterable(itertools.chain.from_iterable(steps))) == list(range(len(LENGTHS)))
    sizes = [sum(map(len, step)) for step in steps]
    assert sizes == [settings["batch_size"]] * (len(LENGTHS) // settings["batch_size"]) + [
        len(LENGTHS) % settings["batch_size"]
    ]
    assert max(len(rows) for step in steps for rows in step) == settings.get("micro_batch_size", 4)


class Rows(torch.utils.data.Dataset):
    def __len__(self):
        return len(LENGTHS)

    def __getitem__(self, index):
        return {"input_ids": [0] * LENGTHS[index], "index": index}


@pytest.mark.parametrize("settings", [{"batch_size": 4}, {"batch_size": 6, "micro_batch_size": 2}])
def test_the_order_and_the_random_numbers_are_those_of_transformers_trainer(settings, tmp_path):
    """With `group_by_length`, over two epochs and an evaluation between them."""
    set_seed(5)
    micro = settings.get("micro_batch_size", settings["batch_size"])
    rows, ours = data(LENGTHS, validation=LENGTHS), stage(**settings)
    first, between, second = list(rows.epoch(ours)), rows.validation(ours, seed=5), list(rows.epoch(ours))
    drawn = torch.rand(1)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, per_device_train_batch_size=micro, per_device_eval_batch_size=micro,
        gradient_accumulation_steps=settings["batch_size"] // micro, train_sampling_strategy="group_by_length",
        remove_unused_columns=False, seed=5, data_seed=5, report_to="none",
    )  # fmt: skip
    trainer = Trainer(nn.Linear(1, 1), arguments, train_dataset=Rows(), eval_dataset=Rows())
    trainer.data_collator = lambda rows: {"index": torch.tensor([row["index"] for row in rows])}
    set_seed(5)
    loader, flat = trainer.get_train_dataloader(), itertools.chain.from_iterable
    assert [batch["index"].tolist() for batch in loader] == list(flat(first))
    assert [(batch["index"] + len(LENGTHS)).tolist() for batch in trainer.get_eval_dataloader()] == between
    assert [batch["index"].tolist() for batch in loader] == list(flat(second))
    assert torch.equal(torch.rand(1), drawn)


def test_validation_rows_come_behind_the_others_and_in_the_same_batches():
    rows = data(LENGTHS[:5], validation=LENGTHS[5:9])
    batches = rows.validation(stage(batch_size=3), seed=1)
    assert sorted(itertools.chain.from_iterable(batches)) == [5, 6, 7, 8]
    assert rows.validation(stage(batch_size=3), seed=1) == batches
    assert rows.answer_tokens([0, 7]) == 2


def test_epochs_are_counted_in_micro_batches():
    settings = stage(batch_size=6, micro_batch_size=2)
    assert [epoch_of(step, 19, settings) for step in (1, 3, 4, 5, 8)] == [0.3, 0.9, 1.0, 1.3, 2.0]
