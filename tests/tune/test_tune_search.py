"""Whole searches: accounts, rows, determinism, interruption, what they leave."""

import json
import math
import weakref
from collections import defaultdict
from dataclasses import replace
from xml.etree import ElementTree

import pytest

import heft
from heft.costs import shapes
from heft.costs.operations import Uncountable
from heft.costs.shapes import forget_shapes
from heft.data.rows import read_data
from heft.data.validation import order_for, split_validation
from heft.errors import HeftError
from heft.models.load import load_base
from heft.recipe.files import load_recipe
from heft.recipe.recipe import Recipe
from heft.runtime.reporter import Reporter
from heft.storage.locks import locked
from heft.study.files import load_study
from heft.sweep.learner import Learner
from heft.training.loop import TrainingLoop
from heft.tune import repeats
from heft.tune.bench import Bench
from heft.tune.holdout import holdout_for
from heft.tune.kept import start_behind
from heft.tune.measure import Measured, measured_alone
from heft.tune.repeats import REPEAT_SHARE, number_of
from heft.tune.report import trials_of
from heft.tune.space import settings_of
from heft.tune.switch import switch_of
from searches import ALL_ARMS, SMALL, STAGES, TASK, quick_tune, searched
from tiny_recipe import write_recipe
from tolerance import of_losses


def watched(folder, wanted="", **options):
    """A search, and the ids of the rows that were trained on, in trials (0) and in each repeat by its number."""
    trained = defaultdict(set)
    step, jobs, on_top = TrainingLoop._step, Learner.next_step, Bench.train_on_top
    now = []

    def of_a_step(loop, micro_batches):
        now.extend(loop.data.examples[row].example.id for rows in micro_batches for row in rows)
        return step(loop, micro_batches)

    def of_a_job(learner):
        found = jobs(learner)
        now.extend(learner._data.examples[row].example.id for job in found for row in job.rows)
        return found

    def of_a_piece(*about, **options):
        now.clear()
        found = on_top(*about, **options)
        *_, stage = found[0].stages.values()
        trained[number_of(stage["seed"], 0)].update(now)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingLoop, "_step", of_a_step)
        patch.setattr(Learner, "next_step", of_a_job)
        patch.setattr(Bench, "train_on_top", of_a_piece)
        return searched(folder, wanted, **options), trained


@pytest.fixture(scope="module")
def all_arms(tmp_path_factory):
    """A search of every arm, watched."""
    return watched(tmp_path_factory.mktemp("all"), budget=ALL_ARMS)


def rows_of(recipe: Recipe):
    """Training rows, and those of them that trials and each of four repeats are measured on."""
    train = read_data(recipe, Reporter()).train
    share, seed = holdout_for(settings_of(recipe), len(train)), recipe.holdout_seed
    orders = [order_for(number, [row.belongs_to for row in train], share, seed) for number in range(5)]
    return train, *(split_validation([train[row] for row in order], share, seed)[1] for order in orders)


def test_every_arm_has_trials_for_the_same_budget_within_one_trials_cost(all_arms):
    accounts = all_arms[0].found.findings.accounts
    assert list(accounts) == ["lora", "reft", "lora+reft", "lora+lora", "joint"]
    before = all_arms[0].found.findings.calibration  # the prefixes that all share
    assert 0 < before < 0.1 * ALL_ARMS
    assert {account.amount for account in accounts.values()} == {(ALL_ARMS - before) / 5}
    repeated = 0
    for account in accounts.values():
        trials = trials_of(account)
        assert trials
        dearest = max(outcome.flops for outcome in account.used.values())
        again = [trial for trial in trials if trial.is_repeat]
        assert len([trial for trial in again if numbers_of(trial) == {1}]) in (0, 2, 3)
        assert all(len([trial for trial in again if numbers_of(trial) == {number}]) in (0, 2) for number in (2, 3, 4))
        repeated += bool(again)
        is_capped = max(trial.steps for trial in trials) >= 20 * 7  # tune.most_epochs, of 28 rows in batches of 4
        assert account.spent <= account.amount + dearest
        assert is_capped or account.spent >= (1 - REPEAT_SHARE) * account.amount - dearest
    assert repeated >= 2


