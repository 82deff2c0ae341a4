"""What a few measured steps say of all steps, with tokens that went through the model in place of seconds."""

from types import SimpleNamespace

import pytest

from heft.models.load import load_base
from heft.recipe.files import load_recipe
from heft.study import measure
from heft.study.budgets import of_length
from heft.study.costing import Costing
from heft.study.measure import seconds_a_step
from heft.study.scaling import Rate
from tiny_recipe import write_recipe

TASK = "{name: whereabouts, people: 3, moves: 12, train_size: 48, eval_size: 2}"


@pytest.fixture
def tokens_of(monkeypatch):
    """The rates of a recipe's stages in tokens a step, and its stages' rows."""
    base = load_base

    def counted(settings):
        found, ran = base(settings), SimpleNamespace(tokens=0)

        def count(module, args, output):
            ran.tokens += output.shape[0] * output.shape[1]

        found.model.get_input_embeddings().register_forward_hook(count)
        monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: ran.tokens))
        return found

    monkeypatch.setattr(measure, "load_base", counted)

    def run(folder, stages):
        recipe, costing = load_recipe(write_recipe(folder, stages, task=TASK)), Costing()
        stages = costing.stages(of_length(recipe, dict.fromkeys(recipe.stages, 24)))  # two epochs of each
        return seconds_a_step(recipe, stages), stages

    return run


def test_a_first_epoch_that_caches_is_measured_with_all_that_it_caches(tokens_of, tmp_path):
    (rate,), (stage,) = tokens_of(tmp_path, "{s: {method: reft, positions: l1, batch_size: 4, epochs: 1}}")
    assert stage.reuse.store == "memory"
    prefixes = sum(len(row.prompt) - 1 for row in stage.rows)
    later = sum(row.length for row in stage.rows) - prefixes
    assert rate.epoch == 12
    assert rate.later * rate.epoch == pytest.approx(later, rel=0.1)  # and some padding
    assert rate.first * rate.epoch == pytest.approx(prefixes + later, rel=0.1)


@pytest.mark.parametrize(
    ("caches", "is_filled", "first", "later"),
    [
        (True, False, 5.0, 1.5),  # a mean, and the median of what came later
        (True, True, 1.5, 1.5),  # an earlier stage has cached it
        (False, False, 2.0, 2.0),  # every step is as any other
    ],
)
def test_rates_are_medians_but_for_a_first_epoch_that_caches(caches, is_filled, first, later):
    seconds = [9.0, 3.0, 3.0, 1.0, 1.0, 4.0, 1.0, 2.0, 2.0]
    assert measure._rate(seconds, 3, 12, caches, is_filled) == Rate(first, later, 12)
