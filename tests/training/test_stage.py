"""The training of a stage."""

from dataclasses import replace

import pytest
import torch

from heft.adapters.attach import adapter_parameters, attach, finish
from heft.builtin import TINY
from heft.data.encode import Encoder
from heft.data.validation import split_validation
from heft.models.load import load_base
from heft.recipe.model import ModelSettings
from heft.recipe.recipe import JointStage, LoraStage, ReftStage
from heft.runtime.reporter import Reporter
from heft.tasks import load_examples
from heft.tasks.whereabouts import WhereaboutsSettings
from heft.training import fused_lora
from heft.training.stage import planned_steps, train_stage
from tolerance import ROUNDING, assert_tensors, of_sgd_weights, of_weights, trained_losses


class Listener(Reporter):
    def __init__(self):
        self.values, self.notes = [], []

    def note(self, text):
        self.notes.append(text)

    def metrics(self, values):
        self.values.append(values)


def run(stage, rows=24, seed=0, below=None, listener=None):
    """Trains a stage on the tiny model; returns its outcome, what was reported, and the adapter's tensors.

    `below` is a stage whose adapters, of random numbers, are frozen beneath.
    """
    base = load_base(ModelSettings(name=TINY, device="cpu"))
    task = WhereaboutsSettings(train_size=rows, eval_size=1)
    examples = Encoder(base.tokenizer, 512)(load_examples(task, "train"))
    torch.manual_seed(seed)
    if below is not None:
        for parameter in adapter_parameters(base.model, attach(base.model, "below", below).names).values():
            torch.nn.init.normal_(parameter, std=0.05)
    attached = attach(base.model, "s", stage)
    listener = listener or Listener()
    outcome = train_stage(base.model, "s", stage, examples, pad_id=0, seed=seed, reporter=listener)
    tensors = {n: p.detach().clone() for n, p in adapter_parameters(base.model, attached.names).items()}
    return outcome, listener.values, tensors


def losses(values):
    return [value["loss"] for value in values if "loss" in value]


def same(one, two, tolerance):
    return all(torch.allclose(one[name], two[name], atol=tolerance) for name in one)


LORA = {"method": "lora", "rank": 2, "targets": ["q_proj", "v_proj"], "learning_rate": 1e-2}
REFT = {"method": "reft", "rank": 2, "positions": "l3", "learning_rate": 1e-2}


@pytest.mark.parametrize(("kind", "settings"), [(LoraStage, LORA), (ReftStage, REFT)])
def test_training_lowers_the_loss_and_reports_every_step(kind, settings):
    outcome, values, _ = run(kind(**{**settings, "learning_rate": 3e-2}, steps=12, batch_size=8))
    trace = losses(values)
    assert (outcome.steps, outcome.ended, len(trace)) == (12, "planned", 12)
    assert outcome.ended_because == "all 12 steps were taken"
    assert trace[-1] < trace[0] - 0.1
    assert outcome.seconds > 0


def test_the_last_steps_of_a_long_stage_are_logged_too_and_each_logged_loss_is_a_mean():
    """Every second of 201 steps, the first and the last; of steps that all take all rows and move nothing."""
    stage = ReftStage(**{**REFT, "learning_rate": 1e-30}, steps=201, batch_size=8)
    logged = [value for value in run(stage, rows=8)[1] if "loss" in value]
    assert [value["step"] for value in logged] == [1, *range(2, 201, 2), 201]
    assert losses(logged) == [pytest.approx(logged[0]["loss"], rel=ROUNDING)] * 102


