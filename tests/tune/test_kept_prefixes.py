"""The base's prefixes that all trials of a search take: what they change, which is nothing, and what they cost."""

import json
from dataclasses import replace

import pytest

import tiny
from heft.adapters.detach import gone_afterwards
from heft.costs.rows import prefix_row
from heft.evaluation.kept import QuestionPrefixes
from heft.evaluation.likelihood import choice_log_likelihoods, plain_log_likelihoods
from heft.recipe.recipe import LoraStage, ReftStage
from heft.sweep import arrange
from heft.training import checked_loss
from heft.training.reuse import decide
from heft.training.reuse.decide import first_equal
from heft.training.reuse.prefix import PrefixReuse
from heft.tune.bench import Bench
from heft.tune.kept import SearchPrefixes, keep_prefixes, least_reaching, start_behind
from heft.tune.trial import COARSE, FINE
from heft.tune.weights import Before
from searches import LACKS, quick_tune, searched
from tolerance import of_losses, rounded

RATE, STEPS = 1e-2, 4
SAME = {
    "rank": 2,
    "batch_size": 4,
    "learning_rate": RATE,
    "steps": STEPS,
    "holdout": 0.25,
    "evaluate_every": STEPS,
}


def lora(positions: str, **more) -> LoraStage:
    """A stage that is measured at its end."""
    return LoraStage(method="lora", positions=positions, **{**SAME, **more})


def reft(positions: str, **more) -> ReftStage:
    """Likewise."""
    return ReftStage(method="reft", positions=positions, **{**SAME, **more})


@pytest.fixture
def counted(monkeypatch):
    """How many prefixes are computed."""
    rows: list[int] = []
    compute = PrefixReuse.compute

    def noted(self, chosen):
        if len(self.examples) == 24:  # of all rows, not of the few of a check
            rows.extend(chosen)
        return compute(self, chosen)

    monkeypatch.setattr(PrefixReuse, "compute", noted)
    return rows


@pytest.fixture(autouse=True)
def no_way_differs(monkeypatch):
    """A way behind prefixes that differs from the plain one is left, which gives the same numbers: none may."""

    def tried(forms, why_not, reporter):
        found = first_equal(forms, why_not, reporter)
        assert found[1] is None, found[1]
        return found

    for module in (arrange, decide):
        monkeypatch.setattr(module, "first_equal", tried)


def before_of(bench: Bench, positions: str) -> Before:
    """A trained LoRA, to put trials on."""
    coarse = lora(positions)
    with gone_afterwards(bench.base.model):
        bench.train_stage({COARSE: coarse}, COARSE, coarse)
        weights = {name: each.detach().clone() for name, each in bench.base.model.named_parameters() if "lora_" in name}
    return Before(COARSE, coarse, 1.0, 1.0, lambda: weights)


@pytest.mark.parametrize(
    ("tried", "below"),
    [
        *(pytest.param(*each, marks=pytest.mark.long) for each in ((["l2"], None), (["l3+"], "l4+"), (["l2"], "all"))),
        (["all"], None),
        (["l2", "l3", "l5+"], None),
        (["l2", "l3", "l5+"], "l4"),
        (["l2", "l3"], "all"),
    ],
    ids=str,
)
def test_a_trial_comes_to_what_it_comes_to_without_them(bench_of, tried, below):
    found = []
    for keeps in (True, False):
        bench = bench_of(keeps)
        before = below and before_of(bench, below)
        found.append(bench.train_on_top(before, FINE, [reft(each) for each in tried], [{} for _ in tried]))
        assert not hasattr(bench.base.model, "peft_config") or not bench.base.model.peft_config
    for kept, own in zip(*found, strict=True):
        close = of_losses(RATE, 2 * STEPS)
        assert kept.loss == pytest.approx(own.loss, rel=close)
        assert kept.row_losses == pytest.approx(own.row_losses, rel=close)
        assert (kept.accuracy, kept.steps, kept.key) == (own.accuracy, own.steps, own.key)
        assert kept.training_flops == own.training_flops
        assert kept.flops == own.flops if "all" in (below, *tried) else kept.flops < own.flops


def test_no_trial_computes_a_prefix_again(bench_of, counted):
    bench = bench_of(True)
    assert set(counted) == set(range(24))
    before = before_of(bench, "l4+")
    for below in (None, before):
        bench.train_on_top(below, FINE, [reft("l3")], [{}])
        bench.train_on_top(below, FINE, [reft("l2"), reft("l3")], [{}, {}])
    assert len(counted) - 24 <= 1 + 2 * 5  # one that tells their size, and the two rows on which each training is tried


def test_trials_of_one_kind_are_tried_against_the_plain_path_once(bench_of, monkeypatch):
    checks = []

    def counted(*arguments):
        checks.append(arguments)
        return why_unlike(*arguments)

    why_unlike = checked_loss._why_unlike
    monkeypatch.setattr(checked_loss, "_why_unlike", counted)
    found = {}
    for name, before in (("alone", []), ("after others", [reft("l2", learning_rate=0.5), reft("l2", rank=4)])):
        bench = bench_of(True)
        for stage in before:
            bench.train_on_top(None, FINE, [stage], [{}])
        assert len(checks) == bool(before)
        (found[name],) = bench.train_on_top(None, FINE, [reft("l2")], [{}])
        assert len(checks) == 1
        checks.clear()
    assert found["alone"].row_losses == found["after others"].row_losses


