"""What a person names on the command line, read from directories made by hand."""

import json

import pytest

from compare.making import make_run, records
from heft.compare.inputs import failures, read_inputs
from heft.errors import HeftError

STAGES = {"base": records([0, 0, 1]), "coarse": records([1, 0, 1]), "fine": records([1, 1, 1])}


def named(name):
    return {"name": name, "stages": {"coarse": {"rank": len(name)}, "fine": {"rank": 4}}}


@pytest.fixture
def study(tmp_path):
    """Writes a study of two arms of one run each; `failed` are of its second arm, which may have no run."""

    def write(name, reference=None, failed=(), finished=True):
        folder = tmp_path / name
        for arm in ("lora", "heft"):
            make_run(folder / arm / "seed-0", STAGES, recipe=named(arm))
        arms = [{"name": "lora", "runs": ["lora/seed-0"]}]
        arms.append({"name": "heft", "runs": ["heft/seed-0"] * finished, "failed": list(failed)})
        arms[0]["label"] = "LoRA only"
        about = {"format": 1, "name": name, "reference": reference, "arms": arms}
        (folder / "study.json").write_text(json.dumps(about))
        return folder

    return write


def test_runs_stages_of_runs_and_studies_are_read_beside_each_other(study, tmp_path):
    run = make_run(tmp_path / "alone", STAGES, recipe=named("alone"))
    found = read_inputs([study("s", reference="heft"), f"{run}:coarse", str(run)])
    assert [(arm.name, arm.stage) for arm in found.arms] == [
        ("lora", "fine"), ("heft", "fine"), ("alone:coarse", "coarse"), ("alone", "fine")
    ]  # fmt: skip
    assert (found.names, found.reference, found.pairs) == (["s", "alone:coarse", "alone"], "heft", None)


def test_one_run_alone_is_read_stage_by_stage_and_one_stage_alone_is_one_arm(tmp_path):
    run = make_run(tmp_path / "alone", STAGES, recipe=named("alone"))
    found = read_inputs([run])
    assert [arm.name for arm in found.arms] == ["base", "coarse", "fine"]
    assert found.pairs == [("coarse", "base"), ("fine", "coarse"), ("fine", "base")]
    found = read_inputs([f"{run}:coarse"])
    assert [(arm.name, arm.stage) for arm in found.arms] == [("alone:coarse", "coarse")]
    assert found.pairs is None


def test_arms_of_two_studies_that_have_one_name_are_told_apart(study):
    found = read_inputs([study("s"), study("t")])
    assert [arm.name for arm in found.arms] == ["s/lora", "s/heft", "t/lora", "t/heft"]
    assert found.reference is None
    assert found.labels == {"s/lora": "LoRA only", "t/lora": "LoRA only"}


def test_the_reference_of_a_study_keeps_its_place_when_its_arms_are_called_otherwise(study, tmp_path):
    run = make_run(tmp_path / "heft", STAGES, recipe=named("heft") | {"seed": 1})
    assert read_inputs([study("s", reference="heft"), run]).reference == "s/heft"


def test_a_reference_without_a_finished_run_is_said(study):
    found = read_inputs([study("s", reference="heft", finished=False)])
    assert found.reference is None
    assert found.notes == ["The study’s reference, heft, has no finished run."]


def test_failed_runs_are_listed_by_the_first_line_of_their_error(study):
    failed = [{"seed": seed, "error": "no room\n  at line 7"} for seed in (1, 2)] + [{"seed": 3, "error": "  \n"}]
    found = read_inputs([study("s", failed=failed)])
    assert found.notes == [
        "heft, seeds 1, 2, failed and are not counted: no room",
        "heft, seed 3, failed and is not counted: no reason was given",
    ]
    assert failures({"arms": [{"name": "a"}]}) == []


def test_a_stage_that_a_run_does_not_have_and_a_place_that_is_no_run_are_said(tmp_path, study):
    run = make_run(tmp_path / "alone", STAGES, recipe=named("alone"))
    with pytest.raises(HeftError, match="has no stage 'fin'; it has base, coarse, fine"):
        read_inputs([f"{run}:fin"])
    with pytest.raises(HeftError, match="nowhere does not exist"):
        read_inputs([tmp_path / "nowhere", run])
    with pytest.raises(HeftError, match="s is not a run directory"):
        read_inputs([f"{study('s')}:heft", run])


def test_a_run_of_a_study_is_not_counted_twice(study, tmp_path):
    path = study("s")
    with pytest.raises(HeftError, match=r"lora/seed-0 is given twice \(once as one of lora\); no run can be"):
        read_inputs([path, path / "lora" / "seed-0"])
    with pytest.raises(HeftError, match="lora/seed-0 is given twice"):
        read_inputs([path, path])
    assert len(read_inputs([path, f"{path / 'lora' / 'seed-0'}:coarse"]).arms) == 3
    about = json.loads((path / "study.json").read_text())
    about["arms"][0]["runs"] *= 2
    (path / "study.json").write_text(json.dumps(about))
    with pytest.raises(HeftError, match="lora/seed-0 is given twice"):
        read_inputs([path])


def test_studies_of_one_name_are_told_apart_by_their_directories(study, tmp_path):
    paths = [study("one"), study("two")]
    for path in paths:
        about = json.loads((path / "study.json").read_text())
        (path / "study.json").write_text(json.dumps(about | {"name": "s"}))
    assert [arm.name for arm in read_inputs(paths).arms] == ["one/lora", "one/heft", "two/lora", "two/heft"]


def test_what_is_not_finished_is_said(study, tmp_path):
    path = study("s", failed=[{"seed": 1, "error": "no room"}], finished=False)
    about = json.loads((path / "study.json").read_text())
    (path / "study.json").write_text(json.dumps(about | {"seeds": [0, 1, 2]}))
    assert read_inputs([path]).notes == [
        "heft, seed 1, failed and is not counted: no room",
        "lora, seeds 1, 2: not finished yet and not counted.",
        "heft, seeds 0, 2: not finished yet and not counted.",
    ]
    run = make_run(tmp_path / "begun", {"base": STAGES["base"], "coarse": STAGES["coarse"]}, recipe=named("begun"))
    assert read_inputs([run]).notes == [f"{run} is unfinished: fine is missing."]


def test_runs_on_different_rows_that_their_recipes_call_the_same_are_said(tmp_path):
    stages = {"base": records([1, 0]), "fine": records([1, 1])}

    def made(name, rows, **recipe):
        manifest = {"data": {"train": {"rows": rows, "fingerprint": f"{rows}"}}}
        return make_run(tmp_path / name, stages, recipe={"name": name, **recipe}, manifest=manifest)

    rank = {"stages": {"fine": {"method": "lora", "rank": 8}}}
    one, alike, changed = made("one", 12), made("alike", 12, **rank), made("changed", 30, **rank)
    other = made("other", 30, task={"name": "boolq", "train_limit": 30})
    assert read_inputs([one, alike]).notes == read_inputs([one, other]).notes == read_inputs([changed]).notes == []
    (note,) = read_inputs([one, changed]).notes
    assert note.startswith(f"{one}, {changed} were trained on different rows, though their recipes name the same")
    assert read_inputs([f"{one}:base", f"{changed}:fine"]).notes == []