def test_pieces_that_arms_share_run_once_and_are_paid_by_each(all_arms):
    accounts = all_arms[0].found.findings.accounts
    first, second, alone = (
        {key: outcome for key, outcome in accounts[arm].used.items() if not outcome.is_repeat}.keys()
        for arm in ("lora+reft", "lora+lora", "lora")
    )
    rounds = all_arms[0].trials.decisions
    in_two_rounds = sum(len(rounds[f"lora: round {number}"]["numbers"]) for number in (1, 2))
    assert first & second == set(list(alone)[:in_two_rounds])  # from which the coarse stage is taken
    lines = [json.loads(line) for line in (all_arms[0].folder / "trials.jsonl").read_text().splitlines()]
    keys = [line["trial"]["key"] for line in lines if "trial" in line]
    assert len(keys) == len(set(keys))


def test_where_loras_first_round_is_one_trial_two_stages_do_not_pay_for_it_and_are_tried(tmp_path):
    search = searched(tmp_path, "lora, lora+reft", budget=3.1e9)
    alone, two = (search.found.findings.accounts[arm] for arm in ("lora", "lora+reft"))
    assert len(search.trials.decisions["lora: round 1"]["numbers"]) == 1
    assert alone.spent > 0.9 * alone.amount  # so that nothing would be left for a second stage
    assert not alone.used.keys() & two.used.keys()
    assert [result.arm for result in search.found.findings.results if result.best.steps] == ["lora", "lora+reft"]
    coarse = search.found.findings.results[1].best.stages["coarse"]
    assert coarse["learning_rate"] == alone.used[next(iter(alone.used))].stages["coarse"]["learning_rate"]


def numbers_of(outcome):
    """Of the repeat that a trial's stages are of, by their seeds."""
    return {number_of(stage["seed"], 0) for stage in outcome.stages.values()}


def require_rows_apart(recipe, trained):
    """Require that all rows were trained on but those for validation, which in each repeat are others."""
    rows, *held_back = ({row.example.id for row in each} for each in rows_of(recipe))
    assert {0, 1} <= trained.keys()
    for number, own in trained.items():
        assert len(held_back[number]) == 12
        assert own == rows - held_back[number]


def test_validation_rows_are_never_trained_on_and_all_others_are(all_arms):
    search, trained = all_arms
    require_rows_apart(search.recipe, trained)
    assert {len(trial.row_losses) for trial in search.trials.outcomes.values()} == {12}


def test_the_coarse_stage_of_a_repeat_is_trained_again_on_its_rows_and_paid_for(tmp_path, monkeypatch):
    monkeypatch.setattr(repeats, "REPEAT_SHARE", 0.8)  # rounds of a search as small as this leave little
    search, trained = watched(tmp_path, "lora+reft", budget=7e9)
    require_rows_apart(search.recipe, trained)
    account = search.found.findings.accounts["lora+reft"]
    again = [each for each in account.used.values() if each.is_repeat and len(each.stages) == 1]
    assert len(again) >= 2
    assert [numbers_of(each) for each in again] == [{number} for number in range(1, len(again) + 1)]
    repeated = [each for each in trials_of(account) if each.is_repeat]
    counts = [sum(numbers_of(each) == {number} for each in repeated) for number in range(1, len(again) + 1)]
    assert counts == [3, *[2] * (len(again) - 1)]
    coarse = [each.stages["coarse"] for each in again]
    assert all(each.stages["coarse"] in coarse for each in repeated)
    (result,) = search.found.findings.results
    first, best = account.used[result.best.key], result.best.stages["fine"]
    of_best = [first, *(each for each in repeated if each.stages["fine"] | {"seed": None} == best)]
    assert {json.dumps(each.stages["coarse"] | {"seed": None}) for each in of_best} == {
        json.dumps(first.stages["coarse"])
    }
    assert len(of_best) == 1 + len(again)
    assert result.best.row_losses == [loss for each in of_best for loss in each.row_losses]
    assert result.best.seed_losses == [each.loss for each in of_best]
    assert search.found.findings.compared_rows == 12 * len(of_best)
    assert result.loss == result.best.loss


