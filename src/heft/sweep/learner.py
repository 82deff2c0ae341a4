"""One configuration of a sweep: rows, optimiser, schedule, clipping and random numbers are those it has alone.

The Trainer that `heft train` would use builds the order of rows, the optimiser and the schedule. It is never run; the
learner draws from it what a step needs, in the order in which a run would.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from transformers import TrainerControl, set_seed

from heft.adapters.attach import adapter_parameters, attach, train_only
from heft.data.encode import EncodedExample
from heft.recipe.grid import Configuration
from heft.reft.interventions import orthonormal_rows
from heft.reft.layer import layers_of
from heft.training.early_stopping import HeldBack
from heft.training.stage import planned_steps, training_arguments
from heft.training.trainer import Rows, StageTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class RandomNumbers:
    """torch's random numbers as a run of its own would draw them, while other runs draw theirs in between."""

    def __init__(self, seed: int, device: torch.device):
        self._modules = [torch] + ([torch.get_device_module(device)] if device.type != "cpu" else [])
        before = self.state_of_torch()
        set_seed(seed)
        self.state = self.state_of_torch()
        self._set(before)

    def state_of_torch(self) -> list[torch.Tensor]:
        """The state of torch's own generators."""
        return [module.get_rng_state() for module in self._modules]

    def _set(self, state: list[torch.Tensor]) -> None:
        for module, values in zip(self._modules, state, strict=True):
            module.set_rng_state(values)

    @contextmanager
    def drawn(self) -> Iterator[None]:
        """While this is open, torch draws from this run's numbers."""
        before = self.state_of_torch()
        self._set(self.state)
        try:
            yield
        finally:
            self.state = self.state_of_torch()
            self._set(before)


@dataclass(frozen=True)
class Job:
    """One learner's (micro-)batch.

    Attributes:
        learner: whose.
        rows: indices of the examples.
        answer_tokens: of the learner's whole step, by which the loss is divided.
    """

    learner: "Learner"
    rows: tuple[int, ...]
    answer_tokens: int


