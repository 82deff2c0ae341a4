"""Recipes as files: every fault is reported at the line or the override that holds it."""

import os
import re
from textwrap import dedent

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from heft import HeftError
from heft.recipe.files import dump_recipe, load_recipe, recipe_of_values
from heft.recipe.recipe import LoraStage, Recipe, ReftStage

GOOD = dedent("""\
    name: good
    task:
      name: boolq
    stages:
      coarse:
        method: lora
        rank: 8
      fine:
        method: reft
        rank: 4
    """)
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)


@pytest.fixture
def load(tmp_path):
    """Write a text as r.yaml and load it."""

    def write_and_load(text: str | bytes, *overrides: str, output: str | None = None) -> Recipe:
        path = tmp_path / "r.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_recipe(path, overrides, output)

    return write_and_load


@pytest.fixture
def faults(load, tmp_path):
    """The faults of a text, the folder's name taken off."""

    def lines(text: str | bytes, *overrides: str, output: str | None = None) -> list[str]:
        with pytest.raises(HeftError) as caught:
            load(text, *overrides, output=output)
        return str(caught.value).replace(f"{tmp_path}{os.sep}", "").split("\n")

    return lines


def test_all_faults_are_reported_at_once_in_the_order_of_lines(faults):
    text = dedent("""\
        name: bad
        task: {name: bolq}
        stages:
          coarse:
            method: lora
            rnak: 8
            alpha: '16'
          fine:
            method: lroa
          third:
            rank: 8
        sede: 0
        model: {dtype: float23, trust_remote_code: no}
        """)
    assert faults(text) == [
        "r.yaml:2: task.name: unknown name 'bolq'; did you mean 'boolq'?",
        "r.yaml:6: stages.coarse.rnak: unknown key; did you mean 'rank'?",
        "r.yaml:7: stages.coarse.alpha: expected a number above 0 and at most 1000000000; got '16'",
        "r.yaml:9: stages.fine.method: unknown method 'lroa'; did you mean 'lora'?",
        "r.yaml:10: stages.third.method: missing; expected one of joint, lora, reft",
        "r.yaml:12: sede: unknown key; did you mean 'seed' or 'sweep'?",
        "r.yaml:13: model.dtype: expected one of auto, float32, bfloat16; got 'float23'; did you mean 'float32'?",
        "r.yaml:13: model.trust_remote_code: expected true or false; got 'no'",
    ]


def test_a_missing_key_is_reported_at_its_parent(faults):
    assert faults("# only a name\n\nname: x\n") == [
        "r.yaml:1: task: missing; expected a mapping with name one of "
        "arc_challenge, arc_easy, boolq, gsm8k, hellaswag, openbookqa, piqa, rows, siqa, whereabouts, winogrande",
        "r.yaml:1: stages: missing; expected a mapping of at least one entry "
        "(each value: a mapping with method one of joint, lora, reft)",
    ]


def test_an_unknown_key_unlike_any_other_is_answered_with_the_keys_known_there(faults):
    [fault] = faults(GOOD + "evaluation: {xyzzy: 1}\n")
    assert fault == "r.yaml:11: evaluation.xyzzy: unknown key; known here: batch_size, fused, normalize, share_prefix"


@pytest.mark.parametrize(("where", "path"), [("'[key]': 1", "[key]"), ("checkpoint: {'[key]': 2}", "checkpoint.[key]")])
def test_a_key_with_the_name_of_pydantics_mark_for_keys_is_an_unknown_key(faults, where, path):
    [fault] = faults(f"{GOOD}{where}\n")
    assert fault.startswith(f"r.yaml:11: {path}: unknown key; known here: ")


def test_a_setting_named_like_its_method_is_an_unknown_key_there(faults):
    [fault] = faults(GOOD.replace("rank: 8", "lora: {rank: 8}"))
    assert fault.startswith("r.yaml:7: stages.coarse.lora: unknown key")


def test_faults_inside_the_groups_of_a_joint_stage_are_found_at_their_lines(faults):
    stage = "  both:\n    method: joint\n    lora:\n      rank: 0\n    reft:\n      layers: [0, x]\n"
    assert faults(GOOD + stage) == [
        "r.yaml:14: stages.both.lora.rank: expected a whole number of at least 1 and at most 1048576; got 0",
        "r.yaml:16: stages.both.reft.layers: expected all or a list (each entry: a whole number); got [0, 'x']",
    ]


