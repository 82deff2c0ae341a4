"""What goes wrong without a noise is said, and stops where it must."""

import math

import pytest
import torch

from heft.adapters.attach import adapter_parameters, attach
from heft.builtin import TINY
from heft.data.encode import Encoder
from heft.data.validation import split_validation
from heft.errors import HeftError
from heft.models.load import load_base
from heft.recipe.model import ModelSettings
from heft.recipe.recipe import LoraStage, ReftStage
from heft.recipe.training import CheckpointSettings
from heft.runtime.reporter import Reporter
from heft.tasks import load_examples
from heft.tasks.whereabouts import WhereaboutsSettings
from heft.training import stage as stage_module
from heft.training.checkpointing import CheckpointPlan
from heft.training.guards import Diverged, diverged, flat_loss_note
from heft.training.stage import train_stage

LORA = {"method": "lora", "rank": 2, "targets": ["q_proj", "v_proj"], "learning_rate": 1e-2, "batch_size": 4}
REFT = {"method": "reft", "rank": 2, "positions": "l2", "learning_rate": 1e-2, "batch_size": 4}


class Notes(Reporter):
    def __init__(self):
        self.said, self.values = [], []

    def note(self, text):
        self.said.append(text)

    def metrics(self, values):
        self.values.append(values)


class Trained:
    """A stage on the tiny model whose loss is `spoil`ed; what was said and kept, and what became of the adapter."""

    def __init__(self, monkeypatch, spoil, rows=12, stage=LORA, every_steps=1, start=None, **settings):
        base = load_base(ModelSettings(name=TINY, device="cpu"))
        self.rows = Encoder(base.tokenizer, 512)(
            load_examples(WhereaboutsSettings(people=2, moves=2, train_size=rows, eval_size=1), "train")
        )
        stage = {"lora": LoraStage, "reft": ReftStage}[stage["method"]](**{**stage, **settings})
        torch.manual_seed(0)
        attach(base.model, "s", stage)
        chosen = stage_module.loss_for

        def spoilt(*arguments):
            loss, reuses = chosen(*arguments)
            return lambda model, batch: spoil(loss(model, batch), batch), reuses

        monkeypatch.setattr(stage_module, "loss_for", spoilt)
        self.notes, self.error, self.kept = Notes(), None, {}
        self.parameters = adapter_parameters(base.model, ["s"])
        settings = CheckpointSettings(every_steps=every_steps)
        plan = CheckpointPlan(settings, lambda state: self.kept.update({state.progress.step: state}), start)
        try:
            train_stage(base.model, "s", stage, self.rows, pad_id=0, seed=0, reporter=self.notes, plan=plan)
        except HeftError as error:
            self.error = error

    @property
    def tensors(self):
        return {name: p.detach().clone() for name, p in self.parameters.items()}


def plain(loss, batch):
    return loss


def test_a_nan_loss_stops_at_its_step_names_the_row_and_leaves_the_weights(monkeypatch):
    bad = 7  # of 12 rows in steps of 4, so the first epoch meets it once

    def spoil(loss, batch):
        return loss * math.nan if bad in batch["row_ids"].tolist() else loss

    with monkeypatch.context() as patched:
        run = Trained(patched, spoil, steps=6)
    taken = len([values for values in run.notes.values if "loss" in values])
    assert isinstance(run.error, Diverged)
    assert f"stage s, step {taken + 1}: the loss is nan" in str(run.error)
    assert f"rows whose loss alone is not finite: {run.rows[bad].example.id}." in str(run.error)
    assert taken in (0, 1, 2)
    assert all(p.grad is None or not p.grad.any() for p in run.parameters.values())
    assert all(torch.isfinite(tensor).all() for tensor in run.tensors.values())
    assert all(math.isfinite(values["loss"]) for values in run.notes.values)


def test_where_every_row_of_a_later_step_is_bad_the_learning_rate_is_blamed():
    for step, words in (
        (1, "rows whose loss alone is not finite: a, b. "),
        (2, "each of its rows alone has no finite loss"),
    ):
        said = str(diverged("s", step, "the loss is nan", ["a", "b"], ["a", "b"], weights_moved=step > 1))
        assert words in said
        assert ("Lower stages.s.learning_rate" in said) == (step == 2)
        assert said.endswith("then rerun with another --output DIR")


def test_the_weights_after_a_bad_step_are_those_before_it(monkeypatch):
    steps = []

    def spoil(loss, batch):
        if torch.is_grad_enabled():
            steps.append(None)
        return loss * math.inf if len(steps) == 3 and torch.is_grad_enabled() else loss

    # `steps` and the schedule differ between the two runs unless the schedule is constant
    same = {"warmup": 0.0, "schedule": "constant"}
    with monkeypatch.context() as patched:
        spoiled = Trained(patched, spoil, steps=6, **same)
    with monkeypatch.context() as patched:
        short = Trained(patched, plain, steps=2, **same)
    assert "step 3: the loss is inf" in str(spoiled.error)
    assert "each of its rows alone has a finite loss" in str(spoiled.error)
    assert all(torch.equal(tensor, short.tensors[name]) for name, tensor in spoiled.tensors.items())


def test_a_nan_gradient_stops_too(monkeypatch):
    class Bad(torch.autograd.Function):
        @staticmethod
        def forward(context, loss):
            return loss.clone()

        @staticmethod
        def backward(context, gradient):
            return gradient * math.nan

    run = Trained(monkeypatch, lambda loss, batch: Bad.apply(loss), steps=3, max_grad_norm=0.0)
    assert "step 1: the gradient's norm is nan" in str(run.error)