class Learner:
    """One configuration in training.

    Args:
        model: the model; the configuration's adapter is attached to it here.
        number: of the configuration, its adapter's number in the tracker.
        configuration: what is trained.
        data: rows to train on and rows held back, numbered in this order.
        seed: of its weights, dropout and order of rows.
        scratch: a folder that the Trainer wants to know of.
    """

    def __init__(
        self,
        model: "PreTrainedModel",
        number: int,
        configuration: Configuration,
        data: tuple[Sequence[EncodedExample], Sequence[EncodedExample]],
        seed: int,
        scratch: str,
    ):
        self.number, self.configuration, self.seed = number, configuration, seed
        self._rows, held_back = data
        stage = configuration.stage
        set_seed(seed)
        attach(model, configuration.adapter, stage)
        train_only(model, [configuration.adapter])
        self.parameters = adapter_parameters(model, [configuration.adapter])
        self.steps = planned_steps(stage, len(self._rows))
        on_cpu = model.device.type == "cpu"
        self._arguments = training_arguments(stage, self.steps, len(self._rows), seed, scratch, on_cpu)
        self._trainer = self._make_trainer(model, held_back)
        self.random = RandomNumbers(seed, model.device)
        self._draw_dropout_apart(model)
        self._batches = self._steps_of_epochs()
        self._control, self._held_back = TrainerControl(), HeldBack(stage)
        self._weights = nn.ParameterDict({key.replace(".", "/"): p for key, p in self.parameters.items()})
        self.taken, self.tokens, self.seconds = 0, 0, 0.0
        self.losses: list[float] = []
        self.held_back_losses: list[tuple[int, float]] = []
        self.diverged = False

    @property
    def is_training(self) -> bool:
        """Whether there are steps to take."""
        return self.taken < self.steps and not self.diverged and not self.at_plateau

    @property
    def at_plateau(self) -> bool:
        """Whether its held-back loss has ended it before its steps did."""
        return self._held_back.plateau is not None and self.taken < self.steps

    def next_step(self) -> list[Job]:
        """The micro-batches of the next step."""
        with self.random.drawn():
            batches = next(self._batches)
        rows = [tuple(batch["row_ids"].tolist()) for batch in batches]
        answers = sum(len(self._rows[row].answer) for batch in rows for row in batch)
        self.losses.append(0.0)
        return [Job(self, batch, answers) for batch in rows]

    def add_gradients(self, gradients: Sequence[torch.Tensor | None], loss: float) -> None:
        """Take a micro-batch's gradients, in the order of `parameters`, and its part of the step's loss."""
        self.losses[-1] += loss
        for parameter, gradient in zip(self.parameters.values(), gradients, strict=True):
            if gradient is not None:
                # laid out as the parameter: fused optimisers read both in the order of memory
                gradient = torch.empty_like(parameter).copy_(gradient)
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def update(self) -> dict[str, float] | None:
        """Take the step; its figures, or None where its gradient is not finite or it leaves weights that are not."""
        parameters = [p for p in self.parameters.values() if p.grad is not None]
        limit = self._arguments.max_grad_norm
        norm = float(nn.utils.clip_grad_norm_(parameters, limit if limit > 0 else math.inf)) if parameters else 0.0
        if not math.isfinite(norm):
            return None
        figures = {"loss": self.losses[-1], "learning_rate": self._trainer.lr_scheduler.get_last_lr()[0]}
        self._trainer.optimizer.step()
        if not are_finite(self.parameters.values()):
            return None
        self._trainer.lr_scheduler.step()
        self._trainer.optimizer.zero_grad(set_to_none=True)
        self.taken += 1
        return {"step": self.taken, **figures, "grad_norm": norm}

    @torch.no_grad()
    def has_rotations(self) -> bool:
        """Whether its rotations can be computed; where one cannot, neither can a pass, whoever takes part in it."""
        try:
            for key, parameter in self.parameters.items():
                if key.endswith(".rotation"):
                    orthonormal_rows(parameter)
        except torch.linalg.LinAlgError:
            return False
        return True

    def diverge(self) -> None:
        """End here, without a step that was begun: a loss, a gradient or a weight is not a number any more."""
        self.diverged = True
        del self.losses[self.taken :]
        for parameter in self.parameters.values():
            parameter.grad = None

    def is_due(self) -> bool:
        """Whether its held-back rows are evaluated after the step just taken."""
        return self.taken % self._arguments.eval_steps == 0 or self.taken == self.steps

    def held_back_batches(self) -> list[list[int]]:
        """Its held-back rows in the batches over whose means a run takes the mean."""
        with self.random.drawn():
            return [batch["row_ids"].tolist() for batch in self._trainer.get_eval_dataloader()]

    def watch(self, loss: float) -> None:
        """Note a held-back loss: it may end the training, or mark the weights to keep."""
        self.held_back_losses.append((self.taken, loss))
        self._held_back.on_evaluate(None, None, self._control, {"eval_loss": loss}, self._weights)

    def finish(self) -> None:
        """Bring back the weights to keep, where the stage asks for the best ones."""
        self._held_back.on_train_end(None, None, self._control, self._weights)
        self._trainer = self._batches = None

    def _make_trainer(self, model: "PreTrainedModel", held_back: Sequence[EncodedExample]) -> StageTrainer:
        trainer = StageTrainer(
            model,
            self._arguments,
            train_dataset=Rows(self._rows),
            eval_dataset=Rows(held_back, first_id=len(self._rows)),
            pad_id=0,
        )
        trainer.data_collator = _numbers
        trainer.create_optimizer()
        trainer.create_scheduler(self.steps)
        return trainer

    def _steps_of_epochs(self) -> Iterator[list[dict]]:
        loader = self._trainer.get_train_dataloader()
        while True:
            epoch = iter(loader)
            while batches := list(itertools.islice(epoch, self._arguments.gradient_accumulation_steps)):
                yield batches

    def _draw_dropout_apart(self, model: "PreTrainedModel") -> None:
        if self.configuration.stage.dropout == 0:
            return
        open_contexts = []

        def before(module, args):
            open_contexts.append(self.random.drawn())
            open_contexts[-1].__enter__()

        def after(module, args, output):
            open_contexts.pop().__exit__(None, None, None)

        units = [each for layer in layers_of(model).values() for each in layer.units()]
        for dropout in (unit.dropout for name, unit in units if name == self.configuration.adapter):
            dropout.register_forward_pre_hook(before)
            dropout.register_forward_hook(after, always_call=True)  # a pass may run out of memory here


def _numbers(rows: list[dict]) -> dict[str, torch.Tensor]:
    return {"row_ids": torch.tensor([row["id"] for row in rows])}


def are_finite(tensors: Iterable[torch.Tensor | None]) -> bool:
    """Whether all numbers are finite; a tensor may be absent."""
    given = [tensor.detach() for tensor in tensors if tensor is not None]
    return not given or bool(torch.isfinite(torch.stack(torch._foreach_norm(given, math.inf))).all())