def test_a_check_between_settings_points_at_the_later_setting(faults):
    text = GOOD.replace("rank: 8", "init: pissa") + "model: {quantization: 8bit}\n"
    assert faults(text) == [
        "r.yaml:7: stages.coarse.init: pissa needs unquantized weights; use init: default or model.quantization: null"
    ]


def test_a_bad_stage_name_hides_no_other_fault_and_invents_none(faults):
    first, second = faults(GOOD.replace("fine:", "Fine:").replace("rank: 4", "rank: four"))
    assert first.startswith("r.yaml:8: stages.Fine: a stage's name is")
    assert (
        second == "r.yaml:10: stages.Fine.rank: expected a whole number of at least 1 and at most 1048576; got 'four'"
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1E-4", 1e-4),
        (".5", 0.5),
        ("1.", 1.0),
        ("2", 2.0),
        ("+0.25", 0.25),
        ("0x10", 16.0),
        ("0o17", 15.0),
    ],
)
def test_numbers_are_those_of_yaml_1_2(load, text, value):
    assert load(GOOD, f"stages.fine.learning_rate={text}").stages["fine"].learning_rate == value


@pytest.mark.parametrize("text", ["no", "on", "yes", "off", "'1'", "1_000", "2001-01-01", "1:30", "Y", "<<", "="])
def test_what_older_yaml_converts_is_text(load, text):
    assert load(GOOD, f"output={text}").output == text.strip("'")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("stages.fine.rank", "true"),
        ("stages.fine.rank", "4.0"),
        ("stages.fine.rank", "'4'"),
        ("stages.fine.learning_rate", "true"),
        ("stages.fine.learning_rate", "'1e-4'"),
        ("stages.fine.learning_rate", ".nan"),
        ("stages.fine.learning_rate", ".inf"),
        ("stages.fine.learning_rate", "1e999"),
        ("stages.fine.bf16", "1"),
        ("stages.fine.bf16", "yes"),
        ("seed", "null"),
        ("output", "3"),
        ("stages.fine.layers", "3"),
        ("model", "gpt2"),
    ],
)
def test_a_value_of_another_kind_is_refused_and_shown(faults, key, value):
    [fault] = faults(GOOD, f"{key}={value}")
    assert fault.startswith(f"--set {key}={value}: {key}: expected ")
    assert "; got " in fault


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "r.yaml:1: the recipe is empty; expected a mapping with at least the keys name, task, stages"),
        ("# nothing\n", "r.yaml:1: the recipe is empty; expected a mapping with at least the keys name, task, stages"),
        ("- a\n", "r.yaml:1: the recipe holds ['a']; expected a mapping with at least the keys name, task, stages"),
        (
            GOOD.replace("    rank: 4", "\trank: 4"),
            "r.yaml:10: not readable as YAML: while scanning for the next token",
        ),
        (GOOD + "x: [1, 2\n", "r.yaml:12: not readable as YAML: while parsing a flow sequence"),
        (GOOD + "name: again\n", "r.yaml:11: name: repeated; it was first given at r.yaml:1"),
        (GOOD + "seed: &a 1\n", "r.yaml:11: seed: anchors (&), aliases (*) and tags (!) are not read"),
        (GOOD + "seed: *a\n", "r.yaml:11: seed: anchors (&), aliases (*) and tags (!) are not read"),
        (GOOD + "seed: !!int 1\n", "r.yaml:11: seed: anchors (&), aliases (*) and tags (!) are not read"),
        (
            "%YAML 1.1\n---\n" + GOOD,
            "r.yaml:1: not readable as YAML: directives (%YAML, %TAG) are not read; remove them",
        ),
        ("%YAML 1.0\n---\n" + GOOD, "r.yaml:1: not readable as YAML: directives (%YAML, %TAG) are not read"),
        ("%YAML\n" + GOOD, "r.yaml:1: not readable as YAML: directives (%YAML, %TAG) are not read"),
        ("name: x\nstages:\n%YAML 0.1\n", "r.yaml:3: not readable as YAML: directives (%YAML, %TAG) are not read"),
        ("%TAG ! tag:x,2000:\n---\n" + GOOD, "r.yaml:1: not readable as YAML: directives (%YAML, %TAG) are not read"),
        (GOOD + "---\nname: b\n", "r.yaml:11: a second document starts here"),
        (GOOD + "1: 2\n", "r.yaml:11: a key must be text; got 1"),
        (GOOD + "seed: " + "9" * 5000, "r.yaml:11: seed: a number of 5000 digits is too long"),
        (GOOD + "seed: 0x" + "f" * 5000, "r.yaml:11: seed: a number of 5002 digits is too long"),
        (GOOD + "0x" + "f" * 800 + ": 1", "r.yaml:11: a number of 802 digits is too long"),
        (GOOD + "x: " + "[" * 3000, "r.yaml:11: not readable as YAML: more than 16 levels deep"),
        (GOOD + "x: a\x01b\n", "r.yaml:11: not readable as YAML: a control character"),
        (GOOD + 'x: "C:\\UDEADBEEF"\n', "r.yaml:11: not readable as YAML: an escape (\\U and 8 digits) beyond"),
        (GOOD + 'x: "C:\\U12345678"\n', "r.yaml:11: not readable as YAML: an escape (\\U and 8 digits) beyond"),
        (GOOD.encode() + b"# caf\xe9\n", "r.yaml:11: not UTF-8"),
        (b"#" * (2**20 + 1), "r.yaml: cannot be read, it is larger than 1,048,576 bytes"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_with_the_line(faults, text, fault):
    assert faults(text)[0].startswith(fault)


@pytest.mark.parametrize("text", ["a: b", "{text}", "x: {text}\\nLabel:"])
def test_text_that_yaml_takes_for_a_mapping_is_to_stand_in_quotes(faults, text):
    (fault,) = faults(f"{GOOD}output: {text}\n")
    assert fault.startswith("r.yaml:11: ")
    assert fault.endswith('; put text that has braces or ": " in quotes')


def test_a_tab_is_named_as_the_cause(faults):
    assert "use spaces" in faults("name: x\ntask:\n\tname: boolq\n")[0]


def test_nested_aliases_are_refused_before_they_are_expanded(faults):
    bomb = "a: &a [x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert all("r.yaml:" in fault for fault in faults(bomb))


def test_a_file_that_is_missing_or_a_folder_is_refused(tmp_path):
    with pytest.raises(HeftError, match=r"absent\.yaml: no such file"):
        load_recipe(tmp_path / "absent.yaml")
    with pytest.raises(HeftError, match="cannot be read"):
        load_recipe(tmp_path)


def test_a_path_that_no_disk_can_have_is_a_file_that_is_not_there(tmp_path):
    for path in (tmp_path / ("a" * 300) / "r.yaml", tmp_path / ("a" * 300 + ".yaml")):
        with pytest.raises(HeftError, match=r"a\.?.*yaml: no such file; expected a recipe"):
            load_recipe(path)


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(load):
    assert load(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode()) == load(GOOD)


def test_overrides_replace_and_create_in_the_order_given(load):
    recipe = load(
        GOOD,
        "stages.fine.rank=2",
        "stages.fine.layers=[0, 1]",
        "stages.last={method: lora, early_stopping: {patience: 3}, holdout: 0.1}",
        "stages.last.early_stopping.min_delta=0.5",
        "stages.fine.rank=3",
        "evaluation.batch_size=7",
        "task.eval_limit=5 # few",
    )
    assert list(recipe.stages) == ["coarse", "fine", "last"]
    assert (recipe.stages["fine"].rank, recipe.stages["fine"].layers) == (3, [0, 1])
    assert recipe.stages["last"].early_stopping.model_dump() == {"patience": 3, "min_delta": 0.5}
    assert (recipe.evaluation.batch_size, recipe.task.eval_limit) == (7, 5)


def test_an_override_may_fill_in_a_group_that_is_null(load):
    text = GOOD + "  last: {method: lora, holdout: 0.1, early_stopping: null}\n"
    assert load(text, "stages.last.early_stopping.patience=7").stages["last"].early_stopping.patience == 7


def test_the_output_argument_wins_over_file_and_overrides(load, faults):
    assert load(GOOD + "output: a\n", "output=b", output="c").output == "c"
    assert faults(GOOD, output="") == ["--output : output: expected non-empty text, or null; got ''"]


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("stages.fine.rnak=4", "stages.fine.rnak: unknown key; did you mean 'rank'?"),
        ("stages.fine.rank.x=4", "stages.fine.rank: not a mapping, so it has no key 'x'; it is 4 and is set whole"),
        ("stages.fine.rank", "expected key=value, such as stages.fine.rank=4"),
        ("=4", "expected key=value, such as stages.fine.rank=4"),
        ("stages..rank=4", "expected key=value, such as stages.fine.rank=4"),
        ("stages.fin.rank=4", "stages.fin.method: missing; expected one of joint, lora, reft"),
        (
            "stages.fine={method: reft, rank: 0}",
            "stages.fine.rank: expected a whole number of at least 1 and at most 1048576; got 0",
        ),
        ("seed={a: 1, a: 2}", "seed.a: repeated; it was first given at --set seed={a: 1, a: 2}"),
        ("stages.fine.method=", "stages.fine.method: expected one of joint, lora, reft; got null"),
        ("stages.fine.method=[lora]", "stages.fine.method: expected one of joint, lora, reft; got ['lora']"),
    ],
)
def test_a_fault_of_an_override_is_reported_at_the_override(faults, override, fault):
    assert f"--set {override}: {fault}" in faults(GOOD, override)


