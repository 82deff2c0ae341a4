"""One configuration of a sweep: rows, optimizer, schedule, clipping and random numbers are those it has alone.

They come from the functions that the training loop uses (heft.training.batches, heft.training.optimizers).
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.utils import get_total_norm
from transformers import PreTrainedModel, set_seed

from heft.adapters.attach import adapter_modules, adapter_parameters, attach, train_only
from heft.evaluation.finite import has_full_rank
from heft.recipe.grid import Configuration
from heft.reft.layer import layers_of
from heft.training.batches import TrainingData, is_validation_due
from heft.training.early_stopping import EarlyStopping
from heft.training.optimizers import make_optimizer, make_schedule
from heft.training.stage import planned_steps


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
        """Meanwhile torch draws from this run's random numbers."""
        before = self.state_of_torch()
        self._set(self.state)
        try:
            yield
        finally:
            self.state = self.state_of_torch()
            self._set(before)


@dataclass(frozen=True)
class Job:
    """One learner's (micro-)batch; its loss is divided by the answer tokens of the learner's whole step."""

    learner: "Learner"
    rows: tuple[int, ...]
    answer_tokens: int


class Learner:
    """One configuration in training.

    Args:
        model: the configuration's adapter is attached to it here.
        number: of the configuration, its adapter's number in the tracker.
        seed: of its weights, dropout and order of rows.

    Attributes:
        parameters: the trained weights, by name.
        steps: optimizer steps to take.
        taken: those that it has taken.
        losses: the training loss of each step.
        validation_losses: (step, loss) of each validation evaluation.
        diverged: whether it has ended on a loss, a gradient or a weight that is not finite.
    """

    def __init__(
        self, model: PreTrainedModel, number: int, configuration: Configuration, data: TrainingData, seed: int
    ):
        self.number, self.configuration, self.seed = number, configuration, seed
        stage = self._stage = configuration.stage
        set_seed(seed)
        attach(model, configuration.adapter, stage)
        train_only(model, [configuration.adapter])
        self.parameters = adapter_parameters(model, [configuration.adapter])
        self.steps = planned_steps(stage, len(data.rows))
        self._optimizer = make_optimizer(self.parameters, stage)
        self._schedule = make_schedule(self._optimizer, stage, self.steps)
        self.random = RandomNumbers(seed, model.device)
        units = (each for layer in layers_of(model).values() for each in layer.units())
        self._units = [unit for name, unit in units if name == configuration.adapter]
        self._draw_dropout_apart(model)
        self._data, self._early_stopping = data, EarlyStopping(stage)
        self._batches = itertools.chain.from_iterable(data.epoch(stage) for _ in itertools.count())
        self.taken = 0
        self.losses: list[float] = []
        self.validation_losses: list[tuple[int, float]] = []
        self.diverged = False

    @property
    def is_training(self) -> bool:
        """Whether there are steps to take."""
        return self.taken < self.steps and not self.diverged and not self.stopped_early

    @property
    def stopped_early(self) -> bool:
        """Whether its validation loss has ended it before its steps did."""
        return self._early_stopping.reason is not None and self.taken < self.steps

    def next_step(self) -> list[Job]:
        """The micro-batches of the next step."""
        with self.random.drawn():
            micro_batches = next(self._batches)
        answers = sum(self._data.answer_tokens(rows) for rows in micro_batches)
        self.losses.append(0.0)
        return [Job(self, tuple(rows), answers) for rows in micro_batches]

    def add_gradients(self, gradients: Sequence[torch.Tensor | None], loss: float) -> None:
        """Take a micro-batch's gradients, in the order of `parameters`, and its part of the step's loss."""
        self.losses[-1] += loss
        for parameter, gradient in zip(self.parameters.values(), gradients, strict=True):
            if gradient is not None:
                # laid out as the parameter: fused optimizers read both in the order of memory
                gradient = torch.empty_like(parameter).copy_(gradient)
                parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient

    def update(self) -> dict[str, float] | None:
        """Take the step; its metrics, or None where its gradient is not finite or it leaves weights that are not."""
        parameters = [p for p in self.parameters.values() if p.grad is not None]
        limit = self._stage.max_grad_norm or math.inf
        norm = float(nn.utils.clip_grad_norm_(parameters, limit)) if parameters else 0.0
        if not math.isfinite(norm):
            return None
        metrics = {"loss": self.losses[-1], "learning_rate": self._schedule.get_last_lr()[0]}
        self._optimizer.step()
        if not are_finite(self.parameters.values()):
            return None
        self._schedule.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.taken += 1
        return {"step": self.taken, **metrics, "grad_norm": norm}

    def has_rotations(self) -> bool:
        """Whether its rotations can be computed; with one that cannot, no pass that it takes part in can."""
        return all(has_full_rank(unit.raw_rows()) for unit in self._units if unit.rotation is not None)

    def diverge(self) -> None:
        """End here, without a step that was begun: a loss, a gradient or a weight is NaN or infinite."""
        self.diverged = True
        del self.losses[self.taken :]
        for parameter in self.parameters.values():
            parameter.grad = None

    def is_due(self) -> bool:
        """Whether its validation rows are evaluated after the step just taken."""
        return is_validation_due(self.taken, self.steps, len(self._data.rows), self._stage)

    def add_validation_loss(self, loss: float) -> None:
        """Take in a validation loss: it may end the training, or mark the best weights."""
        self.validation_losses.append((self.taken, loss))
        self._early_stopping.update(self.taken, loss, self.parameters)

    def finish(self) -> None:
        """Restore the best weights, where the stage asks for them."""
        self._early_stopping.restore_best(self.parameters)
        self._optimizer = self._schedule = self._batches = None

    def _draw_dropout_apart(self, model: PreTrainedModel) -> None:
        if self.configuration.stage.dropout == 0:
            return
        open_contexts = []

        def before(module, args):
            open_contexts.append(self.random.drawn())
            open_contexts[-1].__enter__()

        def after(module, args, output):
            open_contexts.pop().__exit__(None, None, None)

        modules = adapter_modules(model, self.configuration.adapter)
        for dropout in [module for module in modules if isinstance(module, nn.Dropout)]:
            dropout.register_forward_pre_hook(before)
            dropout.register_forward_hook(after, always_call=True)  # a pass may run out of memory here


def are_finite(tensors: Iterable[torch.Tensor | None]) -> bool:
    """Whether all numbers are finite; a tensor may be absent."""
    given = [tensor.detach() for tensor in tensors if tensor is not None]
    return not given or bool(torch.isfinite(get_total_norm(given, math.inf)))
