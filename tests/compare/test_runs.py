"""Run directories read back; those of another format, or not whole, are refused in words."""

import json
import re
import subprocess
import sys

import pytest

from compare.making import make_run, records
from heft.compare.arms import arms_of, read_study, stage_arms
from heft.compare.runs import read_metrics, read_run
from heft.errors import HeftError

RIGHT = records([1, 1, 0, 0])


def test_a_run_is_read_back(tmp_path):
    run = read_run(make_run(tmp_path / "r", {"base": RIGHT, "fine": records([1, 1, 1, 0])}, seed=3))
    assert (run.name, run.seed, [e.stage for e in run.evaluations]) == ("t", 3, ["base", "fine"])
    assert run.final.records[2].correct
    assert run.after("base").summary.accuracy == 0.5
    assert run.missing == []


def test_what_heft_train_writes_is_read(recipe_file, tmp_path):
    import heft
    from heft.recipe.files import load_recipe

    recipe = recipe_file("{fine: {method: reft, rank: 2, positions: l2, steps: 1, batch_size: 4}}")
    done = heft.train(load_recipe(recipe, output=str(tmp_path / "run")))
    run = read_run(done.directory)
    assert [e.summary.name for e in run.evaluations] == ["base", "fine"]
    assert len({record.prompt for record in run.final.records}) > 1
    assert all(len(record.prompt) == 8 for record in run.final.records)
    assert [r.prompt for r in run.final.records] == [r.prompt for r in run.after("base").records]
    assert read_metrics(done.directory)[0]["stage"] == "fine"


@pytest.mark.parametrize("manifest", [{"format": None}, {"format": 2}])
def test_another_format_is_refused(tmp_path, manifest):
    with pytest.raises(HeftError, match=r"made by another version of heft .* this one reads 1\); run it again"):
        read_run(make_run(tmp_path / "r", {"base": RIGHT}, manifest=manifest))


def test_what_is_missing_or_broken_is_named(tmp_path):
    with pytest.raises(HeftError, match="is not a run directory"):
        read_run(tmp_path)
    with pytest.raises(HeftError, match="is a sweep"):
        read_run(make_run(tmp_path / "sweep", {"base": RIGHT}, recipe={"sweep": {"fine": {}}}))
    with pytest.raises(HeftError, match="holds 4 records, summary.json counts 5"):
        read_run(make_run(tmp_path / "short", {"base": RIGHT}, summary={"n": 5}))
    empty = make_run(tmp_path / "empty", {"base": RIGHT})
    (empty / "records" / "base.jsonl").write_text("")
    with pytest.raises(HeftError, match="holds no records"):
        read_run(empty)
    begun = make_run(tmp_path / "begun", {"base": RIGHT})
    (begun / "summary.json").unlink()
    with pytest.raises(HeftError, match="holds no evaluation yet"):
        read_run(begun)
    search = make_run(tmp_path / "search", {"base": RIGHT}, manifest={"tune": {"budget": "30m"}})
    make_run(search / "run", {"base": RIGHT})
    with pytest.raises(HeftError, match=f"a search of heft tune, .*: give {re.escape(str(search / 'run'))}"):
        read_run(search)
    for name in ("summary.json", "manifest.json", "recipe.yaml"):
        broken = make_run(tmp_path / f"broken-{name}", {"base": RIGHT})
        (broken / name).write_text("[")
        with pytest.raises(HeftError, match="cannot be read"):
            read_run(broken)
    for content in ('{"stages": [{}]}', '{"stages": []}', '{"stages": 3}', '{"stages": ["x"]}'):
        (empty / "summary.json").write_text(content)
        with pytest.raises(HeftError, match="was changed by hand|must hold the base"):
            read_run(empty)


