"""Requests join, leave, wait and end; adapters come and go; nothing else is disturbed."""

import queue
import threading
import time

import pytest
from serve_making import LORA, TAIL, engine_of, generation, make_run, outcomes, scores_of, scoring, tokens_of

from heft.errors import HeftError
from heft.evaluation.generation import generate_texts
from heft.models.load import load_base
from heft.serving import forward
from heft.serving.engine import Ended, Engine, QueueFull
from heft.serving.limits import Limits
from heft.serving.requests import Failed, Finished, Piece
from tolerance import rounded

BASE = "random:tiny-llama"
PROMPT = tuple(range(60, 90))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("runs"), "two", f"{LORA}, {TAIL}")


@pytest.fixture(scope="module")
def engine(run):
    engine = engine_of(run)
    yield engine
    engine.close()


def _begin(engine, name=BASE, **options):
    """A long text, and its events once it has begun."""
    work, events = (
        generation(engine, name, PROMPT, **{"max_tokens": 100_000, "wants_pieces": True, **options}),
        queue.Queue(),
    )
    work.tell = events.put
    engine.submit([work])
    assert isinstance(events.get(timeout=30), Piece)
    return work, events


def _last(events):
    while isinstance(event := events.get(timeout=30), Piece):
        pass
    return event


def _until(condition):
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not become so within ten seconds")


def test_texts_join_and_leave_while_another_goes_on(engine):
    alone = tokens_of(outcomes(engine, [generation(engine, "two", PROMPT[:20], 8)])[0])
    work, _ = _begin(engine)
    for _ in range(3):
        assert tokens_of(outcomes(engine, [generation(engine, "two", PROMPT[:20], 8)])[0]) == alone
    assert engine.running == 1
    work.cancel()
    _until(lambda: engine.running == 0)


def test_a_long_prompt_is_computed_in_rounds_in_which_others_go_on(run):
    engine, long = engine_of(run, chunk=8, prefix_bytes=0), tuple(range(30, 230)) * 2
    alone = tokens_of(outcomes(engine, [generation(engine, "two", long, 4)])[0])
    passes, tokens = engine.counts.passes, engine.counts.prompt_tokens
    assert (passes, tokens) == (len(long) / 8 + 3, len(long))
    work, events = _begin(engine, "two")
    before, drained = engine.counts.passes, events.qsize()
    assert tokens_of(outcomes(engine, [generation(engine, "two", long, 4)])[0]) == alone
    assert engine.counts.passes - before >= 2 * len(long) / 8
    assert events.qsize() - drained >= len(long) / 8
    score = scoring(engine, "two", long, [(65, 66), (67,)])
    one, whole = outcomes(engine, [score])[0], engine_of(run, chunk=10_000, prefix_bytes=0)
    assert scores_of(one) == rounded(scores_of(outcomes(whole, [scoring(whole, "two", long, [(65, 66), (67,)])])[0]))
    whole.close()
    work.cancel()
    _until(lambda: engine.running == 0)
    engine.close()


def test_what_follows_a_shared_prefix_is_computed_in_its_round_unless_the_prefix_takes_several(run):
    engine, prompt = engine_of(run), tuple(range(30, 130))
    alone = [outcomes(engine, [generation(engine, BASE, (*prompt, n), 2)]) for n in range(3)]
    engine.close()
    for chunk, passes, waiting in ((512, 2, 0), (16, 1, 3)):
        idle = Engine(engine.catalog, Limits(chunk=chunk), fast=False)  # whose rounds are taken here
        events = [queue.Queue() for _ in range(3)]
        works = [generation(idle, BASE, (*prompt, n), 2) for n in range(3)]
        for work, told in zip(works, events, strict=True):
            work.tell = told.put
        idle.submit(works)
        idle._take(block=False)
        idle._begin()
        assert (idle.counts.passes, len(idle._waiting)) == (passes, waiting)
        assert idle.prefixes.hits == (2 * 96 if chunk == 512 else 0)
        while idle._waiting or idle._lanes:
            idle._begin()
            idle._go_on()
        assert [tokens_of(([told.get()], told.get())) for told in events] == [tokens_of(each) for (each,) in alone]


