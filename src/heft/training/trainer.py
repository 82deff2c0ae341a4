"""transformers' Trainer with this project's loss, batches and optimiser groups."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import Trainer

from heft.data import IGNORED, training_batch
from heft.stages import adapter_parameters
from heft.training.reuse import Loss, plain_loss

if TYPE_CHECKING:
    from heft.data import EncodedExample


class Rows(torch.utils.data.Dataset):
    """Encoded examples as the Trainer wants them: `input_ids` tells the length by which batches are grouped.

    Rows are numbered from `first_id` on.
    """

    def __init__(self, examples: "Sequence[EncodedExample]", first_id: int = 0):
        self._examples, self._first_id = examples, first_id

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> dict:
        example = self._examples[index]
        return {"input_ids": example.prompt + example.answer, "example": example, "id": self._first_id + index}


def collate(rows: list[dict], pad_id: int) -> dict[str, torch.Tensor]:
    """A training batch with the rows' numbers, `row_ids` (B,)."""
    batch = training_batch([row["example"] for row in rows], pad_id)
    batch["row_ids"] = torch.tensor([row["id"] for row in rows])
    return batch


class StageTrainer(Trainer):
    """Trains what requires gradients, on the mean loss of all answer tokens of an optimiser step.

    The mean is taken over the whole step, so it does not depend on how the step is split into micro-batches or over
    processes. Rotations, which have no length, and biases are not decayed.
    """

    def __init__(
        self,
        *args,
        pad_id: int,
        loss: Loss | None = None,
        reft_learning_rate: float | None = None,
        **kwargs,
    ):
        super().__init__(*args, data_collator=partial(collate, pad_id=pad_id), **kwargs)
        self._loss = loss or plain_loss(self.model)
        self._reft_learning_rate = reft_learning_rate
        self._frozen_dropouts = [
            module for module in frozen_adapter_modules(self.model) if isinstance(module, nn.Dropout)
        ]
        self.model_accepts_loss_kwargs = True  # so that the Trainer counts the answer tokens of the whole step

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean loss of the step's answer tokens; of this batch's alone where the step's number is not given."""
        for dropout in self._frozen_dropouts:  # the Trainer has just put the whole model in training mode
            dropout.eval()
        total = self._loss(model, inputs)
        if num_items_in_batch is None:
            return total / (inputs["labels"] != IGNORED).sum()
        return total / num_items_in_batch * self.accelerator.num_processes  # processes' gradients are averaged

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """The held-back loss of a batch, and nothing else."""
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None

    def get_decay_parameter_names(self, model) -> list[str]:
        """As the Trainer's, without rotations."""
        return [name for name in super().get_decay_parameter_names(model) if not name.endswith(".rotation")]

    def create_optimizer(self, model=None):
        """As the Trainer's, with a learning rate of their own for ReFT's weights where one is set."""
        optimizer = super().create_optimizer(model) if model is not None else super().create_optimizer()
        if self._reft_learning_rate is not None:
            reft = {id(p) for name, p in self.model.named_parameters() if ".reft." in name and p.requires_grad}
            for group in list(optimizer.param_groups):
                mine = [p for p in group["params"] if id(p) in reft]
                group["params"] = [p for p in group["params"] if id(p) not in reft]
                if mine:
                    rest = {key: value for key, value in group.items() if key != "params"}
                    optimizer.add_param_group({**rest, "params": mine, "lr": self._reft_learning_rate})
        return optimizer


def frozen_adapter_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Everything that belongs to an adapter that does not train: an adapter's name is part of its modules' names."""
    frozen = set(model.peft_config) - {
        name for name in model.peft_config for p in adapter_parameters(model, [name]).values() if p.requires_grad
    }
    for key, module in model.named_modules():
        if frozen & set(key.split(".")):
            yield module
