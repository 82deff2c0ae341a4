"""`heft import` of pyreft's directories: heft's logits are those that pyreft had when it saved them."""

import json
import pickle
import shutil
import zipfile
from collections import OrderedDict

import pytest
import torch
from exchanging import IDS, PROMPTS, adapted, apart, in_pyreft, logits_of, saved_base

from heft.adapters.manifest import read_manifest
from heft.errors import HeftError
from heft.exchange.from_pyreft import as_heft, read_pyreft, read_state
from heft.exchange.importing import import_adapter
from heft.exchange.to_pyreft import let_old_transformers_read
from pickles import Marker

LOREFT = {"class": "LoreftIntervention", "layers": [0, 2], "position": "f2+l3", "share_weights": True}
CASES = {
    "loreft": LOREFT,
    "untied": {**LOREFT, "layers": [0, 2, 0, 2], "position": "f3+l3", "share_weights": False},
    "activation": {**LOREFT, "options": {"act_fn": "gelu"}},
    "attention": {**LOREFT, "component": "attention_output"},
    "mlp": {**LOREFT, "component": "mlp_output", "position": "l2"},
    "path": {**LOREFT, "component": "model.layers[{}].output"},
    "path of mlp": {**LOREFT, "component": "model.layers[{}].mlp.output"},
    "noreft": {**LOREFT, "class": "NoreftIntervention", "options": {"add_bias": False}},
    "noreft with a bias": {**LOREFT, "class": "NoreftIntervention", "options": {"add_bias": True}},
    "direft": {**LOREFT, "class": "DireftIntervention"},
    "nodireft": {**LOREFT, "class": "NodireftIntervention", "options": {"add_bias": False}},
    "nodireft with a bias": {**LOREFT, "class": "NodireftIntervention", "options": {"add_bias": True}},
    "consreft": {**LOREFT, "class": "ConsreftIntervention"},
    "lobireft": {**LOREFT, "class": "LobireftIntervention", "position": "f2"},
}


@pytest.fixture(scope="module")
def saved_by_pyreft(tmp_path_factory):
    """A folder with the base, a directory of pyreft's for each case, and the logits that each had."""
    folder = tmp_path_factory.mktemp("of_pyreft")
    base = saved_base(folder / "base")
    let_old_transformers_read(base)
    jobs = [
        {
            **{"do": "make", "base": str(base), "folder": str(folder / name), "rank": 4, "component": "block_output"},
            **{"logits": str(folder / f"{name}.pt"), "ids": IDS.tolist(), "prompt": int(PROMPTS[0]), **case},
        }
        for name, case in CASES.items()
    ]
    in_pyreft(folder, jobs)
    return folder


def imported(folder, name, out, **options):
    options = {"positions": CASES[name]["position"], **options}
    import_adapter(str(folder / name), out, base=str(folder / "base"), overrides=["model.dtype=float32"], **options)
    return out


@pytest.mark.parametrize("name", CASES)
def test_the_imported_adapter_has_the_logits_that_pyreft_had(name, saved_by_pyreft, tmp_path):
    options = {"activation": "gelu"} if name == "activation" else {}
    out = imported(saved_by_pyreft, name, tmp_path / "out", **options)
    ours, theirs = logits_of(adapted(out), prompt_lengths=PROMPTS), torch.load(saved_by_pyreft / f"{name}.pt")
    off = logits_of(adapted(out, "none"))
    assert apart(ours, theirs) < 1e-5 < apart(off, theirs)


def test_the_stage_says_what_was_read(saved_by_pyreft, tmp_path):
    out = imported(saved_by_pyreft, "untied", tmp_path / "out", stage="reft")
    values = json.loads((out / "reft" / "adapter_config.json").read_text())
    expected = {"intervention": "loreft", "rank": 4, "layers": [0, 2], "positions": "f3+l3", "tied": False}
    assert {key: values[key] for key in expected} == expected
    assert [entry.stage for entry in read_manifest(out).adapters] == ["reft"]


def test_positions_have_to_be_given(saved_by_pyreft, tmp_path):
    with pytest.raises(HeftError, match="give them with --positions"):
        imported(saved_by_pyreft, "loreft", tmp_path / "out", positions=None)
    assert not list(tmp_path.iterdir())


def test_two_interventions_a_layer_need_first_and_last_positions(saved_by_pyreft, tmp_path):
    with pytest.raises(HeftError, match="two interventions a layer, for first and last tokens, and positions are l3"):
        imported(saved_by_pyreft, "untied", tmp_path / "out", positions="l3")