def test_trials_of_both_stages_are_behind_a_fork(all_arms):
    findings = all_arms[0].found.findings
    for arm in ("lora+reft", "lora+lora"):
        forks = [offer.step for offer in findings.offers[arm]]
        assert forks == sorted(set(forks))
        trials = trials_of(findings.accounts[arm])
        alone = [outcome for outcome in findings.accounts[arm].used.values() if len(outcome.stages) == 1]
        assert {trial.stages["coarse"]["steps"] for trial in trials} == set(forks)
        assert all({"coarse": trial.stages["coarse"]} in [each.stages for each in alone] for trial in trials)
        best = min((each for each in alone if not each.is_repeat), key=lambda outcome: outcome.loss)
        assert (forks[-1], findings.offers[arm][-1].loss) == (best.steps, best.loss)
        longest = max(trials, key=lambda trial: trial.steps)
        switch = forks[switch_of(findings.offers[arm])]
        assert longest.stages["coarse"]["steps"] == switch  # halved behind the switch
        assert all(trial.before_flops > 0 and trial.before_seconds > 0 for trial in trials)


def test_what_is_left_is_a_table_a_plot_and_recipes(all_arms):
    search = all_arms[0]
    findings = json.loads((search.folder / "tune.json").read_text())
    assert findings["finished"]
    assert [arm["loss"] for arm in findings["arms"]] == sorted(arm["loss"] for arm in findings["arms"])
    drawing = ElementTree.fromstring((search.folder / "tune.svg").read_text())
    assert len([each for each in drawing.iter() if each.tag.endswith("polyline")]) == 5
    table = (search.folder / "table.md").read_text()
    assert all(f"| {arm['arm']}" in table for arm in findings["arms"])
    best = load_recipe(search.folder / "best.yaml")
    arm = findings["winner"].replace("+", "-")
    assert best.stages == load_recipe(search.folder / "arms" / f"{arm}.yaml").stages
    assert best.tune is None
    assert {stage.holdout for stage in best.stages.values()} == {0.0}
    (winner,) = (each for each in findings["arms"] if each["arm"] == findings["winner"])
    for name, stage in winner["best"]["stages"].items():  # each row as often: of 40 rows 28 were trained on
        assert best.stages[name].steps == round(stage["steps"] * 40 / 28)
    study = load_study(search.folder / "study.yaml")
    assert set(study.recipes) == {each["arm"].replace("+", "-") for each in findings["arms"]}
    assert not (search.folder / "weights").exists()


@pytest.mark.parametrize(
    "arm",
    ["lora", "lora+reft", "joint", *(pytest.param(each, marks=pytest.mark.long) for each in ("reft", "lora+lora"))],
)
def test_an_arms_recipe_trains_to_the_loss_of_its_trial(all_arms, arm, tmp_path):
    search = all_arms[0]
    result = next(each for each in search.found.findings.results if each.arm == arm)
    file = search.folder / "arms" / f"{arm.replace('+', '-')}.yaml"
    (line,) = [line for line in file.read_text().splitlines() if line.startswith("# heft train THIS")]
    overrides = line.split("--set ")[1:]
    run = heft.train(load_recipe(file, [each.strip() for each in overrides], tmp_path / "run"))
    model, tokenizer = heft.load(run.directory)
    base = replace(load_base(search.recipe.model), model=model, tokenizer=tokenizer)
    found = measured_alone(base, search.recipe, rows_of(search.recipe)[1], few=True)
    own_seed = [each for each in search.trials.outcomes.values() if each.key == result.best.key]
    (trial,) = own_seed
    assert result.best.seed_losses[:1] in ([], [trial.loss])
    stages = load_recipe(file).stages
    if len(stages) == 1 and start_behind({}, *stages, [*stages.values()]) is None:
        # elsewhere prefixes are computed beside other rows
        assert (found.loss, found.row_losses) == (trial.loss, trial.row_losses)
    else:
        steps = sum(stage["steps"] for stage in trial.stages.values())
        rate = max(stage["learning_rate"] for stage in trial.stages.values())
        assert found.loss == pytest.approx(trial.loss, rel=of_losses(rate, steps))
    summary = next(each for each in run.stages if each.name == list(trial.stages)[-1])
    assert summary.flops == pytest.approx(trial.training_flops, rel=0.01)  # a part of an epoch has other rows


def same_trials(one, other):
    """Whether two ledgers have the same trials with the same results."""
    found = [
        {key: (trial.loss, trial.row_losses, trial.flops) for key, trial in each.trials.outcomes.items()}
        for each in (one, other)
    ]
    return found[0] == found[1]


