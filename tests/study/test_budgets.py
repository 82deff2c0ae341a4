"""What budgets come to, by the plan's own figures."""

import json

import pytest

from heft.costs import shapes
from heft.errors import HeftError
from heft.plan.planner import make_plan
from heft.runtime.reporter import Reporter
from heft.study import budgets as study_budgets
from heft.study import costing as study_costing
from heft.study.budgets import Budgets, of_length
from heft.study.costing import Costing
from heft.study.files import load_study
from heft.study.measure import seconds_a_step
from heft.study.scaling import Rate

ARMS = "arms:\n  lora: {recipe: lora.yaml%s}\n  heft: {recipe: heft.yaml%s}\n"


def budgets_of(path, known=()):
    study = load_study(path)
    return study, Budgets(study, dict(known), Reporter())


def test_a_budget_of_flops_is_that_arms_plain_flops_to_half_a_step(study_file):
    study, budgets = budgets_of(study_file(ARMS % (", budget: {flops_of: heft}", "")))
    grant = budgets.resolve("lora")
    heft = make_plan(study.recipes["heft"], probe_seconds=0).stages
    assert grant.amount == pytest.approx(sum(stage.plain_flops for stage in heft))
    [scaled] = make_plan(of_length(study.recipes["lora"], grant.steps), probe_seconds=0).stages
    assert scaled.steps == grant.steps["coarse"]
    assert scaled.plain_flops == pytest.approx(grant.reached)
    assert abs(grant.reached - grant.amount) <= scaled.plain_flops / scaled.steps / 2
    assert budgets.resolve("heft") is None


def test_a_budget_that_was_resolved_is_kept_until_settings_or_rows_change(study_file, tmp_path):
    """A run may have failed since rows were at fault, which are mended before the study goes on."""

    def write_rows(count):
        rows = ({"prompt": f"What is {number}?", "completion": f"{number} is it"} for number in range(count))
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    file = (tmp_path / "rows.jsonl").as_posix()
    task = f"set: {{task: {{name: rows, train: {file}, eval: {file}}}, allow: [train_in_eval]}}\n"
    path = study_file(task + ARMS % (", budget: {steps_of: heft}", ""))
    write_rows(16)
    _, budgets = budgets_of(path)
    first = budgets.resolve("lora")
    assert (first.amount, first.steps) == (6, {"coarse": 6})
    assert budgets_of(path, {"lora": first})[1].resolve("lora") is first
    write_rows(32)
    assert budgets_of(path, {"lora": first})[1].resolve("lora").steps == {"coarse": 12}
    (tmp_path / "rows.jsonl").unlink()
    assert budgets_of(path, {"lora": first})[1].resolve("lora") is first


def plan_of(recipe):
    return make_plan(recipe, probe_seconds=0).stages


def test_a_budget_of_spent_flops_equals_the_plan_and_gives_reuse_more_steps(study_file):
    study, budgets = budgets_of(study_file(ARMS % ("", ", budget: {spent_flops_of: lora}")))
    spent = budgets.resolve("heft")
    assert spent.amount == pytest.approx(sum(stage.flops for stage in plan_of(study.recipes["lora"])))
    planned = plan_of(of_length(study.recipes["heft"], spent.steps))
    assert [stage.steps for stage in planned] == list(spent.steps.values())
    assert sum(stage.flops for stage in planned) == pytest.approx(spent.reached)
    assert sum(stage.plain_flops for stage in planned) > 1.1 * spent.amount  # more than it could with nothing reused
    _, budgets = budgets_of(study_file(ARMS % ("", ", budget: {flops_of: lora}")))
    assert spent.steps["fine"] > budgets.resolve("heft").steps["fine"]


@pytest.mark.parametrize("positions", ["l2", "f1+l1"])  # reused: prefixes, or the layers below the first edited one
@pytest.mark.parametrize("steps", [1, 3, 4, 9])  # three see every row once: up to there nothing kept is used again
def test_what_an_arm_spends_is_the_plans_figure_whether_or_not_it_sees_a_row_twice(study_file, steps, positions):
    fine = f"{{method: reft, rank: 2, layers: [2, 3], positions: {positions}, batch_size: 8, steps: {steps}}}"
    path = study_file(ARMS % (", budget: {spent_flops_of: heft}", f", set: {{stages: {{fine: {fine}}}}}"))
    study, budgets = budgets_of(path)
    [planned] = plan_of(study.recipes["heft"])
    assert budgets.resolve("lora").amount == pytest.approx(planned.flops)
    assert (planned.reuse.kind == "nothing") == (positions == "f1+l1" and steps <= 3)