def test_a_rotation_that_is_not_orthonormal_becomes_the_same_edit_with_a_free_basis(saved_by_pyreft, tmp_path):
    folder = shutil.copytree(saved_by_pyreft / "loreft", tmp_path / "half")
    for path in folder.glob("*.bin"):
        state = torch.load(path)
        torch.save(OrderedDict((key, value.bfloat16()) for key, value in state.items()), path)
    out = tmp_path / "out"
    notes = []
    import_adapter(
        str(folder), out, base=str(saved_by_pyreft / "base"), positions="f2+l3", warn=notes.append
    )  # fmt: skip
    assert json.loads((out / "fine" / "adapter_config.json").read_text())["intervention"] == "noreft"
    assert "not orthonormal" in notes[0]
    hidden = torch.randn(5, 32)
    state = {key: value.float() for key, value in read_state(next(folder.glob("*layer_0*"))).items()}
    rows = state["rotate_layer"].T
    expected = (hidden @ state["weight"].T + state["bias"] - hidden @ rows.T) @ rows
    unit = adapted(out).get_submodule("model.layers.0.reft").reft_shared["fine"]
    torch.testing.assert_close(unit(hidden), expected, atol=1e-5, rtol=1e-5)


def written(folder, **changes):
    """A directory as pyreft writes it, of one LoReFT intervention, without pyreft."""
    folder.mkdir()
    key = "layer_1_comp_block_output_unit_pos_nunit_1#0"
    values = {
        "intervention_types": ["<class 'pyreft.interventions.LoreftIntervention'>"],
        "representations": [[1, "block_output", "pos", 1, 2]],
        "sorted_keys": [key],
    }
    (folder / "config.json").write_text(json.dumps(values | changes))
    rows = torch.linalg.qr(torch.randn(32, 2)).Q
    state = OrderedDict(weight=torch.randn(2, 32), bias=torch.randn(2), rotate_layer=rows)
    torch.save(state, folder / f"intkey_{key}.bin")
    return folder


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"representations": [[1, "block_input", "pos", 1, 2]]}, "edits block_input, which is none of heft's sites"),
        ({"representations": [[1, "head_query_output", "h.pos", 1, 2]]}, "has unit 'h.pos'"),
        ({"representations": [[1, "block_output", "pos", 2, 2]]}, "has max_number_of_units 2"),
        ({"intervention_types": ["<class 'pyvene.VanillaIntervention'>"]}, "is a VanillaIntervention"),
        ({"representations": []}, "no equally long lists"),
        ({"sorted_keys": ["../../other"]}, "is no file name"),
        ({"representations": [{"layer": 1, "colour": "red"}]}, "no representation of pyvene"),
        ({"position": "l2"}, "--positions is l1, and its config.json says l2"),
        ({"representations": [["1", "block_output", "pos", 1, 2]]}, "is in layer '1', which is no number of a layer"),
    ],
)
def test_what_heft_has_no_word_for_is_refused(changes, reason, tmp_path):
    with pytest.raises(HeftError) as error:
        read_pyreft(written(tmp_path / "d", **changes), "l1")
    assert reason in str(error.value)


def test_a_bias_outside_of_an_activation_is_refused_and_without_one_kept(tmp_path):
    key = "layer_1_comp_block_output_unit_pos_nunit_1#0"
    folder = written(tmp_path / "made", intervention_types=["<class 'pyreft.interventions.NoreftIntervention'>"])
    state = {"proj_layer.weight": torch.randn(2, 32), "proj_layer.bias": torch.randn(2)}
    state |= {"learned_source.weight": torch.randn(2, 32), "learned_source.bias": torch.randn(2)}
    torch.save(OrderedDict(state), folder / f"intkey_{key}.bin")
    with pytest.raises(HeftError, match="proj_layer.bias"):  # h + (f(W₁h + b₁) − W₂h − b₂)W₂
        read_pyreft(folder, "l1", "gelu")
    ((unit,),) = [read_pyreft(folder, "l1").units.values()]
    torch.testing.assert_close(unit["bias"], state["learned_source.bias"] - state["proj_layer.bias"])
    torch.save(OrderedDict(state | {"proj_layer.bias": torch.zeros(2)}), folder / f"intkey_{key}.bin")
    assert read_pyreft(folder, "l1", "gelu").settings["activation"] == "gelu"


