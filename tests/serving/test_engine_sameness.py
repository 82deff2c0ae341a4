"""The engine gives what `heft.load` gives, whatever else is in the batch."""

import pytest
from serve_making import (
    LORA,
    TAIL,
    engine_of,
    generation,
    make_run,
    outcomes,
    scores_by_definition,
    scores_of,
    scoring,
    tokens_of,
)

import heft
from heft.adapters.attach import activate
from heft.models.load import Base, load_base
from heft.serving.catalog import Catalog
from heft.serving.engine import Engine
from heft.serving.limits import Limits
from tiny import byte_tokenizer, likeliest, tiny_model

SHARED = tuple(range(40, 90))
PROMPTS = [tuple((7 * i + 13 * k) % 250 + 4 for i in range(9 + 11 * k)) for k in range(3)] + [
    (*SHARED, *range(100 + k, 108 + k)) for k in range(3)
]
CHOICES = ((70, 71), (80,), (90, 91, 92))
RUNS = {
    "two": f"{LORA}, {TAIL}",
    "head": "fine: {method: reft, rank: 2, positions: f3+l2, tied: false, epochs: 1}",
    "everywhere": "fine: {method: reft, rank: 2, positions: all, epochs: 1}",
    "onward": "coarse: {method: lora, rank: 2, positions: l4+}, fine: {method: reft, rank: 2, positions: l2+}",
    "stacked": "one: {method: reft, rank: 2, positions: l4}, other: {method: reft, rank: 3, positions: l2}",
    "dora": "coarse: {method: lora, rank: 2, dora: true}, fine: {method: reft, rank: 2, positions: l2}",
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return {name: make_run(folder, name, stages, seed) for seed, (name, stages) in enumerate(RUNS.items())}


@pytest.fixture(scope="module")
def engine(runs):
    engine = engine_of(*runs.values())
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def expected(runs, engine):
    """For each name: the greedy tokens by definition, and ln p of the choices, from `heft.load` alone."""
    found = {}
    for name, served in engine.catalog.served.items():
        if served.directory is None:
            model = load_base(engine.catalog.base.settings).model
        else:
            model, _ = heft.load(runs[name.partition(":")[0]])
            activate(model, [each.partition("_")[2] for each in served.adapters])
        found[name] = [likeliest(model, prompt, 6) for prompt in PROMPTS], scores_by_definition(model, PROMPTS, CHOICES)
    return found


def _works(engine, names):
    for name in names:
        for prompt in PROMPTS:
            yield generation(engine, name, prompt, 6), scoring(engine, name, prompt, CHOICES)


def _check(engine, names, expected):
    pairs = list(_works(engine, names))
    found = iter(outcomes(engine, [work for pair in pairs for work in pair]))
    for name in names:
        tokens, scores = expected[name]
        for n in range(len(PROMPTS)):
            assert tokens_of(next(found)) == tokens[n], (name, n)
            assert scores_of(next(found)) == pytest.approx(scores[n], rel=1e-4, abs=1e-4), (name, n)


def test_every_stage_of_every_run_changes_the_tokens(expected):
    assert len({str(tokens) for tokens, _ in expected.values()}) == len(expected)


def test_all_models_in_one_batch_give_what_each_gives_alone(engine, expected):
    before = engine.counts.mixed
    _check(engine, list(expected), expected)
    assert engine.counts.mixed > before
    assert engine.fast.why_not is None  # so adapters of ranks 2 and 4, of all tokens and of the last, were stacked


def test_each_model_alone_gives_what_heft_load_gives(engine, expected):
    for name in expected:
        _check(engine, [name], expected)


def test_a_kind_that_acts_on_whole_weights_has_passes_of_its_own(engine):
    alone = {name for name, served in engine.catalog.served.items() if served.alone}
    assert alone == {"dora", "dora:coarse"}


@pytest.mark.parametrize(
    "options",
    [
        {"prefix_bytes": 0},
        {"mixes": False},
        {"prefill": 1},
        {"chunk": 7},
        {"chunk": 5, "prefix_bytes": 0},
        {"batch": 1},
        {"fast": False},
    ],
    ids=str,
)
def test_prefixes_mixing_and_limits_change_no_token(runs, expected, options):
    engine = engine_of(runs["two"], runs["head"], runs["onward"], **options)
    _check(engine, [name for name in expected if name in engine.catalog.served], expected)
    assert engine.counts.mixed == 0 or options != {"mixes": False}
    assert engine.prefixes.bytes == 0 or options != {"prefix_bytes": 0}
    engine.close()


def test_a_prefix_is_computed_once_for_all_adapters_that_begin_later(runs, expected):
    engine = engine_of(runs["onward"], runs["stacked"])
    names = ["random:tiny-llama", "onward", "stacked"]
    prompt = PROMPTS[3]
    found = outcomes(engine, [generation(engine, name, prompt, 6) for name in names])
    assert [tokens_of(each) for each in found] == [expected[name][0][3] for name in names]
    assert engine.prefixes.hits == 2 * 48, "48 of 58 tokens are whole blocks before the last 4"
    engine.close()


def test_a_prefix_that_an_adapter_acts_on_is_not_given_to_others(runs, expected):
    engine = engine_of(runs["two"], runs["head"])
    for name in ("two", "head", "random:tiny-llama"):
        assert tokens_of(outcomes(engine, [generation(engine, name, PROMPTS[3], 6)])[0]) == expected[name][0][3]
    assert engine.prefixes.hits == 0
    assert tokens_of(outcomes(engine, [generation(engine, "two:coarse", PROMPTS[3], 6)])[0])
    assert engine.prefixes.hits == 48, "LoRA of all tokens is the same before the last 3 with and without ReFT"
    engine.close()


def test_memory_for_prefixes_is_bounded_and_the_oldest_go_first(runs, expected):
    engine = engine_of(runs["two"], prefix_bytes=30_000)
    for prompt in PROMPTS * 2:
        outcomes(engine, [generation(engine, "two", prompt, 2)])
        assert engine.prefixes.bytes <= 30_000
    assert engine.prefixes.bytes
    engine.close()


@pytest.mark.parametrize("architecture", ["gemma3", "gpt2", "mistral"])
def test_models_with_sliding_windows_and_learned_positions_give_the_tokens_of_whole_passes(architecture):
    from heft.recipe.model import ModelSettings

    model = tiny_model(architecture)
    engine = Engine(Catalog(Base(model, byte_tokenizer(), ModelSettings(name="tiny"), "-")), Limits()).start()
    for _ in range(2):  # the second time prefixes are known
        found = outcomes(engine, [generation(engine, "tiny", prompt, 8) for prompt in PROMPTS])
        assert [tokens_of(each) for each in found] == [likeliest(model, list(prompt), 8) for prompt in PROMPTS]
    assert engine.prefixes.hits
    engine.close()


def test_fast_ways_are_taken_and_left_where_they_give_something_else(runs, expected, monkeypatch):
    from heft.serving.branches import ServedLinear

    def packed(engine):
        engine.call(lambda: None).result(30)
        return sum(isinstance(module, ServedLinear) for module in engine.catalog.model.modules())

    engine = engine_of(runs["two"])
    assert packed(engine)
    assert engine.fast.why_not is None
    engine.close()
    forward = ServedLinear.forward
    monkeypatch.setattr(ServedLinear, "forward", lambda self, x, *args: forward(self, x, *args) * 1.5)
    notes = []
    engine = engine_of(runs["two"], note=notes.append)
    assert packed(engine) == 0
    assert "differs from the plain path" in engine.fast.why_not
    assert notes == [f"fused is off, PEFT's own layers compute: {engine.fast.why_not}"]
    _check(engine, ["two", "two:coarse", "random:tiny-llama"], expected)
    engine.close()


def test_fast_ways_are_tried_with_every_model_however_many_there_are(runs, monkeypatch):
    engine = engine_of(runs["two"])
    for number in range(4):
        engine.call(lambda number=number: engine.catalog.load(runs["two"], f"again-{number}")).result(60)
    assert len(engine.catalog.served) == 11  # each with its coarse stage alone, and the base
    tried, whole = set(), engine._passes.whole

    def seen(rows):
        tried.update(row.served.name for row in rows)
        return whole(rows)

    monkeypatch.setattr(engine._passes, "whole", seen)
    engine.call(lambda: None).result(60)
    assert engine.fast.why_not is None
    assert tried == set(engine.catalog.served)
    engine.close()
