"""FLOPs of an evaluation against torch's own counter."""

from types import SimpleNamespace

import pytest
import torch

import tiny
from counting import counted
from heft.adapters.attach import attach
from heft.costs import evaluation
from heft.costs.evaluation import Evaluations, evaluation_cost, evaluation_flops, generation_flops
from heft.costs.operations import model_costs
from heft.data.batching import pass_tokens
from heft.data.encode import Encoder
from heft.evaluation.evaluator import evaluate_examples
from heft.evaluation.kept import QuestionPrefixes, SameEvaluations
from heft.evaluation.likelihood import choice_log_likelihoods
from heft.recipe.recipe import EvaluationSettings, LoraStage, Recipe, ReftStage
from heft.runtime.reporter import Reporter
from heft.tasks import load_examples, task_for
from heft.tasks.example import choice_example
from heft.tasks.rows import RowsSettings
from heft.tasks.whereabouts import WhereaboutsSettings
from heft.training.reuse.activation_cache import ROWS_PER_PASS
from heft.training.reuse.shared import RowPrefixes

ONE_TEXT = [choice_example("t", f"{'ab' * 20}\n{i}?", ("no", "yes it is"), 0, group="one") for i in range(4)]
ALONE = [choice_example("t", "ab" * length, (" no", " yes"), 0) for length in (3, 40, 42)]
CHOICES = Encoder(tiny.byte_tokenizer(), 256)(ONE_TEXT + ALONE)


def staged():
    model = tiny.tiny_model()
    attach(model, "coarse", LoraStage(method="lora", rank=2, targets=["q_proj", "down_proj"], steps=1))
    attach(model, "fine", ReftStage(method="reft", rank=2, steps=1, positions="l2", intervention="direft"))
    return model


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_an_evaluation_is_counted(batch_size):
    with torch.device("meta"):
        costs = model_costs(staged())
    model = staged()
    model.set_attn_implementation("eager")  # plain products, which torch counts on every device
    cost = pass_tokens(model.device, trains=False)
    ran = counted(lambda: choice_log_likelihoods(model, CHOICES, batch_size=batch_size, pad_id=0))
    found = evaluation_flops(costs, CHOICES, batch_size, 2, share_prefix=True, tokens_of_a_pass=cost)
    assert found == pytest.approx(ran, rel=1e-2)


def two_stages(first):
    model = tiny.tiny_model()
    for name, positions in (("coarse", first), ("fine", "l1+")):
        stage = LoraStage(method="lora", rank=2, positions=positions, targets=["q_proj", "down_proj"], steps=1)
        attach(model, name, stage)
    return model


@pytest.mark.parametrize(("names", "first"), [(("base", "coarse", "fine"), "l2+"), (("coarse", "fine"), "all")])
def test_evaluations_that_keep_prefixes_for_each_other_are_counted(names, first):
    """The first pays for the prefixes, the others for what stands behind them."""
    same = SameEvaluations(names, 2)
    with torch.device("meta"):
        base, costs = model_costs(tiny.tiny_model()), model_costs(two_stages(first))
    model = two_stages(first)
    model.set_attn_implementation("eager")
    rows = RowPrefixes(CHOICES, 2, ROWS_PER_PASS, same.of_base)
    rows.store("memory")
    rows.reuse(model, 2, 0)  # which tries once what padding does
    kept = QuestionPrefixes(rows, model, 2, 0)
    stage = LoraStage(method="lora", steps=1)
    recipe = Recipe(
        name="t", task=WhereaboutsSettings(), evaluation=EvaluationSettings(batch_size=3), stages={"one": stage}
    )
    for prefixes in (base if same.of_base else costs, None):
        found = evaluation_cost(recipe, model, costs, CHOICES, model.device, True, same, prefixes)
        ran = counted(lambda: choice_log_likelihoods(model, CHOICES, batch_size=3, pad_id=0, kept=kept))
        assert found == pytest.approx(ran, rel=1e-2)
    alone = evaluation_cost(recipe, model, costs, CHOICES, model.device, False)
    assert evaluation_cost(recipe, model, costs, CHOICES, model.device, False, same, base) == alone