def test_a_trial_is_charged_for_no_prefix_and_its_recipe_is(bench_of):
    own, bench = bench_of(False), bench_of(True)
    tried = reft("l2", steps=10)  # two epochs
    costs = bench.counter.alone({}, FINE, tried)
    prefixes = sum(prefix_row(costs.shape.costs, row, 2) for row in bench.trained_rows)
    assert own.counter.paid({}, FINE, [tried]) - bench.counter.paid({}, FINE, [tried]) == pytest.approx(prefixes)
    assert bench.counter.flops_alone({}, FINE, tried) == own.counter.flops_alone({}, FINE, tried)
    whole = sum(prefix_row(costs.shape.costs, row, LACKS) for row in bench.rows)
    assert bench.counter.prefix_flops(FINE, tried, LACKS) == pytest.approx(whole)
    two = [tried, reft("l3", steps=10)]
    assert own.counter.paid({}, FINE, two) - bench.counter.paid({}, FINE, two) == pytest.approx(prefixes)
    taken = replace(bench, prefixes=SearchPrefixes(bench.prefixes.base, 12.0))
    assert taken.prefix_seconds({FINE: tried}) == pytest.approx(12.0 * 18 / 24)
    assert taken.prefix_seconds({COARSE: lora("l4"), FINE: tried}) == 0.0  # the first stage of a run has them
    assert taken.prefix_seconds({COARSE: lora("all"), FINE: tried}) == 0.0
    assert own.prefix_seconds({FINE: tried}) == 0.0


@pytest.mark.parametrize(
    ("before", "tried", "start"),
    [
        (None, ["l3"], 3),
        ("l5+", ["l3"], 5),
        ("all", ["l3"], None),
        (None, ["all"], None),
        (None, ["f1+l3"], None),
        (None, ["l3", "l5"], 0),
        ("l5", ["l3", "l9"], 5),
    ],
)
def test_where_a_trial_starts(before, tried, start):
    below = {COARSE: lora(before)} if before else {}
    assert start_behind(below, FINE, [reft(each) for each in tried]) == start


@pytest.mark.parametrize(
    "setting", [{"reuse": False}, {"cache": "off"}, {"gradient_checkpointing": True}, {"bf16": True}]
)
def test_a_stage_whose_settings_are_against_it_takes_none(setting):
    own = reft("l3", **setting)
    assert start_behind({}, FINE, [own]) is None
    assert least_reaching([(FINE, own)]) is None
    assert least_reaching([(FINE, own), (FINE, reft("l4")), (COARSE, lora("l3+"))])[0] == 3


def test_none_are_kept_where_that_takes_too_long_or_cannot_be(bench_of, monkeypatch):
    bench = bench_of(False)
    about = (bench.rows, LACKS, bench.base.tokenizer.pad_token_id)
    assert keep_prefixes(bench.base.model, *about, at_most=0.0) is None
    assert keep_prefixes(bench.base.model, bench.rows, 10_000, about[2]) is None  # no prompt is so long
    assert keep_prefixes(tiny.tiny_model("gpt2", resid_pdrop=0.1), *about) is None  # dropout of its own
    assert keep_prefixes(bench.base.model, *about).base.kind == "memory"


@pytest.mark.parametrize("positions", ["l3", "l4+"])
def test_choices_are_scored_behind_them_as_without(bench_of, positions):
    bench = bench_of(True)
    with gone_afterwards(bench.base.model):
        tried = lora(positions)
        bench.train_stage({COARSE: tried}, COARSE, tried)
        model, pad_id = bench.base.model, bench.base.tokenizer.pad_token_id
        kept = QuestionPrefixes(bench.prefixes.base, model, int(positions[1]), pad_id)
        rows = bench.validation_rows
        found = choice_log_likelihoods(model, rows, batch_size=4, pad_id=pad_id, kept=kept)
        expected = plain_log_likelihoods(model, rows, 4, pad_id)
    for one, other in zip(found, expected, strict=True):
        assert one == rounded(other)


def test_a_search_computes_them_once_and_a_resumed_one_again(tmp_path, counted):
    budget = 8e9
    found = searched(tmp_path, "lora, reft", budget, task="{name: whereabouts, train_size: 24, eval_size: 8}")
    trainings = {each.key for each in found.trials.outcomes.values()}
    assert len(counted) - 24 <= 2 * len(trainings)
    decision = found.trials.decisions["prefixes"]
    assert decision["lacks"] == 1
    assert found.found.findings.calibration == decision["cost"] > 0
    path = found.folder / "trials.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: len(lines) // 2]))
    counted.clear()
    again = quick_tune(found.recipe, f"{budget:g}flop", resume=True)
    assert 24 <= len(counted) <= 24 + 2 * len(trainings)
    assert [each.best.loss for each in again.findings.results] == [
        each.best.loss for each in found.found.findings.results
    ]
    assert json.loads((found.folder / "tune.json").read_text())["calibration"] == decision["cost"]