def test_metrics_leave_out_a_line_that_was_cut_off(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"st')
    assert read_metrics(tmp_path) == [{"step": 1}]
    (tmp_path / "metrics.jsonl").write_text("no\n{}\n")
    with pytest.raises(HeftError, match=r"metrics\.jsonl:1: not JSON"):
        read_metrics(tmp_path)


def test_runs_that_differ_in_seed_name_and_output_only_are_one_arm(tmp_path):
    stages = {"base": RIGHT, "fine": RIGHT}
    runs = [read_run(make_run(tmp_path / f"r{seed}", stages, seed, {"name": f"n{seed}"})) for seed in (0, 1)]
    other = read_run(make_run(tmp_path / "other", stages, 0, {"name": "n0", "model": {"name": "x"}}))
    arms = arms_of([*runs, other])
    assert [[run.seed for run in arm.runs] for arm in arms] == [[0, 1], [0]]
    assert [arm.name for arm in arms] == ["r0", "other"]  # both recipes are called n0
    assert [arm.name for arm in arms_of([*runs, runs[0]], [None, None, "base"])] == ["n0", "n0:base"]
    assert [arm.name for arm in stage_arms(runs[0])] == ["base", "fine"]


def test_runs_of_an_earlier_version_and_of_other_checkpoints_are_one_arm(tmp_path):
    whole = {"model": {"name": "random:tiny-llama"}, "task": {"name": "whereabouts"}, "evaluation": {}}
    whole["stages"] = {"fine": {"method": "lora", "steps": 1}}
    stages = {"base": RIGHT, "fine": RIGHT}
    later = [{}, {"allow": []}, {"checkpoint": {"every_steps": 3}}, {"allow": [], "checkpoint": {"every_minutes": 1}}]
    runs = [read_run(make_run(tmp_path / f"r{i}", stages, i, whole | each)) for i, each in enumerate(later)]
    assert len(arms_of(runs)) == 1
    allowed = read_run(make_run(tmp_path / "allowed", stages, 9, whole | {"allow": ["long answers"]}))
    assert len(arms_of([*runs, allowed])) == 2


def test_runs_that_computed_in_unlike_dtypes_are_arms_of_their_own(tmp_path):
    bases = [{"name": "m", "fingerprint": "f", "dtype": dtype} for dtype in ("float32", "bfloat16", "float32")]
    runs = [
        make_run(tmp_path / str(seed), {"base": RIGHT, "fine": RIGHT}, seed, manifest={"base": base})
        for seed, base in enumerate(bases)
    ]
    assert [[run.seed for run in arm.runs] for arm in arms_of([read_run(path) for path in runs])] == [[0, 2], [1]]


def test_runs_that_were_trained_on_other_rows_are_arms_of_their_own(tmp_path):
    """Rows from Python, and those of a file that has changed, are in no recipe."""
    stages = {"base": records([1, 0]), "fine": records([1, 1])}

    def made(name, seed, rows):
        data = {"train": {"rows": rows, "fingerprint": f"{rows:016}"}, "eval": {"rows": 2, "fingerprint": "e"}}
        return read_run(make_run(tmp_path / name, stages, seed, manifest={"data": data}))

    runs = [made("few", 0, 12), made("many", 0, 30), made("many-1", 1, 30)]
    assert [[run.path.name for run in arm.runs] for arm in arms_of(runs)] == [["few"], ["many", "many-1"]]
    (base,) = arms_of([runs[0], runs[2]], ["base", "base"])  # which is trained on none
    assert len(base.runs) == 2


@pytest.mark.parametrize(
    "unlike",
    [
        [{"base": {"name": "m", "fingerprint": fingerprint}} for fingerprint in ("f", "g")],
        [{"sources": {"fine": {"from": "DIR", "sha256": sha256}}} for sha256 in ("s", "t")],
    ],
    ids=["base", "adapter"],
)
def test_runs_on_another_base_or_adapter_of_the_same_name_are_arms_of_their_own(tmp_path, unlike):
    stages = {"base": RIGHT, "fine": RIGHT}
    runs = [read_run(make_run(tmp_path / str(i), stages, i, manifest=unlike[i % 2])) for i in range(3)]
    assert [[run.seed for run in arm.runs] for arm in arms_of(runs)] == [[0, 2], [1]]


def test_a_run_given_twice_an_unfinished_one_and_an_unknown_stage_are_refused(tmp_path):
    run = read_run(make_run(tmp_path / "r", {"base": RIGHT, "fine": RIGHT}))
    with pytest.raises(HeftError, match="one recipe with one seed, 0"):
        arms_of([run, run])
    with pytest.raises(HeftError, match="has no stage 'fin'; it has base, fine"):
        arms_of([run], ["fin"])
    begun = read_run(make_run(tmp_path / "begun", {"base": RIGHT}))
    with pytest.raises(HeftError, match="unfinished: fine is missing; name a stage that it has with .*begun:base"):
        arms_of([begun])
    assert arms_of([begun], ["base"])[0].stage == "base"


def test_a_study_gives_its_arms_with_finished_runs(tmp_path):
    for seed in (0, 1):
        make_run(tmp_path / "heft" / f"seed-{seed}", {"base": RIGHT, "fine": RIGHT}, seed)
    arms = [
        {"name": "heft", "runs": ["heft/seed-0", "heft/seed-1"], "failed": []},
        {"name": "base", "stage": "base", "runs": ["heft/seed-0"]},
        {"name": "lora", "runs": [], "failed": [{"seed": 0, "error": "x"}]},
    ]
    study = {"format": 1, "name": "s", "reference": "heft", "arms": arms}
    (tmp_path / "study.json").write_text(json.dumps(study))
    found, read = read_study(tmp_path)
    assert [(arm.name, arm.stage, len(arm.runs)) for arm in found] == [("heft", "fine", 2), ("base", "base", 1)]
    assert read == study
    (tmp_path / "study.json").write_text(json.dumps(study | {"format": 9}))
    with pytest.raises(HeftError, match="another version"):
        read_study(tmp_path)
    (tmp_path / "study.json").write_text(json.dumps(study | {"arms": arms[2:]}))
    with pytest.raises(HeftError, match="no finished run yet"):
        read_study(tmp_path)


def test_comparing_needs_no_torch():
    code = "import sys, heft.compare.table, heft.cli.compare; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", ["../../other", "/etc/x", "x" * 5000, "a\x00b", "", "a b"])