def test_texts_of_one_length_have_a_mask_on_a_cpu(engine, monkeypatch):
    """One of ones alone is left out by transformers."""
    run, masks = forward.logits_of, []

    def looked_at(model, keep, **inputs):
        if inputs["input_ids"].shape[1] == 1:
            masks.append(inputs["attention_mask"])
        return run(model, keep, **inputs)

    monkeypatch.setattr(forward, "logits_of", looked_at)
    outcomes(engine, [generation(engine, BASE, (*PROMPT, n), 6 + n) for n in range(3)])
    assert len(masks) >= 5
    assert not any(mask.all() for mask in masks)


def test_a_long_prompt_that_is_given_up_on_its_way_leaves_nothing(run):
    engine, long = engine_of(run, chunk=1, prefix_bytes=0), tuple(range(30, 230)) * 2
    work = generation(engine, "two", long, 4)
    engine.submit([work])
    _until(lambda: engine._begun)
    work.cancel()
    _until(lambda: engine.waiting == 0)
    assert not engine._begun
    engine.close()


def test_a_seed_gives_the_same_draws_beside_others_as_alone(engine):
    def drawn(seed, beside=0):
        works = [generation(engine, "two", PROMPT, 10, temperature=0.9, top_p=0.8, seed=seed)]
        works += [generation(engine, BASE, PROMPT[n:], 10, temperature=1.0, seed=n) for n in range(beside)]
        return tokens_of(outcomes(engine, works)[0])

    assert drawn(3) == drawn(3, beside=5)
    assert drawn(3) != drawn(4)


def test_texts_end_at_stop_strings_as_heft_generate_ends_them(engine):
    base = load_base(engine.catalog.base.settings)
    whole = generate_texts(base.model, base.tokenizer, [PROMPT], batch_size=1, max_new_tokens=30)[0]
    stop = whole[6:8]
    wanted = generate_texts(base.model, base.tokenizer, [PROMPT], batch_size=1, max_new_tokens=30, stop=[stop])[0]
    for pieces_wanted in (False, True):
        work = generation(engine, BASE, PROMPT, 30, stop=[stop], ignore_ends=False, wants_pieces=pieces_wanted)
        pieces, last = outcomes(engine, [work])[0]
        assert "".join(piece.text for piece in pieces) == wanted
        assert last == Finished("stop")


def test_what_may_become_a_stop_string_or_a_character_is_held_back(engine):
    from heft.serving.texts import GrowingText

    tokenizer = engine.catalog.tokenizer
    text = GrowingText(tokenizer, (), ["END"])
    shown = []
    for token in tokenizer("aé E ENDx", add_special_tokens=False)["input_ids"]:
        text.add(token)
        shown.append(text.take())
    assert "".join(shown) == "aé E "
    assert "\ufffd" not in "".join(shown)
    assert text.has_stopped
    assert text.take(is_last=True) == ""


def test_log_probabilities_name_the_token_and_the_likeliest(engine):
    pieces, _ = outcomes(engine, [generation(engine, "two", PROMPT, 5, top=3)])[0]
    for chosen in (chosen for piece in pieces for chosen in piece.tokens):
        assert chosen.top[0] == (chosen.token, chosen.log_probability)
        assert [value for _, value in chosen.top] == sorted((value for _, value in chosen.top), reverse=True)
        assert len(chosen.top) == 3


def test_a_full_queue_takes_all_of_a_request_or_nothing(run):
    engine = engine_of(run, batch=1, queue=1)
    work, events = _begin(engine)
    with pytest.raises(QueueFull, match="ask again later"):
        engine.submit([generation(engine, BASE, PROMPT, 1) for _ in range(2)])
    _until(lambda: engine.running == 1 and engine.waiting == 0)
    work.cancel()
    _until(lambda: engine.running == 0)
    assert len(tokens_of(outcomes(engine, [generation(engine, BASE, PROMPT, 1)])[0])) == 1
    engine.close()


def test_a_request_that_takes_too_long_ends_waiting_or_running(run):
    engine = engine_of(run, batch=1)
    _, events = _begin(engine, seconds=1.0)
    pieces, last = outcomes(engine, [generation(engine, BASE, PROMPT, 5, seconds=0.2)])[0]
    assert isinstance(last, Failed)
    assert last.kind == "timeout"
    assert _last(events).kind == "timeout"
    engine.close()


