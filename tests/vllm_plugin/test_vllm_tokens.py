"""Which tokens are edited, as ranges: in a pass, and in a block of the prefix cache. No vLLM."""

from itertools import product
from types import SimpleNamespace

import pytest

from heft.edits.positions import parse_positions
from heft.errors import HeftError
from heft.vllm_plugin.blocks import edit_keys
from heft.vllm_plugin.directory import find, read_layout
from heft.vllm_plugin.tokens import Kind, fault_of_prompt_length, prompt_length
from serving.serve_making import make_run

TEXTS = ("all", "f1", "f5", "l1", "l4", "l4+", "f3+l2", "f3+l2+", "f2+l9")


@pytest.mark.parametrize("text", TEXTS)
def test_ranges_are_the_tokens_that_the_positions_edit(text):
    rule = parse_positions(text)
    for group, prompt in product(("shared", "first", "last"), range(1, 14)):
        if rule.all_tokens and group != "shared":
            continue
        for start, end in ((0, 20), (0, 1), (3, 4), (5, 12), (12, 20)):
            found = [t for first, last in Kind(rule, group).ranges(prompt, start, end) for t in range(first, last)]
            assert found == [t for t in range(start, end) if rule.edits(t, prompt, group)], (group, prompt, start, end)


def test_a_request_may_say_where_its_prompt_ends():
    assert prompt_length(9, None) == prompt_length(9, {"other": 1}) == 9
    assert prompt_length(9, {"prompt_length": 4}) == 4
    assert fault_of_prompt_length(9, {"prompt_length": 9}) is None
    for wrong in (0, 10, -1, True, 4.0, "4", [4]):
        assert "from 1 to the 9 tokens" in fault_of_prompt_length(9, {"prompt_length": wrong}), wrong


def _request(path, prompt, extra=None, number=1):
    return SimpleNamespace(
        request_id="r",
        lora_request=SimpleNamespace(lora_path=str(path), lora_int_id=number),
        num_prompt_tokens=prompt,
        sampling_params=SimpleNamespace(extra_args=extra),
    )


def _keys(request, blocks=4, size=8):
    return [edit_keys(request, size * n, size * (n + 1)) for n in range(blocks)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    made = {text: f"fine: {{method: reft, rank: 2, positions: {text}, epochs: 1}}" for text in TEXTS}
    return {text: make_run(folder, f"n{n}", stages) for n, (text, stages) in enumerate(made.items())}


@pytest.mark.parametrize("text", TEXTS)
def test_blocks_are_alike_exactly_where_all_edits_up_to_their_end_are(runs, text):
    rule, size = parse_positions(text), 8
    for one, other in product((1, 2, 7, 8, 9, 15, 20), repeat=2):
        keys = [_keys(_request(runs[text], prompt)) for prompt in (one, other)]
        for block in range(4):
            edited = [
                [rule.edits(t, prompt, "shared") for t in range(size * (block + 1))] for prompt in (one, other)
            ]  # fmt: skip
            assert (keys[0][: block + 1] == keys[1][: block + 1]) == (edited[0] == edited[1]), (one, other, block)


def test_untied_ends_are_told_apart_and_a_given_prompt_length_counts(tmp_path, runs):
    untied = make_run(tmp_path, "u", "fine: {method: reft, rank: 2, positions: f4+l4, tied: false, epochs: 1}")
    assert [kind.group for kind in read_layout(untied).kinds] == ["first", "last"]
    assert _keys(_request(untied, 6))[0] != _keys(_request(untied, 8))[0]
    assert _keys(_request(runs["l4"], 20, {"prompt_length": 9})) == _keys(_request(runs["l4"], 9))


def test_an_adapter_that_is_written_anew_shares_no_block_with_what_it_was(tmp_path):
    stages = "fine: {method: reft, rank: 2, positions: l4, epochs: 1}"
    first = make_run(tmp_path / "a", "run", stages, seed=1)
    before = _keys(_request(first, 9))
    second = make_run(tmp_path / "b", "run", stages, seed=2)
    for each in ("fine/adapter_model.safetensors", "fine/adapter_config.json", "heft.json"):
        (first / each).write_bytes((second / each).read_bytes())
    assert _keys(_request(first, 9)) == before, "what is in memory is what was loaded"
    assert all(one != other for one, other in zip(before, _keys(_request(first, 9, number=2)), strict=True))


def test_a_directory_that_is_removed_or_broken_after_loading_changes_nothing(tmp_path):
    run = make_run(tmp_path, "run", "fine: {method: reft, rank: 2, positions: l4, epochs: 1}")
    before = _keys(_request(run, 9))
    (run / "heft.json").unlink()
    assert _keys(_request(run, 9)) == before
    (run / "heft.json").write_text("{")
    assert _keys(_request(run, 9)) == before
    assert edit_keys(_request(run, 9, number=2), 0, 8) == [("heft", "r")], "shared with no other request"


def test_a_path_names_a_run_an_adapter_directory_or_a_stage_of_one(tmp_path):
    directory = make_run(tmp_path, "r", "coarse: {method: lora, rank: 2}, fine: {method: reft, rank: 2, positions: l2}")
    assert find(str(directory)) == find(str(directory.parent)) == (directory, None)
    assert find(f"{directory.parent}:coarse") == (directory, "coarse")
    assert find(str(directory / "coarse")) is None, "a folder in PEFT's format is vLLM's own"
    assert find("org/name") is None
    whole, coarse = read_layout(directory), read_layout(directory, "coarse")
    assert (list(whole.refts), len(whole.loras)) == (["fine"], 1)
    assert (list(coarse.refts), len(coarse.loras)) == ([], 1)
    assert edit_keys(_request(f"{directory}:coarse", 9), 0, 8) == [("heft", coarse.digest, ())]
    with pytest.raises(HeftError, match="no stage 'third'; it has coarse, fine"):
        read_layout(directory, "third")


@pytest.mark.parametrize(
    ("settings", "served"),
    [
        ("rank: 4, alpha: 8, rank_pattern: {down_proj: 8}", False),
        ("rank: 4, alpha: 8, alpha_pattern: {q_proj: 32}", False),
        ("rank: 4, alpha: 8, rslora: true, rank_pattern: {down_proj: 16}, alpha_pattern: {down_proj: 32}", False),
        ("rank: 4, alpha: 8, rank_pattern: {down_proj: 8}, alpha_pattern: {down_proj: 16}", True),
        ("rank: 4, alpha: 8, rslora: true, rank_pattern: {down_proj: 16}, alpha_pattern: {down_proj: 16}", True),
    ],
)
def test_a_lora_of_several_scalings_is_refused_since_vllm_has_one(tmp_path, settings, served):
    run = make_run(tmp_path, "run", f"coarse: {{method: lora, {settings}, targets: [q_proj, down_proj]}}")
    if served:
        assert len(read_layout(run).loras) == 1
    else:
        with pytest.raises(HeftError, match="coarse scales .* by"):
            read_layout(run)


def test_base_and_adapters_of_others_have_no_keys(tmp_path):
    assert edit_keys(SimpleNamespace(lora_request=None), 0, 8) == []
    assert edit_keys(_request(tmp_path, 9), 0, 8) == []