def test_two_searches_are_the_same_whatever_the_evaluation_rows(two_arms, tmp_path):
    other_rows = TASK.replace("eval_size: 8", "eval_size: 5")
    again = searched(tmp_path, "lora, lora+reft", task=other_rows)
    assert same_trials(two_arms, again)
    texts = [(each.folder / "best.yaml").read_text() for each in (two_arms, again)]
    assert texts[0] == texts[1].replace("eval_size: 5", "eval_size: 8")


@pytest.mark.parametrize("after", [4])
def test_a_search_that_is_interrupted_leaves_the_best_so_far_and_goes_on_to_the_same(
    two_arms, tmp_path, monkeypatch, after
):
    calls, real = [], Bench.train_on_top

    def interrupted(*args):
        calls.append(args)
        if len(calls) > after:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(Bench, "train_on_top", interrupted)
    first = searched(tmp_path, "lora, lora+reft")
    assert first.found.interrupted
    assert 0 < len(first.trials.outcomes) < len(two_arms.trials.outcomes)
    assert json.loads((first.folder / "tune.json").read_text())["finished"] is False
    assert "best so far" in (first.folder / "table.md").read_text()
    assert load_recipe(first.folder / "best.yaml").stages
    monkeypatch.setattr(Bench, "train_on_top", real)
    again = searched(tmp_path, "lora, lora+reft", resume=True)
    assert not again.found.interrupted
    assert same_trials(two_arms, again)
    assert (again.folder / "best.yaml").read_text() == (two_arms.folder / "best.yaml").read_text()


def test_a_finished_search_that_is_resumed_trains_nothing(tmp_path, monkeypatch):
    first = searched(tmp_path, "reft", budget=4e9)
    monkeypatch.setattr(Bench, "train_on_top", None)
    again = searched(tmp_path, "reft", budget=4e9, resume=True)
    assert again.found.best == first.found.best


def test_a_trial_that_diverges_loses_and_the_rest_goes_on(tmp_path):
    tune_settings = (
        "arms: [lora, reft], holdout: 0.3, rungs: 2, keep: 2, lora: {rank: [2], learning_rate: [1e-2, 1e30]}"
    )
    rest = f"tune: {{{tune_settings}, reft: {{rank: [2], learning_rate: [1e-2, 1e30]}}}}"
    stages = STAGES.replace("batch_size: 4", "batch_size: 4, optimizer: sgd, max_grad_norm: 0")
    recipe = load_recipe(write_recipe(tmp_path, stages, rest, task=TASK), output=tmp_path / "search")
    found = quick_tune(recipe, "16e9flop").findings
    for account in found.accounts.values():
        trials = trials_of(account)
        assert any(trial.diverged for trial in trials)
        assert any(not trial.diverged for trial in trials)
        assert all(trial.trained_seconds + trial.trying_seconds <= trial.seconds for trial in trials)
    assert all(result.best.values["learning_rate"] == 1e-2 for result in found.results)


@pytest.mark.long
def test_an_edit_whose_rotation_is_lost_is_a_trial_that_diverged(tmp_path):
    """Its weights cannot be folded, where `orthogonal_to` asks for it at a stage's end."""
    lists = "lora: {rank: [2], learning_rate: [1e-2]}, reft: {rank: [2], learning_rate: [1e-2, 1e30], positions: [all]}"
    rest = f"tune: {{arms: [lora+reft], holdout: 0.3, rungs: 2, keep: 2, {lists}}}"
    plain = "batch_size: 4, optimizer: sgd, max_grad_norm: 0"
    stages = (
        f"{{coarse: {{method: lora, rank: 2, targets: [o_proj], batch_size: 4}},"
        f" fine: {{method: reft, orthogonal_to: coarse, {plain}}}}}"
    )
    recipe = load_recipe(write_recipe(tmp_path, stages, rest, task=TASK), output=tmp_path / "search")
    (account,) = quick_tune(recipe, "16e9flop").findings.accounts.values()
    assert {trial.values["learning_rate"] for trial in trials_of(account) if trial.diverged} == {1e30}
    assert any(not trial.diverged for trial in trials_of(account))


