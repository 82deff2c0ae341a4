"""vLLM with the plugin gives what `heft.load` gives: greedy tokens, and log-likelihoods of choices."""

import json
import shutil
from pathlib import Path

import pytest
from vllm_making import CLASSES, in_vllm, make_base, vllm_python

import heft
from heft.adapters.attach import activate
from heft.models.load import load_base
from heft.recipe.model import ModelSettings
from serving.serve_making import LORA, TAIL, make_run, scores_by_definition
from tiny import forget_hashes, likeliest

pytestmark = pytest.mark.timeout(900)

COUNT = 14
SHARED = tuple(range(40, 90))
PROMPTS = [
    *(tuple((7 * i + 13 * k) % 250 + 4 for i in range(9 + 11 * k)) for k in range(3)),
    *((*SHARED, *range(100 + k, 108 + k)) for k in range(3)),
    tuple(range(60, 124)),  # two whole blocks
    tuple(range(60, 110)),  # two whole blocks with the answer
    (77,),  # shorter than most positions
]
CHOICES = ((70, 71), (80,), (90, 91, 92))
RUNS = {
    "two": f"{LORA}, {TAIL}",
    "one": "fine: {method: reft, rank: 2, positions: l1, epochs: 1}",
    "some": "fine: {method: reft, rank: 4, positions: l4, layers: [0, 2], intervention: noreft, epochs: 1}",
    "onward": f"{LORA}, fine: {{method: reft, rank: 2, positions: l4+, intervention: direft, epochs: 1}}",
    "first": "fine: {method: reft, rank: 8, positions: f2, intervention: consreft, layers: [-3, 1], epochs: 1}",
    "everywhere": "fine: {method: reft, rank: 8, positions: all, intervention: lobireft, epochs: 1}",
    "apart": f"{LORA}, fine: {{method: reft, rank: 2, positions: f3+l2, tied: false, epochs: 1}}",
    "twice": "coarse: {method: lora, rank: 2}, more: {method: lora, rank: 3, targets: [q_proj, up_proj], alpha: 5}",
}
GATHERED_ONLY = {
    "stacked": "one: {method: reft, rank: 2, positions: l4}, other: {method: reft, rank: 3, positions: l2}",
    "curved": "fine: {method: reft, rank: 2, positions: l2, activation: gelu, epochs: 1}",
}
OTHER_SITES = {
    "attention": f"{LORA}, fine: {{method: reft, rank: 2, positions: l3, site: attention, epochs: 1}}",
    "mlp": f"{LORA}, fine: {{method: reft, rank: 2, positions: f2+l3+, site: mlp, epochs: 1}}",
}
ENGINES = {
    "with the prefix cache": {"block_size": 32, "max_num_seqs": 32},
    "chunked, without the cache": {
        "block_size": 32,
        "enable_prefix_caching": False,
        "max_num_batched_tokens": 5,
        "max_num_seqs": 4,
    },
    "preempted": {"block_size": 32, "num_gpu_blocks_override": 12, "max_num_seqs": 16},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    vllm_python()
    return make_base(tmp_path_factory.mktemp("base") / "tiny-llama")


@pytest.fixture(scope="module")
def runs(tmp_path_factory, base):
    folder = tmp_path_factory.mktemp("runs")
    every = RUNS | GATHERED_ONLY | OTHER_SITES
    return {name: make_run(folder, name, stages, n, base=str(base)) for n, (name, stages) in enumerate(every.items())}


@pytest.fixture(scope="module")
def served(runs):
    """What is asked for, by name: the base, whole runs, and one run's coarse stage."""
    return {**runs, "two-coarse": f"{runs['two']}:coarse"}


@pytest.fixture(scope="module")
def expected(base, runs):
    """For each name: the greedy tokens by definition, and ln p of the choices, from `heft.load`."""
    models = {None: load_base(ModelSettings(name=str(base), device="cpu", dtype="float32")).model}
    models |= {name: heft.load(run)[0] for name, run in runs.items()}
    models["two-coarse"] = heft.load(runs["two"])[0]
    activate(models["two-coarse"], ["coarse"])
    found = {}
    for name, model in models.items():
        tokens = [likeliest(model, prompt, COUNT) for prompt in PROMPTS]
        found[name] = tokens, scores_by_definition(model, PROMPTS, CHOICES)
    return found


def _asked(names):
    for name in names:
        for prompt in PROMPTS:
            yield {"adapter": name, "prompt": prompt, "count": COUNT}
            yield from ({"adapter": name, "prompt": prompt, "choice": choice} for choice in CHOICES)


def _check(names, answers, expected):
    found = iter(answers)
    for name in names:
        tokens, scores = expected[name]
        for n in range(len(PROMPTS)):
            assert next(found) == tokens[n], (name, n)
            assert [next(found) for _ in CHOICES] == pytest.approx(scores[n], rel=1e-4, abs=2e-4), (name, n)


def test_every_adapter_changes_thelikeliest(expected):
    same = [(a, b) for a in expected for b in expected if a is not b and expected[a][0] == expected[b][0]]
    assert same == []


@pytest.mark.parametrize("options", ENGINES.values(), ids=ENGINES.keys())
def test_alone_and_mixed_give_what_heft_load_gives(tmp_path, base, served, expected, options):
    """One after the other, all in one batch, and once more, when the prefix cache has it all."""
    names = [None, *RUNS, *GATHERED_ONLY, "two-coarse"]
    adapters = {name: served[name] for name in names if name is not None}
    alone = [list(_asked([name])) for name in names]
    asked = [*alone, [each for batch in alone for each in batch], [each for batch in alone for each in batch]]
    found = in_vllm(tmp_path, base, asked, adapters, max_model_len=128, max_loras=len(adapters), **options)
    assert found["refused"] == {}
    for name, answers in zip(names, found["answers"], strict=False):
        _check([name], answers, expected)
    for answers in found["answers"][len(names) :]:
        _check(names, answers, expected)
    hits, preempted = (found["figures"][f"vllm:{name}"] for name in ("prefix_cache_hits", "num_preemptions"))
    assert (hits > 0) == options.get("enable_prefix_caching", True)
    assert (preempted > 0) == ("num_gpu_blocks_override" in options)


@pytest.mark.long
@pytest.mark.parametrize("name", sorted(CLASSES.keys() - {"Llama"}))
def test_each_class_of_layers_is_read_right(tmp_path, name):
    """That the state is the sum of what a layer returns, or is what it returns, and no other multiple of it."""
    vllm_python()
    base = make_base(tmp_path / "base", name)
    lora = LORA.replace("}", ", targets: [q_proj, v_proj, o_proj]}")
    run = make_run(tmp_path, "run", f"{lora}, fine: {{method: reft, rank: 4, positions: f2+l3+}}", base=str(base))
    model = heft.load(run)[0]
    alone = load_base(ModelSettings(name=str(base), device="cpu", dtype="float32")).model
    expected = [likeliest(model, prompt, 6) for prompt in PROMPTS], [likeliest(alone, prompt, 6) for prompt in PROMPTS]
    asked = [{"adapter": name, "prompt": p, "count": 6} for name in ("run", None) for p in PROMPTS]
    found = in_vllm(tmp_path, base, [asked], {"run": run}, max_model_len=128, block_size=32)
    assert found["answers"][0] == [*expected[0], *expected[1]]
    assert expected[0] != expected[1]


@pytest.mark.long
def test_two_ranks_give_the_same(tmp_path, base, served, expected):
    names = [None, *RUNS, "two-coarse"]
    adapters = {name: served[name] for name in names if name is not None}
    mixed = [each for each in _asked(names) if "count" in each]
    options = {"max_model_len": 128, "block_size": 32, "max_loras": 9, "tensor_parallel_size": 2}
    found = in_vllm(tmp_path, base, [mixed, mixed], adapters, **options)
    for answers in found["answers"]:
        assert answers == [tokens for name in names for tokens in expected[name][0]]


@pytest.mark.long
def test_fewer_slots_than_adapters_give_the_same(tmp_path, base, served, expected):
    names = [None, *RUNS]
    adapters = {name: served[name] for name in names if name is not None}
    mixed = list(_asked(names))
    found = in_vllm(tmp_path, base, [mixed, mixed], adapters, max_model_len=128, max_loras=2, block_size=32)
    for answers in found["answers"]:
        _check(names, answers, expected)


def test_masked_edits_give_what_gathered_ones_give(tmp_path, base, served, expected):
    """The arithmetic for CUDA graphs, on a CPU: fixed shapes, all tokens, a mask."""
    names = [None, *RUNS, "two-coarse"]
    adapters = {name: served[name] for name in [*names, *GATHERED_ONLY] if name is not None}
    found = in_vllm(
        tmp_path,
        base,
        [list(_asked(names))] * 2,
        adapters,
        max_model_len=128,
        max_loras=len(names),
        block_size=32,
        additional_config={"heft": {"masked": True}},
    )
    assert sorted(found["refused"]) == ["curved", "stacked"]
    assert "start vLLM with --enforce-eager" in found["refused"]["curved"]
    for answers in found["answers"]:
        _check(names, answers, expected)


def test_other_sites_are_served_where_the_model_was_prepared_for_them(tmp_path, base, served, expected):
    adapters = {name: served[name] for name in (*OTHER_SITES, "two")}
    options = {"max_model_len": 128, "block_size": 32}
    found = in_vllm(tmp_path, base, [list(_asked(["two"]))], adapters, **options)
    assert sorted(found["refused"]) == ["attention", "mlp"]
    assert '--additional-config \'{"heft": {"sites": ["block", "mlp"]}}\'' in found["refused"]["mlp"]
    _check(["two"], found["answers"][0], expected)
    config = {"heft": {"sites": ["attention", "block", "mlp"]}}
    mixed = list(_asked(adapters))
    found = in_vllm(tmp_path, base, [mixed], adapters, additional_config=config, **options)
    assert found["refused"] == {}
    _check(list(adapters), found["answers"][0], expected)


def test_a_longer_prompt_uses_no_block_whose_edits_are_others(tmp_path, base, served, runs):
    """A dialogue that goes on: a block of the first turn has tokens that are not the last ones any more."""
    names = ["some", "two", "onward", "first", "everywhere"]
    turns = {name: [] for name in names}
    for name in names:
        model = heft.load(runs[name])[0]
        for prompt in (PROMPTS[6], PROMPTS[7], (77,)):
            answer = likeliest(model, prompt, COUNT)
            longer = (*prompt, *answer, *range(10, 30))
            turns[name].append((prompt, answer, longer, likeliest(model, longer, COUNT)))
    every = [(name, turn) for name in names for turn in turns[name]]
    first = [{"adapter": name, "prompt": turn[0], "count": COUNT} for name, turn in every]
    second = [{"adapter": name, "prompt": turn[2], "count": COUNT} for name, turn in every]
    adapters = {name: served[name] for name in names}
    batches = [first, second, first, second]
    found = in_vllm(tmp_path, base, batches, adapters, block_size=32, max_model_len=128)
    for number, answers in enumerate(found["answers"]):
        assert answers == [turn[1 + 2 * (number % 2)] for _, turn in every], number
    assert found["figures"]["vllm:prefix_cache_hits"] > 0


def test_what_cannot_be_served_is_refused_with_the_reason(tmp_path, base, runs):
    made = {
        "placed": "coarse: {method: lora, rank: 2, positions: l4+}, fine: {method: reft, rank: 2, positions: l2+}",
        "dora": "coarse: {method: lora, rank: 2, dora: true}, fine: {method: reft, rank: 2, positions: l2}",
        "large": "coarse: {method: lora, rank: 20}, fine: {method: reft, rank: 2, positions: l2}",
    }
    paths = {name: make_run(tmp_path, name, stages, base=str(base)) for name, stages in made.items()}
    paths["other"] = make_run(
        tmp_path, "other", "fine: {method: reft, rank: 2, positions: l2, layers: [0]}", base=str(make_base_of(tmp_path))
    )
    paths["stage"], paths["nothing"] = f"{runs['two']}:nosuch", tmp_path / "nothing"
    paths["changed"] = Path(shutil.copytree(runs["two"], tmp_path / "changed"))
    weights = paths["changed"] / "fine" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\0")
    paths["unknown"] = forget_hashes(Path(shutil.copytree(runs["one"], tmp_path / "unknown")))
    config = paths["unknown"] / "fine" / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"positions": "the word yes"}))
    refused = in_vllm(tmp_path, base, [], paths, max_model_len=128)["refused"]
    wanted = {
        "placed": "coarse is a LoRA of some tokens ('l4+'), and vLLM's acts on all",
        "dora": "coarse uses DoRA",
        "large": "LoRA rank 20 is greater than max_lora_rank 16",
        "other": "whose hidden size is 64",
        "stage": "has no stage 'nosuch'; it has coarse, fine",
        "nothing": "No adapter found for",
        "changed": "is not what was written",
        "unknown": "positions",
    }
    assert {name: text in refused.get(name, "") for name, text in wanted.items()} == dict.fromkeys(wanted, True), (
        refused
    )


def make_base_of(folder):
    """Another base model, half as wide."""
    from heft.builtin import byte_tokenizer
    from tiny import tiny_model

    tiny_model().save_pretrained(folder / "narrow")
    byte_tokenizer().save_pretrained(folder / "narrow")
    return folder / "narrow"
