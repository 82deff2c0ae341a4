"""What is generated is the likeliest token, whatever the base's generation_config.json asks for."""

import pytest
from transformers import GenerationConfig

import tiny
from heft.builtin import TINY
from heft.evaluation.generation import generate_texts
from heft.models.load import load_base
from heft.recipe.model import ModelSettings

OWN = {
    "penalty": {"repetition_penalty": 5.0},
    "beams": {"num_beams": 3, "length_penalty": 2.0},
    "no repeats": {"no_repeat_ngram_size": 1},
    "suppressed": {"suppress_tokens": list(range(3, 120))},
    "least length": {"min_new_tokens": 4},
    "sampling": {"do_sample": True, "temperature": 5.0},
    "most length": {"max_length": 3},
}
PROMPTS = [[70, 71, 72, 73], [80, 81]]


@pytest.mark.parametrize("options", OWN.values(), ids=OWN)
def test_the_models_own_generation_settings_change_nothing_and_are_put_back(options):
    base = load_base(ModelSettings(name=TINY, device="cpu"))
    own = base.model.generation_config = GenerationConfig(**options)
    texts = generate_texts(base.model, base.tokenizer, PROMPTS, batch_size=2, max_new_tokens=8)
    expected = [tiny.likeliest(base.model, prompt, 8) for prompt in PROMPTS]
    assert texts == [base.tokenizer.decode(ids, skip_special_tokens=True) for ids in expected]
    assert base.model.generation_config is own
    assert own.to_diff_dict().items() >= options.items()


def test_settings_are_put_back_where_generation_fails(monkeypatch):
    base = load_base(ModelSettings(name=TINY, device="cpu"))
    own = base.model.generation_config
    monkeypatch.setattr(base.model, "generate", lambda **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        generate_texts(base.model, base.tokenizer, PROMPTS, batch_size=2, max_new_tokens=8)
    assert base.model.generation_config is own


def test_a_text_that_reaches_the_limit_is_told_and_one_that_ends_in_a_token_or_a_stop_string_is_not():
    base = load_base(ModelSettings(name=TINY, device="cpu"))
    ids = [tiny.likeliest(base.model, prompt, 8) for prompt in PROMPTS]
    assert ids[0][:4] != ids[1][:4]

    def cut(**options):
        heard = []
        generate_texts(base.model, base.tokenizer, PROMPTS, batch_size=2, on_cut=heard.append, **options)
        return sorted(heard)

    assert cut(max_new_tokens=8) == [0, 1]
    only_first = next(token for token in ids[0] if token not in ids[1])
    assert cut(max_new_tokens=8, answer_end=only_first) == [1]
    assert cut(max_new_tokens=8, stop=[base.tokenizer.decode(ids[0])]) == [1]


def test_a_stop_string_that_begins_in_the_prompt_ends_no_text_and_one_in_a_text_ends_its_generation(monkeypatch):
    base = load_base(ModelSettings(name=TINY, device="cpu"))
    generate, made = base.model.generate, []

    def recording(**options):
        made.append(generate(**options))
        return made[-1]

    monkeypatch.setattr(base.model, "generate", recording)

    def texts(*stop):
        return generate_texts(base.model, base.tokenizer, PROMPTS[:1], batch_size=2, max_new_tokens=8, stop=stop)

    (free,) = texts()
    across = base.tokenizer.decode(PROMPTS[0])[-1] + free[0]
    assert across not in free
    assert texts(across) == [free]
    assert texts(free[2]) == [free[: free.index(free[2])]]
    prompt = len(PROMPTS[0])
    assert [output.shape[1] - prompt for output in made] == [8, 8, free.index(free[2]) + 1]
