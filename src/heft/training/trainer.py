"""transformers' Trainer with this project's loss, batches and optimiser groups."""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils import gather_object
from torch import nn
from torch.nn.utils import get_total_norm
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers.trainer_utils import EvalLoopOutput

from heft.adapters.attach import adapter_modules, adapter_parameters
from heft.data.batching import select_rows
from heft.data.encode import IGNORED, training_batch
from heft.runtime import distributed
from heft.training.guards import diverged, rows_without_a_finite_loss, singular_rotation_as_diverged, weights_diverged
from heft.training.loss import Loss, plain_loss
from heft.training.out_of_memory import backward_in_micro_batches, in_micro_batches
from heft.training.resumable import ResumableTrainer
from heft.training.snapshot import Snapshot

if TYPE_CHECKING:
    from heft.data.encode import EncodedExample


class Rows(Dataset):
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

    def ids(self, numbers: Sequence[int] | None = None) -> list[str]:
        """Ids of the examples of these rows, or of all."""
        if numbers is None:
            return [each.example.id for each in self._examples]
        return [self._examples[number - self._first_id].example.id for number in numbers]


def collate(rows: list[dict], pad_id: int, process: int, processes: int) -> dict[str, torch.Tensor]:
    """One process's part of a training batch, with its rows' numbers, `row_ids` (B,).

    A process that gets none of a small batch takes a row without labels, which adds nothing to the loss, because all
    processes have to run a step.
    """
    part = rows[process::processes] or rows[:1]
    batch = training_batch([row["example"] for row in part], pad_id)
    if process >= len(rows):
        batch["labels"].fill_(IGNORED)
    batch["row_ids"] = torch.tensor([row["id"] for row in part])
    return batch