@pytest.mark.parametrize(
    ("rows", "holdout", "words"),
    [
        (1, "", "tune.holdout 1 of 1 row leaves none"),
        (20, "holdout: 0.99, ", "tune.holdout 0.99 of 20 rows leaves none"),
    ],
)
def test_validation_rows_alone_are_refused_before_anything_is_written(tmp_path, rows, holdout, words):
    task = TASK.replace("train_size: 40", f"train_size: {rows}")
    path = write_recipe(tmp_path, STAGES, f"tune: {{{holdout}arms: [reft]}}", task=task)
    with pytest.raises(HeftError, match=words):
        quick_tune(load_recipe(path, output=tmp_path / "search"), "4e9flop")
    assert not (tmp_path / "search").exists()


def test_the_run_of_the_best_finds_the_searchs_model_gone_and_its_directory_locked(tmp_path, monkeypatch):
    models, found = [], {}

    def loaded(settings):
        base = load_base(settings)
        models.append(weakref.ref(base.model))
        return base

    def trained(recipe, reporter, resume):
        found["models"] = [model() for model in models]
        with (
            pytest.raises(HeftError, match="another process is working on the search"),
            locked(tmp_path / "search", "search"),
        ):
            pass
        return "the run"

    monkeypatch.setattr("heft.tune.run.load_base", loaded)
    monkeypatch.setattr("heft.tune.run.train", trained)
    search = searched(tmp_path, "reft", budget=4e9, runs_best=True)
    assert (search.found.run, found["models"]) == ("the run", [None])
    with locked(tmp_path / "search", "search"):
        pass


def test_batches_of_several_sizes_are_tried_at_equal_cost(tmp_path):
    lists = "reft: {rank: [2], learning_rate: [1e-2], positions: [l2, l3], batch_size: [4, 14]}"
    recipe = load_recipe(
        write_recipe(tmp_path, STAGES, f"tune: {{arms: [reft], holdout: 0.3, rungs: 3, keep: 2, {lists}}}", task=TASK),
        output=tmp_path / "search",
    )
    found = quick_tune(recipe, "10e9flop").findings
    first = list(found.accounts["reft"].used.values())[:4]
    assert {(each.batch_size, each.together) for each in first} == {(4, 2), (14, 2)}
    few, many = (next(each for each in first if each.batch_size == size) for size in (4, 14))
    assert few.steps > 2 * many.steps
    assert few.flops == pytest.approx(many.flops, rel=2 / many.steps)


def trained_to(steps, rate):
    """In place of training: a loss that is lowest at so many steps with this rate."""

    def outcomes(bench, before, name, stages, values, keeps):
        made = []
        for stage, own in zip(stages, values, strict=True):
            loss = 1.0 + abs(math.log(stage.steps / steps)) + 9 * abs(math.log(own["learning_rate"] / rate))
            rows = [loss] * len(bench.validation_rows)
            made.append(bench._outcome(before, name, stage, own, Measured(loss, None, rows)))
        return made

    return outcomes


@pytest.mark.parametrize(("listed", "found"), [("", 9e-3), ("learning_rate: [1e-3, 3e-3], ", 3e-3)])
def test_a_rate_beyond_those_of_the_defaults_is_found_unless_a_list_is_given(listed, found, tmp_path, monkeypatch):
    monkeypatch.setattr(Bench, "train_on_top", trained_to(steps=50, rate=1e-2))
    stages = "{coarse: {method: lora, rank: 2, batch_size: 4, targets: [q_proj], learning_rate: 1e-3}}"
    tune = f"tune: {{arms: [lora, lora+lora], most_epochs: 8, lora: {{{listed}rank: [2], positions: [all]}}}}"
    recipe = load_recipe(write_recipe(tmp_path, stages, tune, task=TASK), output=tmp_path / "out")
    findings = quick_tune(recipe, "2e12flop").findings
    assert findings.winner.best.values["learning_rate"] == found
    coarse = [trial.stages["coarse"] for trial in trials_of(findings.accounts["lora+lora"])]
    assert {stage["learning_rate"] for stage in coarse} == {found}