def test_an_override_mends_a_fault_of_the_file(load):
    assert load(GOOD.replace("rank: 4", "rank: four"), "stages.fine.rank=4") == load(GOOD)


def test_faults_of_the_file_come_before_those_of_overrides(faults):
    found = faults(GOOD + "sede: 1\n", "stages.fine.b=1", "a=1")
    assert [fault.split(": ")[0] for fault in found] == ["r.yaml:11", "--set stages.fine.b=1", "--set a=1"]


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**30), 10**30) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
PATHS = ["name", "task", "model", "stages", "stages.fine", "stages.fine.layers", "stages.coarse.rank_pattern", "x"]


@in_one_folder
@given(path=st.sampled_from(PATHS), text=anything.map(repr) | st.text(max_size=20))
@example(path="stages.fine", text="{method: [lora]}")
@example(path="task", text="{name: null}")
@example(path="stages.fine.learning_rate", text="1" + "0" * 400)
def test_whatever_a_value_is_the_recipe_loads_or_the_fault_is_told_at_that_override(load, path, text):
    try:
        load(GOOD, f"{path}={text}")
    except HeftError as error:
        assert str(error).startswith(f"--set {path}=")  # noqa: PT017 (most values are refused, some are right)


@in_one_folder
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_whatever_a_file_holds_it_is_no_crash(load, content):
    with pytest.raises(HeftError, match=r"r\.yaml"):
        load(content)


