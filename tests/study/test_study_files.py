"""Studies as files: the faults of a study and of its arms' recipes at the lines that hold them."""

import sys
from pathlib import Path
from textwrap import dedent

import pytest

from heft.errors import HeftError
from heft.recipe.files import load_recipe
from heft.study.files import dump_study, load_study
from heft.study.settings import ArmSettings, Budget, StudySettings
from heft.tasks import task_for
from tiny_recipe import write_recipe


@pytest.fixture
def faults(study_file, tmp_path):
    def lines(text, *overrides):
        with pytest.raises(HeftError) as caught:
            load_study(study_file(text), overrides)
        return str(caught.value).replace(f"{tmp_path}/", "").split("\n")

    return lines


def test_settings_of_the_study_come_before_an_arms_own(study_file):
    study = load_study(
        study_file(
            dedent("""\
            set: {task.train_size: 16, stages.coarse.rank: 3}
            seeds: [4, 5]
            arms:
              long: {recipe: lora.yaml, set: {stages.coarse.epochs: 9}}
              wide: {recipe: heft.yaml, set: {stages.coarse.rank: 5, stages.fine: {method: reft, steps: 2}}}
            """)
        )
    )
    long, wide = study.recipes["long"], study.recipes["wide"]
    assert (long.stages["coarse"].epochs, long.stages["coarse"].rank, long.task.train_size) == (9, 3, 16)
    assert (wide.stages["coarse"].rank, wide.stages["fine"].steps, wide.task.train_size) == (5, 2, 16)
    run = study.run_of("wide", wide, 5)
    assert (run.name, run.seed, run.output_dir) == ("s-wide", 5, study.directory / "wide" / "seed-5")


def test_an_arm_may_be_a_recipe_that_comes_with_heft_unless_a_file_beside_the_study_has_its_name(study_file):
    text = "arms: {ready: {recipe: quickstart}, own: {recipe: lora.yaml}}\n"
    study = load_study(study_file(text))
    assert study.recipes["ready"].stages == load_recipe("quickstart").stages
    study.directory.mkdir(parents=True)
    (study.directory / "study.yaml").write_text(dump_study(study))
    assert load_study(study.directory / "study.yaml").recipes == study.recipes
    (study.path.parent / "quickstart").write_text((study.path.parent / "lora.yaml").read_text())
    again = load_study(study.path)
    assert again.recipes["ready"].stages == again.recipes["own"].stages


def test_all_faults_are_reported_at_once_at_their_lines(faults):
    text = dedent("""\
        seeds: [0, 0]
        arms:
          one:
            recipe: lora.yaml
            set:
              stages.coarse.rnk: 4
              stages.coarse.epochs: few
          two: {recipe: absent.yaml}
          three: {recipe: heft.yaml, lable: x, budget: {steps: 3, flops: 1e9}}
          four: {recipe: lora.yaml, budget: {flops_of: fuor}, set: {stages.coarse.seed: 3}}
        refrence: one
        """)
    assert faults(text) == [
        "study.yaml:3: seeds: seeds must not repeat an entry; got [0, 0]",
        "study.yaml:8: arms.one.set: stages.coarse.rnk: unknown key; did you mean 'rank'?",
        "study.yaml:9: arms.one.set: stages.coarse.epochs: expected a number above 0 or auto, or null; got 'few'",
        "study.yaml:10: arms.two.recipe: absent.yaml: no such file; expected a recipe, such as quickstart"
        " (`heft recipes` has all)",
        "study.yaml:11: arms.three.budget: a budget is exactly one of steps, flops, spent_flops, seconds,"
        " steps_of, flops_of, spent_flops_of, seconds_of; steps and flops are given",
        "study.yaml:11: arms.three.lable: unknown key; did you mean 'label'?",
        "study.yaml:12: arms.four.set: stages.coarse.seed: would be the same in all runs of a study, which have seeds"
        " to differ in; set it to null",
        "study.yaml:13: refrence: unknown key; did you mean 'reference'?",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("arms: {a: {recipe: lora.yaml}}\nreference: b\n", "study.yaml:4: reference: no arm 'b'; known here: a"),
        ("arms: {base: {recipe: lora.yaml}}\n", "study.yaml:3: arms.base: an arm's name is"),
        ("arms: {a: {recipe: lora.yaml, budget: {flops_of: b}}}\n", "study.yaml:3: arms.a.budget.flops_of: no arm 'b'"),
        ("arms: {a: {recipe: lora.yaml, budget: {steps_of: a}}}\n", "arms.a.budget.steps_of: names its own arm"),
        ("budget: {steps_of: c}\narms: {a: {recipe: lora.yaml}}\n", "study.yaml:3: budget: no arm 'c'"),
        (
            "arms:\n  a: {recipe: lora.yaml, budget: {steps_of: b}}\n  b: {recipe: lora.yaml, budget: {steps_of: a}}\n",
            "study.yaml:4: arms.a.budget.steps_of: arm 'b' has the budget of another arm itself",
        ),
        ("arms: {a: {recipe: lora.yaml, set: {seed.x: 1}}}\n", "arms.a.set: seed: expected a whole number"),
        ("arms: {a: {recipe: lora.yaml, set: {a..b: 1}}}\n", "study.yaml:3: arms.a.set: expected a key such as"),
        (
            "arms: {a: {recipe: lora.yaml, budget: {steps: 9}, set: {stages.coarse.holdout: 0.2,"
            " stages.coarse.epochs: 9, stages.coarse.early_stopping: true}}}\n",
            "arms.a.set: stages.coarse.early_stopping: its cost is not known in advance",
        ),
        ("arms: {a: {recipe: lora.yaml, set: {sweep: {grid: {rank: [1]}}}}}\n", "arms.a.set: sweep"),
        (
            "base: true\narms: {a: {recipe: lora.yaml}, b: {recipe: lora.yaml, set: {model.dtype: bfloat16}}}\n",
            "study.yaml:3: base: needs arms of one model; b and a have not the same",
        ),
        ("", "study.yaml:1: arms: missing; expected a mapping of at least one entry"),
    ],
)
def test_what_a_study_cannot_be_is_refused(faults, text, fault):
    assert any(fault in line for line in faults(text))