class StageTrainer(ResumableTrainer):
    """Trains what requires gradients, on the mean loss of all answer tokens of an optimiser step.

    The mean is taken over the whole step, so it does not depend on how the step is split into micro-batches or over
    processes. Rotations, which have no length, and biases are not decayed. A step whose loss or gradient is not finite
    is not taken, and weights that a step has spoiled are not kept (heft.training.guards.Diverged).

    Args:
        pad_id: id of the padding token.
        loss: see heft.training.loss; None for the plain one.
        reft_learning_rate: of ReFT's weights; None for the same as the others'.
        stage: name of the stage, for messages.
        on_halved: is told how many rows a pass of the "training" or the "evaluation" of rows held back has from now
            on, when memory ran out.
    """

    def __init__(
        self,
        *args,
        pad_id: int,
        loss: Loss | None = None,
        reft_learning_rate: float | None = None,
        stage: str = "",
        on_halved: Callable[[str, int], None] = lambda what, rows: None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self._stage, self._on_halved = stage, on_halved
        self._pieces = {"training": 1, "evaluation": 1}
        if self._start is not None and "pieces" in self._start:
            self._pieces |= self._start["pieces"].values
        self._step: tuple[int, list[dict[str, torch.Tensor]]] = (-1, [])
        self.data_collator = partial(
            collate, pad_id=pad_id, process=self.args.process_index, processes=self.args.world_size
        )
        self._loss = loss or plain_loss()
        self._reft_learning_rate = reft_learning_rate
        self._frozen_dropouts = [
            module for module in frozen_adapter_modules(self.model) if isinstance(module, nn.Dropout)
        ]
        self.model_accepts_loss_kwargs = True  # so that the Trainer counts the answer tokens of the whole step

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean loss of the step's answer tokens, of which these inputs hold a part."""
        for dropout in self._frozen_dropouts:  # the Trainer has just put the whole model in training mode
            dropout.eval()
        total = self._loss(model, inputs)
        return total / num_items_in_batch * self.accelerator.num_processes  # processes' gradients are averaged

    def training_step(self, model, inputs, num_items_in_batch=None):
        """As the Trainer's; in several pieces from the time on when memory ran out."""
        if self._step[0] != self.state.global_step:
            self._step = (self.state.global_step, [])
        self._step[1].append(inputs)
        step = partial(super().training_step, model, num_items_in_batch=num_items_in_batch)
        with singular_rotation_as_diverged(self._stage, self.state.global_step):
            if distributed.count() > 1:  # the others would wait for gradients that a failed pass never sends
                return step(inputs)
            halved = partial(self._on_halved, "training")
            pieces = self._pieces["training"]
            loss, self._pieces["training"] = backward_in_micro_batches(step, inputs, self._trained(), pieces, halved)
            return loss

    def _trained(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def _get_grad_norm(self, model, grad_norm=None):
        norm = super()._get_grad_norm(model, grad_norm)
        for what, value in (("loss", self._tr_loss.item()), ("gradient's norm", float(norm))):
            if not math.isfinite(value):
                raise self._diverged(f"the {what} is {value}, so the step was not taken")
        return norm

    def _diverged(self, what: str) -> Exception:
        step, batches = self._step
        self.model.zero_grad()
        bad = rows_without_a_finite_loss(self.model, self._loss, batches)
        rows = [row for batch in batches for row in batch["row_ids"].tolist()]
        ids = map(self.train_dataset.ids, (bad, rows))
        return diverged(self._stage, step + 1, what, *ids, weights_moved=step > 0)

    def _held_back_diverged(self, loss: float, batches: DataLoader) -> Exception:
        bad = rows_without_a_finite_loss(self.model, self._loss, batches)
        if distributed.count() > 1:
            bad = sorted(set(gather_object(bad)))
        rows, step = self.eval_dataset, self.state.global_step
        what = f"the held-back loss after it is {loss}"
        return diverged(self._stage, step, what, rows.ids(bad), rows.ids(), weights_moved=True)

    def begin(self) -> None:
        """As before; at the end the weights can be used."""
        super().begin()
        self._require_sound_weights()

    def snapshot(self) -> Snapshot:
        """As before, with the pieces that memory asked for, so that it does not run out again."""
        whole = super().snapshot()
        return Snapshot(whole.values | {"pieces": dict(self._pieces)}, whole.tensors)

    def _save_checkpoint(self, model, trial) -> None:
        self._require_sound_weights()
        super()._save_checkpoint(model, trial)

    @torch.no_grad()
    def _require_sound_weights(self) -> None:
        """What the next step would find out of the last one: its weights are tried on a row that it was taken on."""
        step, (_, batches) = self.state.global_step, self._step
        if not batches:
            return  # no step was taken since the checkpoint, before which they were tried
        norm = float(get_total_norm(self._trained()))
        if not math.isfinite(norm):
            raise weights_diverged(self._stage, step, f"the norm of the trained weights is {norm}")
        self.model.eval()
        with singular_rotation_as_diverged(self._stage, step):
            loss = float(self._loss(self.model, select_rows(batches[0], [0])))
        if not math.isfinite(loss):
            raise weights_diverged(self._stage, step, f"the loss of a row that it was taken on is {loss}")

    def get_train_dataloader(self) -> DataLoader:
        """As the Trainer's, but rows and their order are those of a single process: `collate` takes a process's part.

        (The Trainer would order them by another size of batch, and repeat rows until every process has as many.)
        """
        return self._loader(self.train_dataset, self.args.train_batch_size, self._get_train_sampler())

    def get_eval_dataloader(self, eval_dataset: Dataset | None = None) -> DataLoader:
        """As `get_train_dataloader`, of the rows held back."""
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        return self._loader(rows, self.args.eval_batch_size, self._get_eval_sampler(rows))

    def _loader(self, rows: Dataset, batch_size: int, sampler: Sampler) -> DataLoader:
        pin_memory = self.args.dataloader_pin_memory
        loader = DataLoader(rows, batch_size, sampler=sampler, collate_fn=self.data_collator, pin_memory=pin_memory)
        return prepare_data_loader(
            loader, self.args.device, num_processes=1, process_index=0, put_on_device=True, rng_types=["torch"]
        )

    @torch.no_grad()
    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """The held-back loss alone: of each batch the mean over its answer tokens, of these the mean over rows."""
        self.model.eval()
        run, halved = partial(self._loss, self.model), partial(self._on_halved, "evaluation")
        sums = []
        with singular_rotation_as_diverged(self._stage, self.state.global_step):
            for batch in dataloader:
                loss, self._pieces["evaluation"] = in_micro_batches(run, batch, self._pieces["evaluation"], halved)
                labelled_BT = batch["labels"] != IGNORED
                sums.append(torch.stack([loss, labelled_BT.sum(), labelled_BT.any(1).sum()]))
        losses, tokens, rows = self.accelerator.reduce(torch.stack(sums)).unbind(1)
        mean = ((rows * losses / tokens).sum() / rows.sum()).item()
        if not math.isfinite(mean):
            raise self._held_back_diverged(mean, dataloader)
        return EvalLoopOutput(None, None, {f"{metric_key_prefix}_loss": mean}, int(rows.sum()))

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
    """Everything that belongs to an adapter that does not train."""
    for name in model.peft_config:
        if not any(p.requires_grad for p in adapter_parameters(model, [name]).values()):
            yield from adapter_modules(model, name)
