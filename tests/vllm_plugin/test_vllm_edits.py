"""The plugin's arithmetic against heft's own modules, with tokens gathered and with all of them masked. No vLLM."""

import json

import pytest
import torch

import heft
from heft.edits.equations import EQUATIONS
from heft.errors import HeftError
from heft.reft import interventions
from heft.reft.layer import layers_of
from heft.vllm_plugin import directory as plugin
from heft.vllm_plugin.directory import Place, read_adapter, read_layout
from heft.vllm_plugin.edits import EditState, Piece
from serving.serve_making import make_run
from tiny import forget_hashes

HIDDEN, LAYERS = 64, 4
PLACES = [Place(layer, "block") for layer in range(LAYERS)]


def _state(masked, slots=3, rank=8, places=PLACES):
    return EditState(places, HIDDEN, slots, rank, 64, torch.device("cpu"), masked)


def _run(folder, name, **settings):
    values = {"method": "reft", "rank": 3, "positions": "l3", "epochs": 1} | settings
    return make_run(folder, name, f"fine: {json.dumps(values)}", seed=len(name))


def _adapter(path):
    return read_adapter(read_layout(path), HIDDEN, LAYERS)


@pytest.mark.parametrize("activation", [None, "gelu", "sigmoid"])
@pytest.mark.parametrize("name", EQUATIONS)
def test_each_equation_is_that_of_the_module(tmp_path, name, activation):
    if activation and not EQUATIONS[name].has_projection:
        pytest.skip("nothing to activate")
    path = _run(tmp_path, name, intervention=name, activation=activation)
    model, _ = heft.load(path)
    hidden = torch.randn(11, HIDDEN)
    for layer, reft in enumerate(layers_of(model).values()):
        ((_, unit),) = reft.units()
        (edit,) = _adapter(path).edits[Place(layer, "block")]
        assert torch.equal(edit.delta(hidden), unit(hidden))
        assert edit.delta(hidden.bfloat16()).dtype is torch.bfloat16
        if activation is None:
            affine = torch.nn.functional.linear(hidden, edit.matrix, edit.bias) @ edit.basis
            assert torch.allclose(affine, unit(hidden), atol=1e-5)


def test_orthonormal_rows_and_activations_are_those_of_heft():
    assert plugin.orthonormal_rows is interventions.orthonormal_rows
    assert plugin.ACTIVATIONS is interventions.ACTIVATIONS


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("with_residual", [True, False])
def test_masked_and_gathered_passes_edit_alike_and_nothing_else(tmp_path, dtype, with_residual):
    adapters = [
        _adapter(_run(tmp_path, "a")),
        _adapter(_run(tmp_path, "bb", positions="f2+l1", tied=False, layers=[0, -1])),
        _adapter(_run(tmp_path, "ccc", positions="all", intervention="direft")),
    ]
    # of 20 tokens: 7 of slot 0, the last 3 of its prompt cut in two; 4 of slot 2; 6 of slot 1; 3 of the base
    pieces = [Piece(0, 0, 2, 7, 11), Piece(2, 7, 30, 4, 9), Piece(1, 11, 0, 6, 6)]
    edited = {0: {6}, 1: {11, 12, 16}, 2: {7, 8, 9, 10}}
    edited[0] = {0 + t - 2 for t in range(2, 9) if 8 <= t < 11}
    found = {}
    for masked in (True, False):
        state = _state(masked)
        for slot, adapter in enumerate(adapters):
            state.put(slot, adapter)
        torch.manual_seed(0)
        hidden, residual = torch.randn(24, HIDDEN).to(dtype), torch.randn(24, HIDDEN).to(dtype)
        state.begin(pieces)
        for place in PLACES:
            own = hidden.clone()
            state.tables[place].edit(own, residual if with_residual else None)
            found[masked, place] = own
            changed = {t for t in range(24) if not torch.equal(own[t], hidden[t])}
            slots = [0, 2] if place.layer in (1, 2) else [0, 1, 2]
            assert changed == set.union(*(edited[slot] for slot in slots)), (masked, place)
            total = hidden + residual if with_residual else hidden
            token = min(edited[0])
            (edit,) = adapters[0].edits[place]
            assert torch.equal(own[token], (hidden[token] + edit.delta(total[token : token + 1])[0])) or masked
    for place in PLACES:
        bound = 1e-5 if dtype is torch.float32 else 0.05
        assert torch.allclose(found[True, place], found[False, place], atol=bound, rtol=bound)