def test_a_fault_of_a_recipe_is_told_at_its_line_once(faults, tmp_path, study_file):
    path = study_file("arms: {a: {recipe: bad.yaml}, b: {recipe: bad.yaml}}\n")
    (tmp_path / "bad.yaml").write_text("name: bad\ntask: {name: whereabouts}\nstages: {a: {method: lroa}}\n")
    with pytest.raises(HeftError) as caught:
        load_study(path)
    assert str(caught.value).replace(f"{tmp_path}/", "") == (
        "bad.yaml:3: stages.a.method: unknown method 'lroa'; did you mean 'lora'?"
    )


def test_a_recipe_and_a_study_are_told_apart_with_the_command_that_runs_each(study_file, faults):
    study = study_file("arms: {a: {recipe: lora.yaml}, itself: {recipe: study.yaml}}\n")
    with pytest.raises(HeftError, match=f"{study} is a study, and a recipe was expected; `heft compare {study}` runs"):
        load_recipe(study)
    with pytest.raises(HeftError, match="lora.yaml is a recipe, and a study was expected.*; `heft train .*lora.yaml`"):
        load_study(study.parent / "lora.yaml")
    told = faults("arms: {a: {recipe: lora.yaml}, itself: {recipe: study.yaml}}\n")
    assert [line.partition("; ")[0] for line in told] == [
        "study.yaml:3: arms.itself.recipe: study.yaml is a study, and a recipe was expected"
    ]


def test_the_written_study_is_read_back_equal(study_file):
    study = load_study(study_file("seeds: [1, 2]\narms: {a: {recipe: lora.yaml, budget: {flops: 1e9}}}\nbase: true\n"))
    study.directory.mkdir()
    (study.directory / "study.yaml").write_text(dump_study(study))
    again = load_study(study.directory / "study.yaml")
    assert again.recipes == study.recipes
    assert again.settings.seeds == [1, 2]
    assert again.settings.arms["a"].budget == study.settings.arms["a"].budget


def test_the_written_study_is_read_back_through_a_link(study_file, tmp_path):
    path = study_file("arms: {a: {recipe: lora.yaml}}\n")
    (tmp_path / "scratch" / "of" / "mine").mkdir(parents=True)
    (tmp_path / "runs").symlink_to(tmp_path / "scratch" / "of" / "mine")
    study = load_study(path, output=tmp_path / "runs" / "s")
    study.directory.mkdir()
    (study.directory / "study.yaml").write_text(dump_study(study))
    assert load_study(study.directory / "study.yaml").recipes == study.recipes


