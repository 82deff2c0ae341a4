"""`heft compare` as a person calls it."""

import json

import pytest

from compare.making import make_run, records
from heft.cli.compare import compare
from heft.errors import HeftError

STAGES = {"base": records([0, 0, 1] * 20), "coarse": records([1, 0, 1] * 20), "fine": records([1, 1, 1] * 20)}


@pytest.fixture
def run(tmp_path):
    return str(make_run(tmp_path / "one", STAGES))


def test_one_run_shows_what_each_stage_bought_with_no_figure_cut_off(run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    compare([run], None, as_json=False)
    shown = capsys.readouterr().out
    assert "coarse is better than base" in shown
    assert "fine is better than coarse" in shown
    assert "1 kB" in shown
    assert "…" not in shown


def test_stages_of_runs_and_a_reference_are_named(run, capsys):
    compare([f"{run}:base", f"{run}:fine", f"{run}:coarse"], "t:base", as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert [arm["name"] for arm in found["arms"]] == ["t:base", "t", "t:coarse"]
    assert [(pair["first"], pair["second"]) for pair in found["pairs"]] == [("t", "t:base"), ("t:coarse", "t:base")]


def test_a_study_directory_is_compared_with_its_reference(tmp_path, capsys):
    for name, rank in (("a", 1), ("b", 2)):
        make_run(tmp_path / name, STAGES, recipe={"stages": {"coarse": {"rank": rank}, "fine": {"rank": rank}}})
    arms = [{"name": name, "runs": [name]} for name in ("a", "b")]
    (tmp_path / "study.json").write_text(json.dumps({"format": 1, "name": "s", "reference": "a", "arms": arms}))
    compare([str(tmp_path)], None, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert (found["reference"], found["pairs"][0]["first"], found["pairs"][0]["verdict"]) == ("a", "b", "undecidable")


def test_a_study_file_is_run_with_what_is_given_beside_it(monkeypatch, tmp_path):
    import heft.cli.study

    called = []
    monkeypatch.setattr(heft.cli.study, "run_study", lambda path, reporter, *rest: called.append((path, *rest)))
    compare(["s.yaml"], None, False, ["seeds=[0]"], tmp_path, True)
    assert [(str(path), *rest) for path, *rest in called] == [("s.yaml", ["seeds=[0]"], tmp_path, True, None)]


def test_a_study_on_ray_gets_its_options(monkeypatch):
    import heft.cli.study
    from heft.cluster.connection import RayOptions

    called = []
    monkeypatch.setattr(heft.cli.study, "run_study", lambda *given: called.append(given[-1]))
    compare(["s.yaml"], None, False, ray="10.0.0.1:6379", gpus_per_run=0.5, cpus_per_run=4, runs_at_once=3)
    compare(["s.yaml"], None, False, ray="local")
    assert called == [RayOptions("10.0.0.1:6379", 0.5, 4, 3), RayOptions("local", None, 1, None)]


def test_what_does_not_go_together_is_said(run):
    with pytest.raises(HeftError, match="one study file, or run directories"):
        compare(["s.yaml", run], None, False)
    with pytest.raises(HeftError, match="give it alone"):
        compare(["s.yaml"], "a", False)
    with pytest.raises(HeftError, match="are for a study file"):
        compare([run], None, False, dry_run=True)
    with pytest.raises(HeftError, match="--ray are for a study file"):
        compare([run], None, False, ray="local")
    with pytest.raises(HeftError, match="--gpus-per-run and --runs-at-once: these are for runs on Ray; give --ray"):
        compare(["s.yaml"], None, False, gpus_per_run=1.0, runs_at_once=2)
    with pytest.raises(HeftError, match="no stage 'x'"):
        compare([f"{run}:x"], None, False)