@pytest.mark.parametrize(
    ("evaluated", "payers"),
    [
        ((), {"base": "the base's", "fine": "its own"}),
        (("base", "fine"), {"coarse": "the base's", "last": "its own"}),
        (("base", "coarse"), {"fine": "its own"}),
    ],
)
def test_of_the_evaluations_that_are_left_the_first_pays_for_the_prefixes_that_they_share(
    evaluated, payers, monkeypatch
):
    """Those of the base cost a pass of the base, whichever adapters are on the model that computes them."""
    groups = [SameEvaluations(("base", "coarse"), 2), SameEvaluations(("fine", "last"), 5)]
    monkeypatch.setattr(evaluation, "same_evaluations", lambda *_: groups)
    monkeypatch.setattr(evaluation, "base_costs", lambda _: "the base's")
    monkeypatch.setattr(evaluation, "evaluation_cost", lambda *arguments: arguments[5:])
    recipe = SimpleNamespace(evaluation=EvaluationSettings(share_prefix=False))
    counts = Evaluations(recipe, None, [], torch.device("cpu"), evaluated)
    for same in groups:
        for name in same.names:
            if name not in evaluated:
                assert counts.flops(name, "its own") == (False, same, payers.get(name))
    assert counts.flops("elsewhere", "its own") == (False, None, None)


LONG = [choice_example("t", f"{'ab' * 20}\n{i}?", ("a cat and so on", "b " * 9), 0, group="one") for i in range(4)]


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize(
    "stage",
    [
        LoraStage(rank=4, positions="l2+", steps=1),
        ReftStage(rank=4, positions="l2+", intervention="direft", steps=1),
        ReftStage(rank=4, positions="all", intervention="direft", steps=1),
        ReftStage(rank=4, positions="f2+l2", intervention="direft", steps=1),
    ],
    ids=["lora l2+", "reft l2+", "reft all", "reft f2+l2"],
)
def test_adapters_are_counted_on_the_tokens_of_choices_too_and_once_where_they_are_shared(stage, share_prefix):
    rows = Encoder(tiny.byte_tokenizer(), 256)(LONG)
    with torch.device("meta"):
        skeleton = tiny.tiny_model()
        attach(skeleton, "one", stage)
        costs = model_costs(skeleton)
    model = tiny.tiny_model()
    attach(model, "one", stage)
    model.set_attn_implementation("eager")
    batch_size = 4 if share_prefix else 1  # plain rows are counted without padding
    ran = counted(
        lambda: choice_log_likelihoods(model, rows, batch_size=batch_size, pad_id=0, share_prefix=share_prefix)
    )
    found = evaluation_flops(costs, rows, batch_size, 2, share_prefix, pass_tokens(model.device, trains=False))
    assert found == pytest.approx(ran, rel=2e-3)


def test_generated_answers_are_counted_with_the_loss_of_their_references():
    """Each prompt once, then as many tokens as may come; and prompt and reference together once more."""
    rows = [{"prompt": "ab" * length, "completion": "cd" * length} for length in (5, 20, 21)]
    task = RowsSettings(train=rows, eval=rows, max_new_tokens=9, max_length=256)
    tokenizer, settings = tiny.byte_tokenizer(), EvaluationSettings(batch_size=1)
    examples = Encoder.of(tokenizer, task)(load_examples(task, "eval"))
    with torch.device("meta"):
        costs = model_costs(staged())
    model = staged()
    model.set_attn_implementation("eager")

    def evaluate():
        evaluate_examples(model, tokenizer, task_for(task), examples, settings, Reporter())

    evaluate()  # which looks at the model once
    ran = counted(evaluate)
    assert generation_flops(costs, examples, task.max_new_tokens) == pytest.approx(ran, rel=1e-3)
