"""What budgets come to, by the plan's own figures."""

import pytest

from heft.plan.planner import make_plan
from heft.reporter import Reporter
from heft.study import budgets as study_budgets
from heft.study.budgets import Budgets
from heft.study.files import load_study
from heft.study.measure import seconds_a_step
from heft.study.scaling import Rate

ARMS = "arms:\n  lora: {recipe: lora.yaml%s}\n  heft: {recipe: heft.yaml%s}\n"


def budgets_of(path, known=()):
    study = load_study(path)
    return study, Budgets(study, dict(known), Reporter())


def test_a_budget_of_flops_is_that_arms_plain_flops_to_half_a_step(study_file):
    study, budgets = budgets_of(study_file(ARMS % (", budget: {flops_of: heft}", "")))
    grant = budgets.grant("lora")
    heft = make_plan(study.recipes["heft"], probe_seconds=0).stages
    assert grant.amount == pytest.approx(sum(stage.plain_flops for stage in heft))
    [scaled] = make_plan(grant.apply(study.recipes["lora"]), probe_seconds=0).stages
    assert scaled.steps == grant.steps["coarse"]
    assert scaled.plain_flops == pytest.approx(grant.reached)
    assert abs(grant.reached - grant.amount) <= scaled.plain_flops / scaled.steps / 2
    assert budgets.grant("heft") is None


def test_a_budget_of_steps_keeps_the_ratio_of_the_stages_and_may_be_the_whole_studys(study_file):
    study, budgets = budgets_of(study_file("budget: {steps: 36}\n" + ARMS % ("", "")))
    assert budgets.grant("lora").steps == {"coarse": 36}
    assert budgets.grant("heft").steps == {"coarse": 12, "fine": 24}  # 3 and 6 as written
    stages = budgets.grant("heft").apply(study.recipes["heft"]).stages
    assert [(stage.steps, stage.epochs) for stage in stages.values()] == [(12, None), (24, None)]


def test_the_arm_that_the_studys_budget_names_stays_as_it_is(study_file):
    _, budgets = budgets_of(study_file("budget: {steps_of: heft}\n" + ARMS % ("", "")))
    assert (budgets.grant("lora").steps, budgets.grant("heft")) == ({"coarse": 9}, None)


def test_seconds_are_measured_and_a_study_that_goes_on_keeps_what_it_measured(study_file, monkeypatch):
    calls = []

    def measured(recipe, plan):
        calls.append(recipe.name)
        return [Rate(2.0, 0.5, stage.rows // 8) for stage in plan.stages]

    monkeypatch.setattr(study_budgets, "seconds_a_step", measured)
    path = study_file(ARMS % (", budget: {seconds: 10}", ""))
    _, budgets = budgets_of(path)
    grant = budgets.grant("lora")
    assert (grant.kind, grant.steps, grant.reached) == ("seconds", {"coarse": 11}, 10.0)  # 3 · 2 + 8 · 0.5
    _, again = budgets_of(path, {"lora": grant.to_dict()})
    assert again.grant("lora") == grant
    _, changed = budgets_of(study_file(ARMS % (", budget: {seconds: 20}", "")), {"lora": grant.to_dict()})
    assert changed.grant("lora").amount == 20
    assert len(calls) == 2


def test_a_few_real_steps_are_measured(study_file):
    recipe = load_study(study_file(ARMS % ("", ""))).recipes["heft"]
    coarse, fine = seconds_a_step(recipe, make_plan(recipe, probe_seconds=0))
    assert coarse.first == coarse.later > 0
    assert (fine.epoch, fine.first > 0, fine.later > 0) == (3, True, True)