def state_of(kind):
    """A state as pyreft saves it, and R or W₂, W₁, b₁ and b₂ of its formulas."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = torch.nn.utils.parametrizations.orthogonal(torch.nn.Linear(4, 16, bias=False))
        rows, source, inner, outer = layer.weight.detach().T, torch.randn(4, 16), torch.randn(4), torch.randn(4)
    rotated = {f"rotate_layer.{key}": value for key, value in layer.state_dict().items()}
    learned = {"learned_source.weight": source, "learned_source.bias": inner}
    state = {
        "LoreftIntervention": {"weight": source, "bias": inner, "rotate_layer": rows.T},
        "NoreftIntervention": {**learned, "proj_layer.weight": rows, "proj_layer.bias": outer},
        "DireftIntervention": {**learned, **rotated},
        "NodireftIntervention": {**learned, "proj_layer.weight": rows, "proj_layer.bias": outer},
        "ConsreftIntervention": {"learned_source": inner, **rotated},
        "LobireftIntervention": {"learned_source": inner, **rotated},
    }[kind]
    return state, rows, source, inner, outer


@pytest.mark.parametrize(
    ("kind", "name", "edit"),
    [
        ("LoreftIntervention", "loreft", lambda h, R, W, b, c: (h @ W.T + b - h @ R.T) @ R),
        ("NoreftIntervention", "noreft", lambda h, R, W, b, c: (h @ W.T + b - (h @ R.T + c)) @ R),
        ("DireftIntervention", "direft", lambda h, R, W, b, c: (h @ W.T + b) @ R),
        ("NodireftIntervention", "direft", lambda h, R, W, b, c: (h @ W.T + b) @ R),
        ("ConsreftIntervention", "consreft", lambda h, R, W, b, c: (b - h @ R.T) @ R),
        ("LobireftIntervention", "lobireft", lambda h, R, W, b, c: b @ R),
    ],
)
def test_each_intervention_of_pyreft_is_the_edit_of_its_formula(kind, name, edit):
    state, *parts = state_of(kind)
    found, unit = as_heft(kind, state)
    hidden = torch.randn(3, 16, generator=torch.Generator().manual_seed(1))
    rows = unit["rotation"] if "rotation" in unit else unit["basis"]
    assert found == name
    assert ("rotation" in unit) == (name in ("loreft", "consreft", "lobireft"))
    read = hidden @ unit["weight"].T if "weight" in unit else 0
    kept = hidden @ rows.T if name in ("loreft", "noreft", "consreft") else 0
    torch.testing.assert_close((read + unit["bias"] - kept) @ rows, edit(hidden, *parts))


def test_all_faults_are_named_at_once(tmp_path):
    changes = {
        "representations": [[1, "block_input", "pos", 2, 2]],
        "intervention_types": ["<class 'pyvene.VanillaIntervention'>"],
    }
    with pytest.raises(HeftError) as error:
        read_pyreft(written(tmp_path / "d", **changes))
    for reason in ("block_input", "max_number_of_units", "VanillaIntervention", "--positions"):
        assert reason in str(error.value)


def test_a_base_of_another_size_is_refused(tmp_path):
    with pytest.raises(HeftError, match="hidden states of 32, and random:tiny-llama has 64"):
        import_adapter(str(written(tmp_path / "d")), tmp_path / "out", base="random:tiny-llama", positions="l1")
    assert not (tmp_path / "out").exists()


def test_positions_of_an_empty_text_are_no_positions(tmp_path):
    with pytest.raises(HeftError, match="positions must be .*; got ''"):
        read_pyreft(written(tmp_path / "d"), "")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"activation": "foo"}, "stages.fine.activation: expected one of relu, gelu, silu, tanh, sigmoid, or null"),
        ({"stage": "Bad Name"}, "stages.Bad Name: a stage's name is up to 64 lower-case letters"),
    ],
)
def test_an_option_that_cannot_be_is_told_as_in_a_recipe(options, told, tmp_path):
    with pytest.raises(HeftError) as error:
        import_adapter(
            str(written(tmp_path / "d")), tmp_path / "out", base="random:tiny-llama", positions="l1", **options
        )
    assert str(error.value).startswith(f"heft import: {told}")
    assert "\n" not in str(error.value)


def test_a_tilde_is_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    written(tmp_path / "d")
    with pytest.raises(HeftError, match="~/d does not say which base model it was trained on"):
        import_adapter("~/d", tmp_path / "out", positions="l1")


def test_the_base_has_to_be_named(tmp_path):
    with pytest.raises(HeftError, match="give it with --base"):
        import_adapter(str(written(tmp_path / "d")), tmp_path / "out", positions="l1")


def test_a_pickle_that_names_code_is_not_opened(tmp_path):
    folder, marker = written(tmp_path / "d"), tmp_path / "marker"
    path = next(folder.glob("*.bin"))
    torch.save({"weight": Marker(marker)}, path)
    with pytest.raises(HeftError, match="opening it could run code"):
        read_pyreft(folder, "l1")
    assert not marker.exists()


def test_a_pickle_that_hides_code_in_a_newer_protocol_is_not_opened(tmp_path):
    marker, path = tmp_path / "marker", tmp_path / "state.bin"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Marker(marker), protocol=4))
        archive.writestr("archive/version", "3")
    with pytest.raises(HeftError, match="opening it could run code"):
        read_state(path)
    assert not marker.exists()


def test_a_packed_file_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "state.bin"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\0" * 10**7)
    with pytest.raises(HeftError, match="its members are compressed"):
        read_state(path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"\x80\x02}."])
def test_a_damaged_file_is_an_error_for_people(content, tmp_path):
    path = tmp_path / "state.bin"
    path.write_bytes(content)
    with pytest.raises(HeftError, match="no file that torch.save wrote"):
        read_state(path)