def test_a_rate_beyond_has_as_many_steps_as_the_best_and_takes_none_from_the_next_round(tmp_path, monkeypatch):
    monkeypatch.setattr(Bench, "train_on_top", trained_to(steps=60, rate=1e-2))
    stages = "{coarse: {method: lora, rank: 2, batch_size: 4, targets: [q_proj], learning_rate: 1e-3}}"
    tune = "tune: {arms: [lora], lora: {rank: [2, 4, 8], positions: [all]}}"
    recipe = load_recipe(write_recipe(tmp_path, stages, tune, task=TASK), output=tmp_path / "out")
    used = list(quick_tune(recipe, "9e10flop").findings.accounts["lora"].used.values())
    rates = [trial.values["learning_rate"] for trial in used]
    assert sorted(rates[:9]) == 3 * [3e-4] + 3 * [1e-3] + 3 * [3e-3]
    assert rates[9:11] == [9e-3, 0.027]  # which is worse, so none beyond it
    assert len({trial.steps for trial in used[:11]}) == 1
    assert rates[11] == 9e-3
    assert used[11].steps > 2 * used[0].steps


def test_a_length_between_is_found_where_the_longest_trials_are_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(Bench, "train_on_top", trained_to(steps=20, rate=1e-2))
    space = "lora: {rank: [2], positions: [all], learning_rate: [3e-2, 1e-2]}"
    tune = f"tune: {{arms: [lora], holdout: 0.3, rungs: 2, keep: 2, {space}}}"
    recipe = load_recipe(write_recipe(tmp_path, STAGES, tune, task=TASK), output=tmp_path / "out")
    findings = quick_tune(recipe, "2e12flop").findings  # pays for as many steps as they may take, 20 epochs
    lengths = [outcome.steps for outcome in findings.accounts["lora"].used.values()]
    assert lengths[:2] == [140, 140]  # all that they may take
    assert 10 < findings.winner.best.steps < 40
    assert findings.winner.best.values["learning_rate"] == 1e-2


def test_where_every_trial_diverges_that_is_said(tmp_path):
    rest = "tune: {arms: [lora], rungs: 1, lora: {rank: [2], learning_rate: [1e30]}}"
    stages = STAGES.replace("batch_size: 4", "batch_size: 4, optimizer: sgd, max_grad_norm: 0")
    recipe = load_recipe(write_recipe(tmp_path, stages, rest, task=TASK), output=tmp_path / "search")
    with pytest.raises(HeftError, match="every trial diverged"):
        quick_tune(recipe, "6e9flop")


def test_a_budget_that_pays_for_no_trial_is_said_and_leaves_nothing(tmp_path):
    with pytest.raises(HeftError, match="the budget is too small: 250 MFLOP for each of 2 arms pay for no trial"):
        searched(tmp_path, "lora, lora+reft", budget=5e8)
    assert not (tmp_path / "search").exists()


def test_a_model_that_cannot_be_counted_is_refused_and_leaves_what_was_there(tmp_path, monkeypatch, fresh_shapes):
    def fail(*args):
        raise Uncountable("it needs its weights")

    path = write_recipe(tmp_path, STAGES, f"tune: {{arms: [reft], {SMALL}}}", task=TASK)
    there = heft.train(load_recipe(path, output=tmp_path / "run")).directory
    monkeypatch.setattr(shapes, "model_costs", fail)
    forget_shapes()
    for output, options in ((tmp_path / "new", {}), (there, {"overwrite": True})):
        with pytest.raises(HeftError, match="counts FLOPs to plan its trials, and cannot here: it needs its weights"):
            quick_tune(load_recipe(path, output=output), "9s", **options)
    assert not (tmp_path / "new").exists()
    assert (there / "adapter" / "heft.json").exists()


def test_a_recipe_for_all_rows_sees_each_as_often_as_its_trial_where_texts_have_many_rows(tmp_path):
    """Ten rows of each text stay together, so that 45 % of 40 rows are ten."""
    rows = [{"passage": f"text {n // 10}", "question": f"is it {n}", "answer": n % 2 == 0} for n in range(40)]
    for split, some in (("train", rows), ("validation", [{**row, "passage": "another"} for row in rows])):
        (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, some)))
    task = f"{{name: boolq, source: {tmp_path.as_posix()}, passage: true}}"
    small = SMALL.replace("holdout: 0.3", "holdout: 0.45")
    path = write_recipe(tmp_path, STAGES, f"tune: {{arms: [reft], {small}}}", task=task)
    found = quick_tune(load_recipe(path, output=tmp_path / "search"), "4e9flop")
    assert found.findings.validation_rows == 10
    (tried,), (best,) = found.findings.winner.best.stages.values(), found.best.stages.values()
    assert best.steps == round(tried["steps"] * 40 / 30)
    assert load_recipe(tmp_path / "search" / "best.yaml").stages == found.best.stages