def test_a_step_has_the_gradient_of_the_mean_loss_clipped_and_is_logged_with_its_norm_before_that():
    """Two steps of plain SGD, each on all rows; the first one's rate is 0."""
    stage = LoraStage(
        **{**LORA, "learning_rate": 0.1}, optimizer="sgd", warmup=0.5, steps=2, batch_size=8, max_grad_norm=0.01
    )
    _, values, after = run(stage, rows=8)
    base = load_base(ModelSettings(name=TINY, device="cpu"))
    rows = Encoder(base.tokenizer, 512)(load_examples(WhereaboutsSettings(train_size=8, eval_size=1), "train"))
    torch.manual_seed(0)
    before = adapter_parameters(base.model, attach(base.model, "s", stage).names)
    total = torch.tensor(0.0)
    for row in rows:
        logits = base.model(torch.tensor([row.prompt + row.answer])).logits[0, len(row.prompt) - 1 : -1]
        total = total + torch.nn.functional.cross_entropy(logits, torch.tensor(row.answer), reduction="sum")
    mean = total / sum(len(row.answer) for row in rows)
    gradients = torch.autograd.grad(mean, list(before.values()))
    norm = torch.stack([gradient.norm() for gradient in gradients]).norm().item()
    assert norm > 0.01
    logged = [value for value in values if "loss" in value]
    assert losses(logged) == pytest.approx([mean.item()] * 2, rel=ROUNDING)
    assert [value["grad_norm"] for value in logged] == pytest.approx([norm] * 2, rel=ROUNDING)
    assert [(value["learning_rate"], value["epoch"]) for value in logged] == [(0.0, 1.0), (0.1, 2.0)]
    for (name, start), gradient in zip(before.items(), gradients, strict=True):
        expected = start.detach() - 0.1 * gradient * 0.01 / norm
        assert torch.allclose(after[name], expected, rtol=0, atol=of_sgd_weights(0.1, 1, 0.01)), name


@pytest.mark.parametrize(("kind", "settings"), [(LoraStage, LORA), (ReftStage, REFT)])
def test_accumulation_changes_neither_the_loss_nor_the_result(kind, settings):
    _, whole_values, whole = run(kind(**settings, steps=4, batch_size=8))
    _, split_values, split = run(kind(**settings, steps=4, batch_size=8, micro_batch_size=2))
    assert losses(split_values) == trained_losses(losses(whole_values), settings["learning_rate"], 4)
    assert_tensors(split, whole, of_weights(settings["learning_rate"], 4))


def test_the_same_seed_gives_the_same_adapter_to_the_bit_and_another_seed_another():
    _, _, one = run(LoraStage(**LORA, steps=3, batch_size=4, dropout=0.1))
    _, _, two = run(LoraStage(**LORA, steps=3, batch_size=4, dropout=0.1))
    _, _, other = run(LoraStage(**LORA, steps=3, batch_size=4, dropout=0.1), seed=1)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not same(one, other, 1e-6)


def test_tokens_counted_are_real_ones():
    outcome, _, _ = run(LoraStage(**LORA, epochs=1, batch_size=6))
    base = load_base(ModelSettings(name=TINY, device="cpu"))
    rows = Encoder(base.tokenizer, 512)(load_examples(WhereaboutsSettings(train_size=24, eval_size=1), "train"))
    assert outcome.tokens == sum(len(row.prompt) + len(row.answer) for row in rows)


def test_a_stage_stops_early_where_the_validation_loss_stays_and_says_so():
    stage = LoraStage(
        **{**LORA, "learning_rate": 1e-9}, steps=30, batch_size=4, holdout=0.25, evaluate_every=1,
        early_stopping={"patience": 2, "min_delta": 0.01},
    )  # fmt: skip
    listener = Listener()
    outcome, values, _ = run(stage, listener=listener)
    assert (outcome.steps, outcome.ended) == (3, "early_stopping")
    first, second, third = (value["eval_loss"] for value in values if "eval_loss" in value)
    at = 1 if first <= second else 2
    assert outcome.ended_because == (
        "the validation loss did not fall by 0.01 in the last 2 evaluations (patience 2): "
        f"it is {third:.4f} at step 3, its lowest before was {min(first, second):.4f} at step {at}"
    )
    assert f"stage s stopped early, after step 3 of 30: {outcome.ended_because}; the last weights were kept" in (
        listener.notes
    )