def test_adapters_come_and_go_while_texts_run(tmp_path, run):
    engine = engine_of(run)
    other = make_run(tmp_path, "late", TAIL, seed=9)
    before = tokens_of(outcomes(engine, [generation(engine, "two", PROMPT, 8)])[0])
    work, events = _begin(engine, "two:coarse")
    engine.call(lambda: engine.catalog.load(other)).result(30)
    late, two = outcomes(engine, [generation(engine, name, PROMPT, 8) for name in ("late", "two")])
    assert tokens_of(two) == before != tokens_of(late)
    engine.unload("late").result(30)
    assert engine.catalog.find("late") is None
    assert work in [text.work for lane in engine._lanes.values() for text in lane.texts]
    assert tokens_of(outcomes(engine, [generation(engine, "two", PROMPT, 8)])[0]) == before
    engine.call(lambda: engine.catalog.load(other, "again")).result(30)
    assert tokens_of(outcomes(engine, [generation(engine, "again", PROMPT, 8)])[0]) == tokens_of(late)
    work.cancel()
    engine.close()


def test_an_adapter_whose_text_runs_leaves_after_it_and_others_go_on_meanwhile(tmp_path, run):
    engine = engine_of(run)
    engine.call(lambda: engine.catalog.load(make_run(tmp_path, "late", TAIL, seed=9))).result(30)
    late = engine.catalog.find("late")
    work, events = _begin(engine, "late")
    unloaded = engine.unload("late")
    assert len(tokens_of(outcomes(engine, [generation(engine, "two", PROMPT, 3)])[0])) == 3
    assert not unloaded.done()
    assert engine.catalog.find("late") is late  # which still computes its text, and takes no other
    assert isinstance(outcomes(engine, [generation(engine, "late", PROMPT, 1)])[0][1], Failed)
    with pytest.raises(HeftError, match="'late' is being unloaded already"):
        engine.unload("late").result(30)
    work.cancel()
    unloaded.result(30)
    assert engine.catalog.find("late") is None
    with pytest.raises(HeftError, match="no adapter directory is loaded as 'late'"):
        engine.unload("late").result(30)
    engine.close()


def test_who_waits_for_a_call_may_leave_and_nothing_else_ends(tmp_path, run):
    engine = engine_of(run)
    work, events = _begin(engine, "two")
    for waited_for in (engine.unload("two"), engine.call(lambda: None)):
        assert not waited_for.cancel()  # as a client that leaves asks for
    assert isinstance(events.get(timeout=30), Piece)
    work.cancel()
    _until(lambda: engine.catalog.find("two") is None)
    assert len(tokens_of(outcomes(engine, [generation(engine, BASE, PROMPT, 2)])[0])) == 2
    engine.close()


def test_a_server_that_ends_tells_who_waits_for_an_adapter_to_leave(run):
    engine = engine_of(run)
    _begin(engine, "two")
    unloaded = engine.unload("two")
    engine.close(0.1)
    with pytest.raises(HeftError, match="the server is ending"):
        unloaded.result(30)


def test_what_cannot_be_loaded_leaves_all_as_it_was(tmp_path, run, engine):
    names = list(engine.catalog.served)
    for given, name, reason in (
        (run, None, "is served already"),
        (run, "a/b", "cannot be a name"),
        (tmp_path, "x", "is not an adapter directory"),
    ):
        with pytest.raises(HeftError, match=reason):
            engine.call(lambda given=given, name=name: engine.catalog.load(given, name)).result(30)
    assert list(engine.catalog.served) == names


@pytest.mark.parametrize(
    ("method", "damage", "reason"),
    [("lora", lambda key, value: value * float("nan"), "NaN"), ("reft", lambda key, value: value * 0, "full rank")],
)
def test_damaged_adapters_are_refused_and_gone(tmp_path, engine, method, damage, reason):
    from safetensors.torch import load_file, save_file

    from tiny import forget_hashes

    directory = make_run(tmp_path, "bad", LORA if method == "lora" else TAIL)
    path = next(directory.glob("*/adapter_model.safetensors"))
    tensors = {k: damage(k, v) if "rotation" in k or method == "lora" else v for k, v in load_file(path).items()}
    save_file(tensors, path)
    forget_hashes(directory)
    carried, before = list(engine.catalog.model.peft_config), tokens_of(outcomes(engine, [_two(engine)])[0])
    with pytest.raises(HeftError, match=reason):
        engine.call(lambda: engine.catalog.load(directory)).result(30)
    assert list(engine.catalog.model.peft_config) == carried
    assert tokens_of(outcomes(engine, [_two(engine)])[0]) == before


def _two(engine):
    return generation(engine, "two", PROMPT, 6)


