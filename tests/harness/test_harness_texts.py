"""Chats, generation settings and the harness's cache, with heft's model class."""

import lm_eval
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from harness.made_tasks import write_tasks
from heft.builtin import TINY
from heft.errors import HeftError
from heft.harness.generating import decoding_of
from heft.harness.model import HeftLM
from tiny import likeliest

TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}"
    "{% if not loop.last or add_generation_prompt %}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_SYSTEM = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + TEMPLATE


@pytest.fixture
def lm():
    return HeftLM(TINY, dtype="float32", device="cpu")


def generate(lm, *requests):
    return lm.generate_until([Instance("generate_until", {}, each, 0) for each in requests])


def test_a_chat_is_written_by_the_template_and_the_last_message_may_stay_open(lm):
    lm.tokenizer.chat_template = TEMPLATE
    history = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "It is"}]
    assert lm.apply_chat_template(history[:1]) == "<user>Who?\n<assistant>"
    assert lm.apply_chat_template(history, add_generation_prompt=False) == "<user>Who?\n<assistant>It is"


def test_a_template_without_system_messages_is_given_the_others(lm):
    lm.tokenizer.chat_template = NO_SYSTEM
    history = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Who?"}]
    assert lm.apply_chat_template(history) == "<user>Who?\n<assistant>"


def test_a_task_with_a_chat_template_scores_what_the_template_wrote(lm, tmp_path):
    lm.tokenizer.chat_template = TEMPLATE
    folder = write_tasks(tmp_path)
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    options = {"tasks": ["own_boolq"], "task_manager": manager, "bootstrap_iters": 0, "limit": 2}
    found = lm_eval.simple_evaluate(model=lm, apply_chat_template=True, system_instruction="Be short.", **options)
    context, continuation = found["samples"]["own_boolq"][0]["arguments"][0]
    assert context.startswith("<system>Be short.\n<user>The hall")
    assert context.endswith("\n<assistant>")
    ((score, _),) = lm.loglikelihood([Instance("loglikelihood", {}, (context, continuation), 0)])
    assert found["samples"]["own_boolq"][0]["resps"][0][0][0] == pytest.approx(score, abs=1e-4)


def test_texts_are_what_greedy_decoding_gives_and_end_before_a_stop_string(lm):
    prompt = "Question: who?\nAnswer:"
    ids = likeliest(lm.model, lm.tok_encode(prompt), 8)
    whole = lm.tokenizer.decode(ids, skip_special_tokens=True)
    first, cut, two = generate(
        lm,
        (prompt, {"max_gen_toks": 8}),
        (prompt, {"max_gen_toks": 8, "until": [whole[3]]}),
        (prompt, {"max_gen_toks": 2}),
    )
    assert first == whole
    assert cut == whole[: whole.index(whole[3])]
    assert two == lm.tokenizer.decode(ids[:2], skip_special_tokens=True)


def test_a_context_is_cut_at_the_left_where_the_text_needs_the_room():
    lm = HeftLM(TINY, dtype="float32", device="cpu", max_length=20)
    long = "0123456789" * 3
    assert generate(lm, (long, {"max_gen_toks": 5})) == generate(lm, (long[-15:], {"max_gen_toks": 5}))
    with pytest.raises(HeftError, match="max_gen_toks 20 leaves no room for a context: the model reads 20"):
        generate(lm, (long, {"max_gen_toks": 20}))


def test_draws_differ_between_repeats_and_repeat_with_torchs_seed(lm):
    request = ("Who?", {"do_sample": True, "temperature": 2.0, "max_gen_toks": 12})
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(generate(lm, request, request))
    assert drawn[0] == drawn[1]
    assert drawn[0][0] != drawn[0][1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"top_pp": 0.5, "nonsense": 1}, r"'top_pp' is no entry of .*did you mean 'top_p'.*'nonsense' is no entry"),
        ({"max_length": 9}, "max_length is not taken; lengths are set by max_gen_toks"),
        ({"max_gen_toks": 0}, "max_gen_toks must be at least 1; got 0"),
        ({"do_sample": True, "temperature": 0.0}, "do_sample needs a temperature above 0"),
        ({"until": [3]}, "until must be a text or a list of texts"),
    ],
)
def test_generation_settings_that_are_wrong_are_named(given, message):
    with pytest.raises(HeftError, match=message):
        decoding_of(given)


def test_the_harnesss_cache_answers_a_second_time_without_the_model(lm, tmp_path, monkeypatch):
    folder = write_tasks(tmp_path / "tasks")
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    names = ["own_boolq", "own_texts", "own_generated"]
    options = {"tasks": names, "task_manager": manager, "bootstrap_iters": 0, "use_cache": str(tmp_path / "cache")}
    first = lm_eval.simple_evaluate(model=lm, **options)["results"]

    def no_pass(*args, **kwargs):
        raise AssertionError("the model runs")

    monkeypatch.setattr(lm.model, "forward", no_pass)
    assert lm_eval.simple_evaluate(model=lm, **options)["results"] == first