@pytest.mark.parametrize("sizes", [{}, {"micro_batch_size": 2}, {"batch_size": 1}])
def test_the_validation_loss_is_that_of_an_answer_token_however_rows_are_split(sizes):
    base, listener = load_base(ModelSettings(name=TINY, device="cpu")), Listener()
    rows = Encoder(base.tokenizer, 512)(load_examples(WhereaboutsSettings(train_size=20, eval_size=1), "train"))
    rows = [replace(row, answer=row.answer * (1 + n % 7)) for n, row in enumerate(rows)]
    _, held_out = split_validation(rows, 0.4, seed=0)
    sums = []
    for row in held_out:
        with torch.no_grad():
            logits = base.model(torch.tensor([row.prompt + row.answer])).logits[0, len(row.prompt) - 1 : -1]
        sums.append(torch.nn.functional.cross_entropy(logits, torch.tensor(row.answer), reduction="sum").item())
    stage = LoraStage(**{**LORA, "learning_rate": 1e-30, "steps": 1, "batch_size": 4, "holdout": 0.4, **sizes})
    attach(base.model, "s", stage)
    train_stage(base.model, "s", stage, rows, pad_id=0, seed=0, reporter=listener)
    (found,) = [value["eval_loss"] for value in listener.values if "eval_loss" in value]
    assert found == pytest.approx(sum(sums) / sum(len(row.answer) for row in held_out), rel=1e-5)


def test_best_checkpoint_restores_the_weights_of_the_lowest_validation_loss():
    settings = {**LORA, "learning_rate": 1.0, "schedule": "constant", "warmup": 0.0, "max_grad_norm": 0}
    common = {"batch_size": 4, "holdout": 0.25, "evaluate_every": 1}
    _, values, best = run(LoraStage(**settings, **common, steps=8, best_checkpoint=True))
    trace = [value["eval_loss"] for value in values if "eval_loss" in value]
    lowest = trace.index(min(trace)) + 1
    assert lowest < 8, "the test needs a loss that rises again"
    _, _, stopped_there = run(LoraStage(**settings, **common, steps=lowest))
    assert_tensors(best, stopped_there, 0.0)  # the same steps


def test_weight_decay_shrinks_weights_but_neither_rotations_nor_biases():
    settings = {**REFT, "learning_rate": 1e-2, "schedule": "constant", "warmup": 0.0, "max_grad_norm": 1e-12}
    _, _, plain = run(ReftStage(**settings, optimizer="sgd", steps=3, batch_size=4))
    _, _, decayed = run(ReftStage(**settings, optimizer="sgd", steps=3, batch_size=4, weight_decay=10.0))
    for name in plain:
        shrunk = 0.9**3 if name.endswith(".weight") else 1.0
        assert torch.allclose(decayed[name], shrunk * plain[name], atol=ROUNDING), name


def test_a_joint_stage_uses_a_learning_rate_of_its_own_for_reft():
    still = {"learning_rate": 1e-12, "steps": 2, "batch_size": 4, "warmup": 0.0}
    joint = {"method": "joint", "lora": {"rank": 2}, "reft": {"rank": 2, "positions": "l2"}}
    _, _, moved = run(JointStage(**joint, **still, reft_learning_rate=0.1))
    _, _, stayed = run(JointStage(**joint, **still))
    for name in moved:
        assert torch.allclose(moved[name], stayed[name], atol=1e-6) != (".reft." in name), name


