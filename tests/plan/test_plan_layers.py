"""`heft plan --probe-layers`: which rows, behind which adapters, by which positions; as a table and as JSON."""

import json

import pytest
from pydantic import TypeAdapter
from transformers import AutoModelForCausalLM, HrmTextConfig

import heft
from heft.builtin import byte_tokenizer
from heft.cli.documents import LayerProbeDocument
from heft.cli.plan import plan as plan_command
from heft.cli.plan_layers import layers_notes, layers_table
from heft.data.rows import read_data
from heft.edits.positions import parse_positions
from heft.errors import HeftError
from heft.models.load import load_base
from heft.plan.layers import positions_probed, probe_recipe
from heft.recipe.files import load_recipe
from heft.runtime.reporter import Reporter
from heft.training.layer_probe import GROUPS, LayerProbe, probe_layers, sampled

STAGES = (
    "{coarse: {method: lora, rank: 2, steps: 2, batch_size: 4}, "
    "fine: {method: reft, rank: 2, positions: l3, steps: 3, batch_size: 4}}"
)


class Notes(Reporter):
    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


def test_it_probes_rows_drawn_by_the_recipe_s_seed_on_the_base(recipe_file):
    notes, recipe = Notes(), load_recipe(recipe_file(STAGES), ["seed=3"])
    found = probe_recipe(recipe, 5, notes)
    base = load_base(recipe.model)
    rows = sampled(read_data(recipe, Reporter()).train, 5, 3)
    assert found == probe_layers(base.model, rows, base.tokenizer.pad_token_id, parse_positions("l3"))
    assert notes.said == ["probing layers on 5 of 24 training rows"]
    assert found.edited != probe_recipe(load_recipe(recipe_file(STAGES)), 5).edited


def test_adapters_that_stages_take_as_they_are_take_part_and_trained_ones_do_not(recipe_file, tmp_path):
    run = heft.train(load_recipe(recipe_file(STAGES, dtype="float32"), output=str(tmp_path / "run")))
    taken = (
        f"{{coarse: {{method: lora, from: {run.directory / 'adapter' / 'coarse'}}}, fine: {STAGES.split('fine: ')[1]}"
    )
    notes, recipe = Notes(), load_recipe(recipe_file(taken))
    found = probe_recipe(recipe, 8, notes)
    assert notes.said == ["probing layers on 8 of 24 training rows behind coarse"]
    assert found.edited != probe_recipe(load_recipe(recipe_file(STAGES)), 8).edited


def test_a_model_that_reft_cannot_edit_is_refused_in_words(recipe_file, tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = HrmTextConfig(vocab_size=259, **sizes)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    byte_tokenizer().save_pretrained(tmp_path / "base")
    recipe = load_recipe(recipe_file("{coarse: {method: lora, steps: 1}}"), [f"model.name={tmp_path / 'base'}"])
    with pytest.raises(HeftError, match="layers cannot be probed, .*HrmTextForCausalLM: found no list of 16 blocks"):
        probe_recipe(recipe, 4)


@pytest.mark.parametrize(
    ("stages", "rest", "expected"),
    [
        ("{coarse: {method: lora, steps: 1}}", "", "l4"),
        ("{a: {method: reft, positions: l2, steps: 1}, b: {method: lora, positions: l3, steps: 1}}", "", "l2"),
        ("{a: {method: reft, positions: f1, steps: 1}, b: {method: reft, positions: l2, steps: 1}}", "", "l2"),
        ("{a: {method: joint, steps: 1, reft: {positions: l5}}}", "", "l5"),
        ("{fine: {method: reft, steps: 1}}", "sweep: {grid: {positions: [l6, all]}}", "l6"),
    ],
)
def test_layers_are_compared_by_the_positions_of_the_last_stage_that_edits(recipe_file, stages, rest, expected):
    recipe = load_recipe(recipe_file(stages, rest))
    assert probe_recipe(recipe, 2).positions == expected
    if not rest:
        assert str(positions_probed(recipe)) == expected


def test_the_table_and_the_json_say_the_same_and_the_document_is_as_declared(recipe_file, capsys):
    path = recipe_file(STAGES)
    options = {"override": [], "probe": False, "show": None, "probe_layers": True, "probe_rows": 6}
    plan_command(path, as_json=True, **options)
    values = json.loads(capsys.readouterr().out)["layer_probe"]
    assert TypeAdapter(LayerProbeDocument).validate_python(values).rows == 6
    assert values["group_names"] == list(GROUPS)
    plan_command(path, as_json=False, **options)
    printed = capsys.readouterr().out
    lines = [line.split() for line in printed.splitlines()]
    for layer, (share, agreement) in enumerate(zip(values["layer_shares"], values["agreement"], strict=True)):
        assert [str(layer), f"{100 * share:.1f}", f"{agreement:.2f}"] in [line[:3] for line in lines]
    assert ["layer", "l3", "agree", *GROUPS] in lines
    assert "it foretold" in printed


def test_groups_without_tokens_have_no_column_and_half_of_the_gradient_is_named():
    groups = [[1.0, 0.0], [3.0, 0.0], [0.0, 0.0]]
    probe = LayerProbe(4, "l1", [4, 0, 0, 0, 0, 0, 0], [1.0, 3.0, 0.0], [2.0, 3.0, 0.0], groups, groups)
    assert [column.header for column in layers_table(probe).columns] == ["layer", "l1", "agree", "l1"]
    assert "layers 1 have 75.0 %" in layers_notes(probe)[0]
    assert "0.50 where none agree" in layers_notes(probe)[0]


def test_a_number_of_rows_without_the_probe_is_refused(recipe_file):
    with pytest.raises(HeftError, match="--probe-rows has no effect without --probe-layers"):
        plan_command(recipe_file(STAGES), [], probe=False, as_json=False, probe_rows=4)