def test_the_best_is_trained_on_all_rows_and_evaluated(tmp_path):
    path = write_recipe(tmp_path, STAGES, f"tune: {{arms: [reft], {SMALL}}}", task=TASK)
    found = quick_tune(load_recipe(path, output=tmp_path / "search"), "4e9flop", runs_best=True)
    assert [stage.name for stage in found.run.stages] == ["base", "fine"]
    manifest = json.loads((tmp_path / "search" / "run" / "manifest.json").read_text())
    assert manifest["data"]["train"]["rows"] == 40
    ran = load_recipe(tmp_path / "search" / "run" / "recipe.yaml")
    assert ran.stages == load_recipe(tmp_path / "search" / "best.yaml").stages
    with pytest.raises(HeftError, match="holds a search of heft tune: go on with --resume"):
        quick_tune(load_recipe(path, output=tmp_path / "search"), "4e9flop")
    with pytest.raises(HeftError, match="begun .*budget of 4e9flop, not 5e9flop|with a budget of 4e9flop, not 5e9flop"):
        quick_tune(load_recipe(path, output=tmp_path / "search"), "5e9flop", resume=True)
    with pytest.raises(HeftError, match="heft tune resumes"):
        heft.train(load_recipe(path, output=tmp_path / "search"), resume=True)
    again = quick_tune(load_recipe(path, output=tmp_path / "search"), "5e9flop", overwrite=True)
    assert again.run is None


def test_a_time_budget_is_spent_as_trials_take_time(tmp_path, monkeypatch):
    real = Bench.train_on_top

    def on_a_steady_machine(*args):  # 1 s for each 10⁹ FLOPs, and 0.1 s around each trial
        return [replace(each, seconds=each.flops / 1e9 + 0.1, trained_seconds=each.flops / 1e9) for each in real(*args)]

    monkeypatch.setattr(Bench, "train_on_top", on_a_steady_machine)
    path = write_recipe(tmp_path, STAGES, f"tune: {{arms: [lora, reft], {SMALL}}}", task=TASK)
    recipe = load_recipe(path, output=tmp_path / "search")
    found = quick_tune(recipe, "9s").findings
    assert found.unit == "seconds"
    assert 0 < found.calibration < 6
    for account in found.accounts.values():
        assert account.amount == pytest.approx((9 - found.calibration) / 2)
        dearest = max(outcome.seconds for outcome in account.used.values())
        assert (1 - REPEAT_SHARE) * account.amount - dearest <= account.spent <= account.amount + 0.5
    # what was decided in seconds is not decided anew
    monkeypatch.setattr(Bench, "train_on_top", None)
    assert quick_tune(recipe, "9s", resume=True).best == quick_tune(recipe, "9s", resume=True).best


def test_epochs_are_the_flops_of_plain_lora_on_all_rows(tmp_path):
    path = write_recipe(tmp_path, STAGES, f"tune: {{arms: [reft], {SMALL}}}", task=TASK)
    found = quick_tune(load_recipe(path, output=tmp_path / "search"), "0.5epochs").findings
    alone = load_recipe(
        write_recipe(
            tmp_path,
            "{coarse: {method: lora, rank: 2, batch_size: 4, targets: [q_proj, v_proj], epochs: 1}}",
            file="alone.yaml",
            task=TASK,
        ),
        output=tmp_path / "alone",
    )
    (account,) = found.accounts.values()
    assert account.amount == pytest.approx(0.5 * heft.train(alone).stages[-1].plain_flops)


@pytest.mark.parametrize(("rows", "count"), [(1000, 200), (300, 100), (100, 50), (60, 30), (20, 10), (9000, 1000)])
def test_validation_rows_are_a_fifth_but_enough_and_not_too_many(rows, count):
    from heft.recipe.training import validation_rows_of
    from heft.recipe.tune import TuneSettings

    assert validation_rows_of(holdout_for(TuneSettings(), rows), rows) == count
    assert holdout_for(TuneSettings(holdout=0.4), rows) == 0.4