@pytest.mark.parametrize("setting", [
    {"learning_rate": 2e-2}, {"batch_size": 2}, {"warmup": 0.9}, {"schedule": "cosine"}, {"schedule": "constant"},
    {"optimizer": "adafactor"}, {"optimizer": "sgd"}, {"weight_decay": 0.5}, {"max_grad_norm": 0.01}, {"bf16": True},
    {"holdout": 0.5}, {"steps": 2},
])  # fmt: skip
def test_every_training_setting_changes_something(setting):
    _, _, plain = run(LoraStage(**{**LORA, "steps": 3, "batch_size": 4}))
    _, _, changed = run(LoraStage(**{**LORA, "steps": 3, "batch_size": 4, **setting}))
    assert not same(plain, changed, 1e-7)


def test_gradient_checkpointing_changes_nothing_but_memory():
    for kind, settings in ((LoraStage, LORA), (ReftStage, REFT)):
        _, _, plain = run(kind(**settings, steps=3, batch_size=4))
        _, _, recomputed = run(kind(**settings, steps=3, batch_size=4, gradient_checkpointing=True))
        assert_tensors(recomputed, plain, of_weights(settings["learning_rate"], 3))


@pytest.mark.parametrize(("kind", "settings"), [(LoraStage, LORA), (ReftStage, REFT)])
def test_a_stage_computes_lora_fused_or_as_peft_does_with_the_same_result(kind, settings, monkeypatch):
    calls = []
    apply = fused_lora._FusedLora.apply
    monkeypatch.setattr(fused_lora._FusedLora, "apply", lambda *args: calls.append(1) or apply(*args))
    _, fused_values, fused = run(kind(**settings, steps=4, batch_size=8), below=LoraStage(**LORA))
    assert calls
    calls.clear()
    _, plain_values, plain = run(kind(**settings, steps=4, batch_size=8, fused=False), below=LoraStage(**LORA))
    assert not calls
    assert losses(fused_values) == trained_losses(losses(plain_values), settings["learning_rate"], 4)
    assert_tensors(fused, plain, of_weights(settings["learning_rate"], 4))


@pytest.mark.parametrize("cache", ["memory", "disk", "off"])
def test_prefix_reuse_changes_neither_losses_nor_the_result(cache):
    settings = {**REFT, "steps": 10, "batch_size": 8, "holdout": 0.2, "evaluate_every": 3}
    _, plain_values, plain = run(ReftStage(**settings, reuse=False))
    _, fast_values, fast = run(ReftStage(**settings, cache=cache))
    for key in ("loss", "eval_loss"):
        expected = [value[key] for value in plain_values if key in value]
        found = [value[key] for value in fast_values if key in value]
        assert found == trained_losses(expected, settings["learning_rate"], 10)
    assert_tensors(fast, plain, of_weights(settings["learning_rate"], 10))


@pytest.mark.parametrize(
    ("kind", "settings"), [(ReftStage, REFT), (LoraStage, {**LORA, "positions": "l4+"})], ids=["reft", "lora"]
)
@pytest.mark.parametrize("cache", ["memory", "off"])
def test_mixed_precision_behind_prefixes_trains_as_float32_but_for_rounding(kind, settings, cache):
    settings = {**settings, "steps": 6, "batch_size": 8, "holdout": 0.2, "evaluate_every": 3, "cache": cache}
    _, exact, _ = run(kind(**settings))
    outcome, rounded, _ = run(kind(**settings, bf16=True))
    assert outcome.reuses
    for key in ("loss", "eval_loss"):
        exactly, found = ([value[key] for value in values if key in value] for values in (exact, rounded))
        assert found == pytest.approx(exactly, rel=2**-8)
        assert found != exactly  # it is rounded


def test_skipping_lower_layers_changes_neither_losses_nor_the_result():
    settings = {**REFT, "positions": "f1+l2", "layers": [2, 3], "steps": 8, "batch_size": 8, "holdout": 0.2}
    _, plain_values, plain = run(ReftStage(**settings, reuse=False))
    _, fast_values, fast = run(ReftStage(**settings, cache="memory"))
    for key in ("loss", "eval_loss"):
        expected = [value[key] for value in plain_values if key in value]
        found = [value[key] for value in fast_values if key in value]
        assert found == trained_losses(expected, settings["learning_rate"], 8)
    assert_tensors(fast, plain, of_weights(settings["learning_rate"], 8))