def test_a_stage_whose_name_is_no_file_name_is_refused(tmp_path, name):
    run = make_run(tmp_path / "r", {"base": RIGHT})
    summary = json.loads((run / "summary.json").read_text())
    summary["stages"][0]["name"] = name
    (run / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(HeftError, match="a stage's name is at most 100 letters, digits and _"):
        read_run(run)


@pytest.mark.parametrize("run", ["x" * 5000, "a\x00b", "none"])
def test_a_study_whose_run_cannot_be_a_path_is_refused(tmp_path, run):
    study = {"format": 1, "name": "s", "arms": [{"name": "a", "runs": [run]}]}
    (tmp_path / "study.json").write_text(json.dumps(study))
    with pytest.raises(HeftError, match="does not exist; give the directory of a run or of a study"):
        read_study(tmp_path)


@pytest.mark.parametrize(
    "change",
    [{"accuracy": 0.25}, {"balanced_accuracy": 0.1}, {"majority": None}, {"predictions": {"0": 0.0, "1": 1.0}}],
)
def test_figures_that_are_not_those_of_the_records_are_refused(tmp_path, change):
    run = make_run(tmp_path / "r", {"base": RIGHT}, summary=change)
    with pytest.raises(HeftError, match=rf"base\.jsonl and summary\.json do not agree on {next(iter(change))}: "):
        read_run(run)


def test_a_summary_begins_with_the_base_and_has_each_stage_once(tmp_path):
    for stages in ({"fine": RIGHT}, {"fine": RIGHT, "base": RIGHT}):
        with pytest.raises(HeftError, match="must hold the base, then stages, each once; got fine"):
            read_run(make_run(tmp_path / str(len(stages)), stages))
    run = make_run(tmp_path / "r", {"base": RIGHT, "fine": RIGHT})
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({"stages": [*summary["stages"], summary["stages"][1]]}))
    with pytest.raises(HeftError, match="each once; got base, fine, fine"):
        read_run(run)
    del summary["stages"][1]["majority"]
    (run / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(HeftError, match=r"stages\[1\]\.majority: missing; expected a number"):
        read_run(run)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"seconds": "10"}, "stages[0].seconds"),
        ({"flops": -1}, "stages[0].flops"),
        ({"accuracy": 1.5}, "stages[0].accuracy"),
        ({"predictions": {"0": "x"}}, "stages[0].predictions.0"),
        ({"n": True}, "stages[0].n"),
    ],
)
def test_a_figure_of_another_kind_is_named(tmp_path, change, told):
    with pytest.raises(HeftError, match=f"was changed by hand or .*: {re.escape(told)}"):
        read_run(make_run(tmp_path / "r", {"base": RIGHT}, summary=change))


def test_a_recipe_that_would_grow_when_it_is_read_is_refused(tmp_path):
    run = make_run(tmp_path / "r", {"base": RIGHT})
    (run / "recipe.yaml").write_text("name: &a [x]\nseed: 0\nstages: [*a, *a]\n")
    with pytest.raises(HeftError, match="anchors"):
        read_run(run)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"stages": {"fine": {"method": ["lora"]}}}, "stages.fine.method"),
        ({"stages": {"fine": {"method": "lora", "steps": [1]}}}, "stages.fine.steps"),
        ({"stages": {"fine": {"method": "lora", "epochs": "3"}}}, "stages.fine.epochs"),
        ({"evaluation": {"normalize": {}}}, "evaluation.normalize"),
    ],
)
def test_a_setting_of_another_kind_is_named(tmp_path, change, told):
    with pytest.raises(HeftError, match=f"was changed by hand or .*: {re.escape(told)}"):
        read_run(make_run(tmp_path / "r", {"base": RIGHT}, recipe=change))
