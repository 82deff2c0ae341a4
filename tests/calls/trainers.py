"""Trainers that take one step and say its loss."""

from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

from calls.examples import labelled_rows
from tiny import byte_tokenizer


def arguments(folder, kind=TrainingArguments, **more):
    """One step on all four rows at a learning rate of 0, from which only the loss is wanted."""
    options = {"per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "max_steps": 1, "logging_steps": 1}
    options |= {
        "bf16": False,
        "report_to": "none",
        "use_cpu": True,
        "save_strategy": "no",
        "disable_tqdm": True,
        "learning_rate": 0.0,
    }
    return kind(output_dir=str(folder), **(options | more))


def first_loss(trainer, monkeypatch) -> float:
    """The loss that the trainer computes in its first step, not as it rounds it for its log."""
    seen, compute = [], trainer.compute_loss
    monkeypatch.setattr(trainer, "compute_loss", lambda *a, **k: seen.append(compute(*a, **k)) or seen[-1])
    trainer.train()
    return seen[0].item()


def padding(side: str = "left") -> DataCollatorForSeq2Seq:
    """A collator that pads ids with the padding token and labels with -100."""
    tokenizer = byte_tokenizer()
    tokenizer.padding_side = side
    return DataCollatorForSeq2Seq(tokenizer)


def trainer_of(model, folder, collator=None, compute_loss_func=None, **more) -> Trainer:
    """transformers' Trainer over the four labelled rows."""
    return Trainer(
        model,
        arguments(folder, **more),
        train_dataset=labelled_rows(),
        eval_dataset=labelled_rows(),
        data_collator=padding() if collator is None else collator,
        compute_loss_func=compute_loss_func,
    )