def test_a_frozen_adapter_has_no_dropout_while_the_next_stage_trains():
    results = []
    for dropout in (0.0, 0.9):
        base = load_base(ModelSettings(name=TINY, device="cpu"))
        rows = Encoder(base.tokenizer, 512)(load_examples(WhereaboutsSettings(train_size=8, eval_size=1), "train"))
        torch.manual_seed(0)
        coarse = attach(base.model, "coarse", LoraStage(**LORA, dropout=dropout))
        with torch.no_grad():
            for parameter in adapter_parameters(base.model, ["coarse"]).values():
                parameter.add_(0.1)
        finish(base.model, coarse)
        stage = ReftStage(**REFT, steps=2, batch_size=8)
        torch.manual_seed(1)
        attached = attach(base.model, "fine", stage)
        train_stage(base.model, "fine", stage, rows, pad_id=0, seed=0, reporter=Reporter())
        results.append({n: p.detach().clone() for n, p in adapter_parameters(base.model, attached.names).items()})
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_steps_are_planned_from_epochs_and_rows():
    assert planned_steps(LoraStage(method="lora", epochs=2, batch_size=8), 20) == 6
    assert planned_steps(LoraStage(method="lora", epochs=0.5, batch_size=8), 64) == 4
    assert planned_steps(LoraStage(method="lora", steps=5), 20) == 5


def test_checkpointing_in_one_stage_does_not_meet_the_next():
    results = []
    for checkpointing in (False, True):
        base = load_base(ModelSettings(name=TINY, device="cpu"))
        rows = Encoder(base.tokenizer, 512)(load_examples(WhereaboutsSettings(train_size=8, eval_size=1), "train"))
        stages = {
            "coarse": LoraStage(**LORA, steps=2, batch_size=8, gradient_checkpointing=checkpointing),
            "fine": ReftStage(**REFT, steps=2, batch_size=8),
        }
        below = []  # the first block, which nothing that trains stands before
        base.model.model.layers[0].register_forward_pre_hook(lambda _, args, below=below: below.append(args[0]))
        for name, stage in stages.items():
            torch.manual_seed(0)
            attached = attach(base.model, name, stage)
            train_stage(base.model, name, stage, rows, pad_id=0, seed=0, reporter=Reporter())
            finish(base.model, attached)
            assert below
            assert not any(hidden.requires_grad for hidden in below)
            assert not base.model.is_activation_checkpointing
            assert base.model.config.use_cache
        results.append({n: p.clone() for n, p in adapter_parameters(base.model, list(stages)).items()})
    assert same(*results, 1e-5)


def test_a_stage_in_bf16_leaves_a_model_that_computes_as_it_did_before():
    base = load_base(ModelSettings(name=TINY, device="cpu"))
    examples = Encoder(base.tokenizer, 512)(load_examples(WhereaboutsSettings(train_size=8, eval_size=1), "train"))
    attached = attach(base.model, "s", LoraStage(**LORA, steps=1, bf16=True))
    ids = torch.tensor([examples[0].prompt])
    seen = []
    base.model.lm_head.register_forward_hook(lambda module, args, output: seen.append((output.dtype, module.training)))
    train_stage(
        base.model,
        "s",
        LoraStage(**LORA, steps=1, bf16=True),
        examples,
        pad_id=0,
        seed=0,
        reporter=Reporter(),
    )
    assert {dtype for dtype, in_training in seen if in_training} == {torch.bfloat16}
    finish(base.model, attached)
    seen.clear()
    with torch.no_grad():
        base.model(ids)
    assert seen == [(torch.float32, False)]
    assert not {"forward", "_original_forward"} & base.model.__dict__.keys()