def test_a_budget_of_steps_keeps_the_ratio_of_the_stages_and_may_be_the_whole_studys(study_file):
    study, budgets = budgets_of(study_file("budget: {steps: 36}\n" + ARMS % ("", "")))
    assert budgets.resolve("lora").steps == {"coarse": 36}
    assert budgets.resolve("heft").steps == {"coarse": 12, "fine": 24}  # 3 and 6 as written
    stages = of_length(study.recipes["heft"], budgets.resolve("heft").steps).stages
    assert [(stage.steps, stage.epochs) for stage in stages.values()] == [(12, None), (24, None)]


def test_the_arm_that_the_studys_budget_names_stays_as_it_is(study_file):
    _, budgets = budgets_of(study_file("budget: {steps_of: heft}\n" + ARMS % ("", "")))
    assert (budgets.resolve("lora").steps, budgets.resolve("heft")) == ({"coarse": 9}, None)


def test_seconds_are_measured_and_a_study_that_goes_on_keeps_what_it_measured(study_file, monkeypatch):
    calls = []

    def measured(recipe, counted):
        calls.append(recipe.name)
        return [Rate(2.0, 0.5, len(stage.rows) // 8) for stage in counted]

    monkeypatch.setattr(study_budgets, "seconds_a_step", measured)
    path = study_file(ARMS % (", budget: {seconds: 10}", ""))
    _, budgets = budgets_of(path)
    grant = budgets.resolve("lora")
    assert (grant.kind, grant.steps, grant.reached) == ("seconds", {"coarse": 11}, 10.0)  # 3 · 2 + 8 · 0.5
    _, again = budgets_of(path, {"lora": grant})
    assert again.resolve("lora") == grant
    _, changed = budgets_of(study_file(ARMS % (", budget: {seconds: 20}", "")), {"lora": grant})
    assert changed.resolve("lora").amount == 20
    assert len(calls) == 2


def test_a_few_real_steps_are_measured(study_file):
    recipe = load_study(study_file(ARMS % ("", ""))).recipes["heft"]
    coarse, fine = seconds_a_step(recipe, Costing().stages(recipe))
    assert coarse.first == coarse.later > 0
    assert (fine.epoch, fine.first > 0, fine.later > 0) == (3, True, True)


def test_an_arm_that_cannot_be_counted_takes_only_those_with_it_whose_budget_it_is(study_file, tmp_path):
    path = study_file(
        "arms:\n"
        f"  heft: {{recipe: heft.yaml, set: {{task: {{name: boolq, source: {(tmp_path / 'gone').as_posix()}}}}}}}\n"
        "  lora: {recipe: lora.yaml, budget: {flops_of: heft}}\n"
        "  other: {recipe: lora.yaml, budget: {steps: 7}}\n"
    )
    _, budgets = budgets_of(path)
    with pytest.raises(HeftError, match=r"its budget is what arm 'heft' takes, which cannot be computed: .*gone"):
        budgets.resolve("lora")
    assert budgets.resolve("heft") is None
    assert budgets.resolve("other").steps == {"coarse": 7}


def test_steps_can_be_granted_where_flops_cannot_be_counted(study_file, monkeypatch, fresh_shapes):
    def refuse(*args):
        raise NotImplementedError("no meta kernel")

    monkeypatch.setattr("heft.costs.operations._run", refuse)
    _, budgets = budgets_of(study_file(ARMS % (", budget: {steps: 5}", ", budget: {flops: 1e9}")))
    assert budgets.resolve("lora").steps == {"coarse": 5}
    with pytest.raises(HeftError, match="FLOPs of stage coarse cannot be counted: NotImplementedError: no meta kernel"):
        budgets.resolve("heft")


def test_what_arms_have_in_common_is_read_and_looked_at_once(study_file, monkeypatch, fresh_shapes):
    read, looked = [], []
    monkeypatch.setattr(study_costing, "read_data", lambda *a, f=study_costing.read_data: read.append(a) or f(*a))
    monkeypatch.setattr(shapes, "shape_of", lambda *a, f=shapes.shape_of: looked.append(a) or f(*a))
    path = study_file(
        "budget: {flops_of: heft}\n"
        "arms:\n"
        "  heft: {recipe: heft.yaml}\n"
        "  short: {recipe: heft.yaml, set: {stages.coarse.epochs: 0.5}}\n"
        "  lora: {recipe: lora.yaml}\n"
        "  wide: {recipe: lora.yaml, set: {stages.coarse.rank: 3}}\n"
    )
    study, budgets = budgets_of(path)
    for arm in study.recipes:
        budgets.resolve(arm)
    assert len(read) == 2  # with the fine stage's positions and without
    assert len(looked) == 3  # coarse, fine after it, and the other rank
    for recipe in study.recipes.values():
        shared = [(c.planned_steps, c.flops(c.planned_passes)) for c in budgets.costing.stages(recipe)]
        assert shared == [(stage.steps, pytest.approx(stage.flops)) for stage in plan_of(recipe)]