@pytest.mark.parametrize("stages", [("l3", "all"), ("l3", "all", "l3")], ids=" then ".join)
def test_stages_of_one_layer_edit_in_their_order_whatever_else_is_in_the_pass(tmp_path, stages):
    values = [json.dumps({"method": "reft", "rank": 3, "positions": positions, "epochs": 1}) for positions in stages]
    path = make_run(tmp_path, "run", ", ".join(f"s{number}: {each}" for number, each in enumerate(values)))
    adapter, state = _adapter(path), _state(False)
    state.put(0, adapter)
    torch.manual_seed(0)
    hidden = torch.randn(6, HIDDEN)
    expected = hidden.clone()
    for number, positions in enumerate(stages):  # one generated token first, then a prompt of five
        (edit,) = [each for each in adapter.edits[PLACES[0]] if each.name == f"s{number}"]
        tokens = [3, 4, 5] if positions == "l3" else range(6)
        for token in tokens:
            expected[token] += edit.delta(expected[token : token + 1])[0]
    state.begin([Piece(0, 0, 20, 1, 9), Piece(0, 1, 0, 5, 5)])
    state.tables[PLACES[0]].edit(hidden, None)
    torch.testing.assert_close(hidden, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("masked", [True, False])
def test_an_empty_slot_and_a_pass_of_no_requests_edit_nothing(tmp_path, masked):
    state = _state(masked)
    state.put(1, _adapter(_run(tmp_path, "a", positions="all")))
    hidden = torch.randn(8, HIDDEN)
    for pieces, slot in (([], None), ([Piece(0, 0, 0, 8, 8)], None), ([Piece(1, 0, 0, 8, 8)], 1)):
        own = hidden.clone()
        state.begin(pieces)
        state.tables[PLACES[0]].edit(own, None)
        assert torch.equal(own, hidden) == (slot is None)
    state.put(1, None)
    own = hidden.clone()
    state.begin([Piece(1, 0, 0, 8, 8)])
    state.tables[PLACES[0]].edit(own, None)
    assert torch.equal(own, hidden)


def test_masked_weights_stay_where_they_are(tmp_path):
    state = _state(True)
    tables = [(t.matrix_ND, t.bias_N, t.basis_ND, t.kind_N) for t in state.tables.values()]
    before = [[each.data_ptr() for each in table] for table in tables] + [state.mask_TK.data_ptr()]
    for name in ("a", "bb"):
        state.put(0, _adapter(_run(tmp_path, name)))
        state.begin([Piece(0, 0, 0, 5, 5)])
    tables = [(t.matrix_ND, t.bias_N, t.basis_ND, t.kind_N) for t in state.tables.values()]
    assert before == [[each.data_ptr() for each in table] for table in tables] + [state.mask_TK.data_ptr()]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"rank": 9}, "have rank 9, and there is room for 8"),
        ({"rank": 5, "positions": "f1+l1", "tied": False}, "have rank 10, and there is room for 8"),
        ({"activation": "relu"}, "start vLLM with --enforce-eager"),
        ({"site": "mlp"}, '{"heft": {"sites": ["block", "mlp"]}}'),
    ],
)
def test_what_has_no_place_is_refused_with_what_to_do(tmp_path, settings, reason):
    adapter = _adapter(_run(tmp_path, "a", **settings))
    with pytest.raises(HeftError) as refused:
        _state(True).put(0, adapter)
    assert reason in str(refused.value)
    assert (_state(False).refusal(adapter) is None) == ("site" not in settings)


def test_another_base_models_shapes_are_refused(tmp_path):
    layout = read_layout(_run(tmp_path, "a", layers=[3]))
    with pytest.raises(HeftError, match="whose hidden size is 32"):
        read_adapter(layout, 32, LAYERS)
    with pytest.raises(HeftError, match="edits layer 3, and this base model has 3 layers, 0 to 2"):
        read_adapter(layout, HIDDEN, 3)
    with pytest.raises(HeftError, match=r"no edits of the layers \[4, 5\]"):
        read_adapter(read_layout(_run(tmp_path, "bb")), HIDDEN, 6)


def test_layers_of_one_adapter_do_not_stand_in_for_those_of_another(tmp_path):
    from safetensors.torch import load_file, save_file

    stage = json.dumps({"method": "reft", "rank": 3, "positions": "l3", "epochs": 1})
    path = forget_hashes(make_run(tmp_path, "two", f"first: {stage}, second: {stage}", seed=0))
    file = path / "second" / "adapter_model.safetensors"
    save_file({key: tensor for key, tensor in load_file(file).items() if ".layers.2." not in key}, file)
    with pytest.raises(HeftError, match=r"second.* has no edits of the layers \[2\]"):
        _adapter(path)


def test_weights_that_are_no_numbers_or_no_edits_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    path = forget_hashes(_run(tmp_path, "a"))
    file = path / "fine" / "adapter_model.safetensors"
    tensors = load_file(file)
    key = next(key for key in tensors if key.endswith("bias"))
    save_file(tensors | {key: torch.full_like(tensors[key], float("nan"))}, file)
    with pytest.raises(HeftError, match="no finite numbers"):
        _adapter(path)
    save_file(tensors | {"base_model.model.lm_head.weight": torch.zeros(2)}, file)
    with pytest.raises(HeftError, match="no edit of a layer"):
        _adapter(path)
    file.write_bytes(b"\xff" * 20)
    with pytest.raises(HeftError, match="cannot be read"):
        _adapter(path)