@pytest.mark.parametrize("end", ["\x85", "\u2028", "\u2029"])
def test_text_with_unusual_line_ends_is_read_back_as_it_was(tmp_path, end):
    recipe = Recipe(name="t", task={"name": "whereabouts"}, stages={"s": {"method": "lora"}}, output=f"a{end}b")
    path = tmp_path / "r.yaml"
    path.write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe


@pytest.mark.parametrize("values", [["name", "x"], 3])
def test_values_that_are_no_mapping_are_told_so(values):
    expected = re.escape(f"holds {values}; expected a mapping with at least the keys name, task, stages")
    with pytest.raises(HeftError, match=expected):
        recipe_of_values(values)


def test_overrides_from_python_may_be_one_text_and_a_key_that_is_no_text_is_unknown():
    values = {"name": "t", "task": {"name": "whereabouts"}, "stages": {"fine": {"method": "reft"}}}
    assert recipe_of_values(values, "stages.fine.rank=2").stages["fine"].rank == 2
    with pytest.raises(HeftError, match="3: unknown key"):
        recipe_of_values(values, {3: 4})


def test_settings_from_python_may_stand_in_a_recipe_of_values():
    """Also those that a file calls otherwise than Python does: `from` is a word of Python's own."""
    stages = {"coarse": LoraStage(method="lora", from_="runs/x"), "fine": ReftStage(method="reft", steps=1)}
    recipe = recipe_of_values({"name": "t", "task": {"name": "whereabouts"}, "stages": stages})
    assert recipe.stages["coarse"].source == "runs/x"
    again = recipe_of_values(recipe, {"stages.fine.rank": 2})
    assert (again.stages["coarse"], again.stages["fine"].rank) == (recipe.stages["coarse"], 2)