AT_ONCE = {"warmup": 0.0, "max_grad_norm": 0.0, "schedule": "constant"}


@pytest.mark.parametrize(("stage", "rate", "norm"), [(LORA, 1e38, "nan"), (LORA, 1e18, "inf"), (REFT, 1e38, "inf")])
def test_weights_that_the_last_step_spoiled_are_an_error(monkeypatch, stage, rate, norm):
    run = Trained(monkeypatch, plain, stage=stage, steps=1, learning_rate=rate, **AT_ONCE)
    assert isinstance(run.error, Diverged)
    assert f"stage s: after step 1 the norm of the trained weights is {norm}. " in str(run.error)
    assert "Lower stages.s.learning_rate" in str(run.error)


def test_finite_weights_are_refused_at_the_end_where_a_row_has_no_finite_loss(monkeypatch):
    run = Trained(monkeypatch, lambda loss, batch: loss if torch.is_grad_enabled() else loss * math.nan, steps=2)
    assert "stage s: after step 1 the loss of a row that it was taken on is nan. " in str(run.error)
    assert not run.kept


def test_weights_that_a_step_spoiled_are_not_saved_as_a_checkpoint(monkeypatch):
    run = Trained(monkeypatch, plain, steps=4, learning_rate=1e38, **{**AT_ONCE, "warmup": 0.5})  # step 1 moves nothing
    assert "after step 2 the norm of the trained weights is inf" in str(run.error)
    assert list(run.kept) == [1]


@pytest.mark.parametrize("settings", [{}, {"holdout": 0.25, "evaluate_every": 1}])
def test_a_singular_rotation_is_reported_as_a_learning_rate_that_is_too_high(monkeypatch, settings):
    run = Trained(monkeypatch, plain, every_steps=None, stage=REFT, steps=3, learning_rate=1e38, **AT_ONCE, **settings)
    assert isinstance(run.error, Diverged)
    assert "after step 1 rows of a rotation depend on each other or are not finite" in str(run.error)
    assert "Lower stages.s.learning_rate" in str(run.error)


@pytest.mark.parametrize("setting", [{"best_checkpoint": True}, {"early_stopping": True}])
def test_a_validation_loss_that_is_nan_names_its_rows(monkeypatch, setting):
    def spoil(loss, batch):
        return loss * math.nan if 10 in batch["row_ids"].tolist() else loss

    run = Trained(monkeypatch, spoil, holdout=0.25, evaluate_every=2, steps=8, **setting)
    bad = split_validation(run.rows, 0.25, seed=0)[1][10 - 9].example.id
    assert isinstance(run.error, Diverged)
    assert "stage s, step 2: the validation loss after it is nan; " in str(run.error)
    assert f"rows whose loss alone is not finite: {bad}." in str(run.error)


def test_where_every_validation_row_is_bad_the_learning_rate_is_blamed(monkeypatch):
    def spoil(loss, batch):
        return loss * math.inf if min(batch["row_ids"].tolist()) >= 9 else loss

    run = Trained(monkeypatch, spoil, holdout=0.25, evaluate_every=1, steps=3)
    assert "step 1: the validation loss after it is inf; each of its rows alone has no finite loss" in str(run.error)
    assert "Lower stages.s.learning_rate" in str(run.error)


@pytest.mark.parametrize(
    ("losses", "moved"),
    [
        ([2.0, 1.9, 2.1, 2.0, 2.0, 1.95, 2.05, 2.0], False),
        ([2.0, 1.9, 2.1, 2.0, 1.0, 1.1, 0.9, 1.0], True),
        ([2.0, 1.9, 2.1, 2.0, 3.0, 3.1, 2.9, 3.0], False),
        ([2.0, 2.0, 2.0, 2.0, 1.99, 1.99, 1.99, 1.99], True),  # little, but beyond all noise
        ([1.5, 2.5, 1.5, 2.5, 1.44, 2.44, 1.44, 2.44], True),  # by 3 %, which noise could do
        # noise of 0.01 to both sides is a standard error of 0.0082 in the difference of means
        ([1.99, 2.01, 1.99, 2.01, 1.97, 1.99, 1.97, 1.99], True),  # by 0.02
        ([1.99, 2.01, 1.99, 2.01, 1.978, 1.998, 1.978, 1.998], False),  # by 0.012
        ([2.0] * 8 + [3.0] * 8 + [2.0] * 24, False),  # of 40 the first and the last 8 are compared
        ([2.0] * 8 + [1.0] * 8 + [2.0] * 24, False),
        ([2.0] * 7, True),  # too few to tell
        ([2.0] * 8, False),
    ],
)
def test_a_loss_flat_loss_note_unless_it_fell_by_more_than_its_noise(losses, moved):
    assert (flat_loss_note("it", losses) is None) == moved


def test_a_flat_loss_is_noted_once(monkeypatch):
    with monkeypatch.context() as patched:
        still = Trained(patched, plain, steps=12, learning_rate=1e-9)
    moving = Trained(monkeypatch, plain, steps=12, learning_rate=3e-2)
    assert sum("the loss of stage s is flat: " in note for note in still.notes.said) == 1
    assert not any("is flat" in note for note in moving.notes.said)
