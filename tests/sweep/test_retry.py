"""A configuration that cannot be computed ends alone; rows that nobody can compute are named."""

import json
import math

import pytest
import torch

from heft.errors import HeftError
from heft.sweep.forward import PackedForward
from heft.sweep.learner import Learner
from tolerance import trained_losses

FINE = "{{method: reft, positions: l2, rank: 2, steps: {steps}, batch_size: 4, warmup: 0, schedule: constant}}"
SWEEP = "{{holdout: 0.25, grid: {{learning_rate: [{rates}]}}}}"
TRAINED = 18
"""Of 24 rows, where a quarter is held back; these have the lower numbers."""


def swept(run, steps=2, rates="1e-2, 2e-2", name="sweep"):
    return run(FINE.format(steps=steps), SWEEP.format(rates=rates), name)


def assert_only_the_second_has_diverged(run, found, learners, steps):
    """And the first is as in a sweep of its own."""
    assert [learner.diverged for learner in learners] == [False, True]
    assert [(r.name, r.diverged, r.loss is None) for r in found.results] == [("c00", False, False), ("c01", True, True)]
    _, alone, (same,) = swept(run, steps, "1e-2", "alone")
    assert learners[0].losses == trained_losses(same.losses, 1e-2, steps)
    assert found.results[0].loss == trained_losses(alone.results[0].loss, 1e-2, steps)
    assert (found.directory / "adapter").is_dir()
    ended = [json.loads(line) for line in (found.directory / "metrics.jsonl").read_text().splitlines()]
    assert [line["configuration"] for line in ended if line.get("diverged")] == ["c01"]


def spoil(monkeypatch, is_bad):
    """Losses of some items are NaN, and with them those of all items of their rows in the pass."""
    plain, ids = PackedForward.losses, {}

    def losses(passes, items):
        rows = {item.row for item in items if is_bad(item)}
        ids.update({row: passes.examples[row].example.id for row in rows})
        factors = [math.nan if item.row in rows else 1.0 for item in items]
        return plain(passes, items) * torch.tensor(factors)

    monkeypatch.setattr(PackedForward, "losses", losses)
    return ids


@pytest.mark.filterwarnings("error:Adapter .* was active")
@pytest.mark.parametrize(("steps", "rate"), [(1, "1e38"), (3, "1e38"), (1, "1e39")])
def test_weights_that_run_away_end_their_configuration_even_in_the_last_step(run, steps, rate):
    _, found, learners = swept(run, steps, f"1e-2, {rate}")
    assert_only_the_second_has_diverged(run, found, learners, steps)
    assert found.results[1].losses == []


@pytest.mark.parametrize("at", [1, 3])
def test_rotations_whose_rows_depend_on_each_other_end_their_configuration(run, monkeypatch, at):
    plain = Learner.update

    def update(learner):
        figures = plain(learner)
        if learner.number == 1 and learner.taken == at:
            next(p for key, p in learner.parameters.items() if key.endswith(".rotation")).data[1] = 0
        return figures

    with monkeypatch.context() as patched:
        patched.setattr(Learner, "update", update)
        _, found, learners = swept(run, 3)
    assert_only_the_second_has_diverged(run, found, learners, 3)
    assert len(found.results[1].losses) == at


def test_a_nan_validation_loss_ends_its_configuration_alone(run, monkeypatch):
    with monkeypatch.context() as patched:
        spoil(patched, lambda item: item.adapter == 1 and item.row >= TRAINED)
        _, found, learners = swept(run)
    assert_only_the_second_has_diverged(run, found, learners, 2)


@pytest.mark.parametrize("of", [range(TRAINED), range(TRAINED, 24)])
def test_rows_that_have_no_finite_loss_without_edits_either_are_named(run, monkeypatch, of):
    bad = {of[1], of[3]}
    ids = spoil(monkeypatch, lambda item: item.row in bad)
    with pytest.raises(HeftError, match="rows whose loss is not finite before any configuration edits them") as caught:
        swept(run, steps=8)
    assert any(name in str(caught.value) for name in ids.values())
    assert set(ids) <= bad
    assert "learning_rate" not in str(caught.value)


def test_a_choice_that_has_no_finite_loss_is_named_by_its_row(run, monkeypatch):
    plain, wrong = PackedForward.losses, []

    def losses(passes, items):
        is_bad = [c.row == TRAINED + 1 and c.continuation != passes.examples[c.row].answer for c in items]
        wrong.extend(passes.examples[c.row].example.id for c, bad in zip(items, is_bad, strict=True) if bad)
        return plain(passes, items) * torch.tensor([math.nan if bad else 1.0 for bad in is_bad])

    monkeypatch.setattr(PackedForward, "losses", losses)
    with pytest.raises(HeftError, match="before any configuration edits them: ") as caught:
        swept(run)
    assert f"them: {wrong[0]}. Look at these rows" in str(caught.value)