@pytest.mark.parametrize(
    ("text", "overrides", "folders"),
    [
        ("set: {task.train: r.jsonl}\narms: {a: {recipe: R}, b: {recipe: R}}\n", [], ("", "")),
        ("set: {task: {name: rows, train: r.jsonl}}\narms: {a: {recipe: R}, b: {recipe: R}}\n", [], ("", "")),
        ("arms: {a: {recipe: R, set: {task.train: r.jsonl}}, b: {recipe: R}}\n", [], ("", "below")),
        ("arms: {a: {recipe: R}, b: {recipe: R}}\n", ["set.task.train=r.jsonl"], ("here", "here")),
        (
            "set: {task.train: r.jsonl}\narms: {a: {recipe: R}, b: {recipe: R}}\n",
            ["arms.b.set.task.train=r.jsonl"],
            ("", "here"),
        ),
    ],
)
def test_rows_that_a_study_sets_are_found_from_its_folder_wherever_it_is_run(
    tmp_path, monkeypatch, text, overrides, folders
):
    """Those of overrides count from the working directory, those of the recipe from its folder."""
    for folder in ("here", "below"):
        (tmp_path / folder).mkdir()
    stages = "{coarse: {method: lora, rank: 2, steps: 1}}"
    write_recipe(tmp_path / "below", stages, file="own.yaml", task="{name: rows, train: r.jsonl}")
    path = tmp_path / "study.yaml"
    path.write_text("name: s\n" + text.replace("R", "below/own.yaml"))
    monkeypatch.chdir(tmp_path / "here")
    study = load_study(path, overrides, output=tmp_path / "runs" / "s")
    there = [(tmp_path / folder / "r.jsonl").as_posix() for folder in folders]
    assert [study.recipes[arm].task.train for arm in ("a", "b")] == there
    study.directory.mkdir(parents=True)
    (study.directory / "study.yaml").write_text(dump_study(study))
    monkeypatch.chdir("/")
    again = load_study(study.directory / "study.yaml")
    assert [again.recipes[arm].task.train for arm in ("a", "b")] == there


CODE = """
from heft.tasks import Task, TaskSettings

class ParitySettings(TaskSettings):
    name: str = "parity"
    below: int = 40

class Parity(Task):
    settings_type = ParitySettings

    def example(self, row):
        raise NotImplementedError
"""


def test_a_task_in_code_is_imported_for_an_arm_but_not_for_a_study_that_heft_wrote(tmp_path, monkeypatch):
    def forget():
        monkeypatch.setattr("heft.tasks.own._folders", {})
        monkeypatch.delitem(sys.modules, "parity_of_a_study", raising=False)

    forget()
    (tmp_path / "arms").mkdir()
    (tmp_path / "arms" / "parity_of_a_study.py").write_text(CODE)
    stages = "{coarse: {method: lora, rank: 2, steps: 1}}"
    write_recipe(tmp_path / "arms", stages, file="own.yaml", task="{name: 'parity_of_a_study:Parity', below: 30}")
    path = tmp_path / "study.yaml"
    path.write_text("name: s\narms: {a: {recipe: arms/own.yaml}, b: {recipe: arms/own.yaml, set: {task.below: 12}}}\n")
    study = load_study(path, output=tmp_path / "runs" / "s")
    assert [task_for(study.recipes[arm].task).settings.below for arm in ("a", "b")] == [30, 12]
    with pytest.raises(HeftError, match="set: task.belo: unknown key; did you mean 'below'"):
        load_study(path, ["set.task.belo=3"])
    study.directory.mkdir(parents=True)
    (study.directory / "study.yaml").write_text(dump_study(study))
    (study.directory / "study.json").write_text("{}")
    forget()
    load_study(study.directory / "study.yaml")
    assert "parity_of_a_study" not in sys.modules


def test_two_arms_cannot_have_other_tasks_in_modules_of_one_name(tmp_path, monkeypatch):
    monkeypatch.setattr("heft.tasks.own._folders", {})
    monkeypatch.delitem(sys.modules, "parity_of_a_study", raising=False)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "parity_of_a_study.py").write_text(CODE)
        stages = "{coarse: {method: lora, rank: 2, steps: 1}}"
        write_recipe(tmp_path / name, stages, file="own.yaml", task="{name: 'parity_of_a_study:Parity', below: 30}")
    path = tmp_path / "study.yaml"
    path.write_text("name: s\narms:\n  a: {recipe: a/own.yaml}\n  b: {recipe: b/own.yaml}\n")
    assert list(load_study(path).recipes) == ["a", "b"]  # the same code
    (tmp_path / "b" / "parity_of_a_study.py").write_text(CODE.replace("parity", "other"))
    monkeypatch.delitem(sys.modules, "parity_of_a_study")
    with pytest.raises(
        HeftError, match=r"study.yaml:4: arms.b.recipe: the module parity_of_a_study is .*/b/.* and .*/a/"
    ):
        load_study(path)


def test_every_setting_is_in_the_documentation():
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    for kind in (StudySettings, ArmSettings, Budget):
        assert [key for key in kind.model_fields if f"`{key}`" not in page] == []


def test_overrides_and_output_change_the_study(study_file, tmp_path):
    path = study_file("arms: {a: {recipe: lora.yaml}}\n")
    study = load_study(
        path, ["seeds=[7]", "set.task.train_size=5", "arms.a.set.stages.coarse.rank=6"], output="elsewhere"
    )
    assert study.recipes["a"].stages["coarse"].rank == 6
    assert (study.settings.seeds, study.recipes["a"].task.train_size, str(study.directory)) == ([7], 5, "elsewhere")