def _damaged(engine):
    return generation(engine, "two", (*PROMPT[:-1], 10**6), 4)  # an id without an embedding


def test_a_damaged_text_ends_alone_although_others_share_its_pass(engine):
    alone = tokens_of(outcomes(engine, [_two(engine)])[0])
    good, bad, other = outcomes(engine, [_two(engine), _damaged(engine), generation(engine, BASE, PROMPT, 4)])
    assert isinstance(bad[1], Failed)
    assert tokens_of(good) == alone
    assert len(tokens_of(other)) == 4


def test_a_request_of_several_rows_that_fails_ends_once_and_leaves_no_place_taken(engine):
    work = scoring(engine, "two", (*PROMPT[:-1], 10**6), [(60, 61), (62, 63), (64, 65)])
    events = queue.Queue()
    work.tell = events.put
    engine.submit([work])
    assert isinstance(events.get(timeout=30), Failed)
    tokens_of(outcomes(engine, [_two(engine)])[0])  # the rows that were left have had their turn
    assert events.empty()
    assert engine.waiting == engine.running == 0


@pytest.mark.parametrize("temperature", [1e-30, 1e-40, 5e-324])
def test_the_smallest_temperature_takes_the_likeliest_token(engine, temperature):
    found = outcomes(engine, [generation(engine, "two", PROMPT, 6, temperature=temperature, seed=1), _two(engine)])
    assert tokens_of(found[0]) == tokens_of(found[1])


@pytest.mark.parametrize("place", ["join", "step"])
def test_an_error_in_a_lane_ends_its_texts_and_frees_their_places(engine, monkeypatch, place):
    with monkeypatch.context() as patch:
        patch.setattr(f"heft.serving.lane.Lane.{place}", lambda *args: 1 / 0)
        (_, event), (_, other) = outcomes(engine, [_two(engine), _two(engine)])
    assert isinstance(event, Failed)
    assert isinstance(other, Failed)
    _until(lambda: engine.waiting == engine.running == 0)
    assert len(tokens_of(outcomes(engine, [_two(engine)])[0])) == 6


def test_a_fault_that_ends_the_engine_itself_leaves_nobody_waiting(run, monkeypatch):
    engine = engine_of(run)
    _, events = _begin(engine)
    _until(lambda: engine.counts.new_tokens)  # its round has begun, in which no more requests are taken
    monkeypatch.setattr(engine, "_take", lambda block: 1 / 0)
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    assert _last(events).kind == "stopped"
    engine._thread.join(30)
    with pytest.raises(Ended):
        engine.submit([generation(engine, BASE, PROMPT, 1)])


def test_close_finishes_what_runs_and_takes_nothing_more(run):
    engine = engine_of(run)
    _, events = _begin(engine, max_tokens=200)
    closing = threading.Thread(target=engine.close)
    closing.start()
    assert isinstance(_last(events), Finished)
    closing.join(30)
    assert not engine.is_alive
    with pytest.raises(Ended):
        engine.submit([generation(engine, BASE, PROMPT, 1)])


def test_close_leaves_the_layers_that_peft_made(run):
    engine = engine_of(run)
    tokens_of(*outcomes(engine, [generation(engine, "two", PROMPT)]))
    engine.close()
    kinds = {type(layer).__module__ for layer in engine.catalog.model.modules() if hasattr(layer, "lora_A")}
    assert kinds == {"peft.tuners.lora.layer"}


def test_close_gives_up_what_takes_too_long(run):
    engine = engine_of(run)
    _, events = _begin(engine, max_tokens=100_000)
    engine.close(seconds=0.2)
    assert _last(events).kind == "stopped"


def test_scores_of_a_text_itself_count_positions_from_the_prompt_given(engine):
    whole = outcomes(engine, [scoring(engine, "two", PROMPT[:20], (PROMPT[20:],))])[0][1].scores[0]
    itself = outcomes(engine, [scoring(engine, "two", PROMPT[:1], (PROMPT[1:],), prompt_length=20)])[0][1].scores[0]
    as_one = outcomes(engine, [scoring(engine, "two", PROMPT[:1], (PROMPT[1:],), prompt_length=30)])[0][1].scores[0]
    values = [[each.log_probability for each in score[-10:]] for score in (whole, itself, as_one)]
    assert values[1] == pytest.approx(values[0], abs=1e-4)
    assert values[2] != pytest.approx(values[0], abs=1e-2)
