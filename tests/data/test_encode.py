"""Examples → token ids and batches."""

from dataclasses import replace

import pytest
import torch
from tokenizers import normalizers

import tiny
from heft.data.encode import IGNORED, UNCUT_HEAD, Encoder, left_pad, training_batch
from heft.edits.positions import Positions
from heft.errors import HeftError
from heft.tasks import load_examples
from heft.tasks.example import choice_example, generation_example
from heft.tasks.rows import RowsSettings

TOKENIZER = tiny.byte_tokenizer()
HEAD = "The head of the text. "


def question(passage: str, options=("yes", "no")):
    return choice_example("t", f"{passage} Answer:", options, 0)


def test_an_answer_to_be_generated_ends_in_the_end_token_and_a_choice_does_not():
    generated, chosen = Encoder(TOKENIZER, 64)([generation_example("t", "Q:", " 12", "12"), question("Q")])
    assert TOKENIZER.decode(generated.answer[:-1]) == " 12"
    assert generated.answer[-1] == TOKENIZER.eos_token_id
    assert TOKENIZER.decode(chosen.answer) == " yes"
    assert [TOKENIZER.decode(choice) for choice in chosen.choices] == [" yes", " no"]


def test_a_long_prompt_loses_its_middle_and_the_cut_is_counted():
    example = question(HEAD + "x" * 200 + " end")
    (encoded,) = Encoder(TOKENIZER, 64)([example])
    whole = TOKENIZER(example.prompt)["input_ids"]
    assert len(encoded.prompt) + max(map(len, encoded.choices)) == 64
    assert encoded.cut == len(whole) - len(encoded.prompt)
    assert encoded.prompt[:UNCUT_HEAD] == tuple(whole[:UNCUT_HEAD])
    assert encoded.prompt[UNCUT_HEAD:] == tuple(whole[len(whole) - (64 - 4 - UNCUT_HEAD) :])
    assert TOKENIZER.decode(encoded.answer) == " yes"


def test_edited_positions_at_both_ends_survive_the_cut():
    example = question(HEAD + "x" * 200 + " end")
    whole = TOKENIZER(example.prompt)["input_ids"]
    (encoded,) = Encoder(TOKENIZER, 64, positions=[Positions(first=30, last=20)])([example])
    assert encoded.prompt[:30] == tuple(whole[:30])
    assert encoded.prompt[-20:] == tuple(whole[-20:])


def test_a_limit_without_room_for_what_is_never_cut_is_an_error():
    with pytest.raises(HeftError, match=r"max_length 32 is too small.* first 30 and the last 1 "):
        Encoder(TOKENIZER, 32, positions=[Positions(first=30)])([question("x" * 100)])


def test_a_prompt_shorter_than_the_edited_positions_of_any_adapter_is_an_error():
    encode = Encoder(TOKENIZER, 64, positions=[Positions(last=1), Positions(first=7, last=7), Positions(first=2)])
    assert len(encode([question("Q12345")])[0].prompt) == 14
    with pytest.raises(HeftError, match="shorter than the 14 positions"):
        encode([question("Q1234")])


def test_a_prompt_of_one_token_is_one():
    assert len(Encoder(TOKENIZER, 64)([generation_example("t", "Q", " a", "a")])[0].prompt) == 1


def test_inputs_have_one_fingerprint_only_where_prompt_and_choices_are_the_same():
    asked = [question("A"), question("B"), question("A", ("yes", "perhaps")), question("A")]
    first, other, choices, again = (row.fingerprint for row in Encoder(TOKENIZER, 64)(asked))
    assert len({first, other, choices}) == 3
    assert again == first


def test_a_chat_template_is_refused_where_the_tokenizer_has_none():
    with pytest.raises(HeftError, match="no chat template"):
        Encoder(TOKENIZER, 64, chat_template=True)([question("Q")])


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("{{ raise_exception('roles must\\nalternate') }}", "TemplateError: roles must. Fix"),
        ("{% if %}", "TemplateSyntaxError: "),
        ("{{ messages[0].nothing.more }}", "UndefinedError: "),
        ("{{ messages[0].content + 1 }}", "TypeError: "),
        ("{{ 1 / 0 }}", "ZeroDivisionError: "),
    ],
)
def test_a_chat_template_that_fails_is_said_in_words_with_the_prompt(template, told):
    tokenizer = tiny.byte_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(HeftError, match=f"chat template .* cannot wrap a user's turn: {told}") as caught:
        Encoder(tokenizer, 64, chat_template=True)([question("Q")])
    assert str(caught.value).endswith("the prompt was 'Q Answer:'")
    assert "\n" not in str(caught.value)


def test_a_chat_template_wraps_the_prompt_and_the_answer_loses_its_space():
    tokenizer = tiny.byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
    )
    (encoded,) = Encoder(tokenizer, 64, chat_template=True)([question("Q")])
    assert tokenizer.decode(encoded.prompt) == "<user>Q Answer:<bot>"
    assert tokenizer.decode(encoded.answer) == "yes"


def test_a_training_batch_labels_only_the_answer_and_counts_only_real_tokens():
    rows = Encoder(TOKENIZER, 64)([question("A"), question("A longer one", ("no", "yes"))])
    batch = training_batch(rows, pad_id=0)
    for i, row in enumerate(rows):
        size = len(row.prompt) + len(row.answer)
        assert batch["labels"][i, -len(row.answer) :].tolist() == list(row.answer)
        assert (batch["labels"][i, : -len(row.answer)] == IGNORED).all()
        assert batch["attention_mask"][i].sum() == size
        assert batch["position_ids"][i, -size:].tolist() == list(range(size))
        assert batch["prompt_lengths"][i] == len(row.prompt)


def test_an_answer_without_tokens_has_no_label_and_leaves_the_labels_of_others_alone():
    rows = Encoder(TOKENIZER, 64)([question("A"), question("A longer one", ("no", "yes"))])
    silent = replace(rows[0], answer=())
    batch = training_batch([silent, rows[1]], pad_id=0)
    assert (batch["labels"][0] == IGNORED).all()
    assert torch.equal(batch["labels"][1], training_batch(rows, pad_id=0)["labels"][1])
    assert batch["attention_mask"].sum(1).tolist() == [len(row.prompt + row.answer) for row in (silent, rows[1])]


def test_a_prompt_without_tokens_is_an_error_of_its_own():
    tokenizer = tiny.byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace("Q", "")
    with pytest.raises(HeftError, match="no tokens for a prompt: 'Q'"):
        Encoder(tokenizer, 64)([generation_example("t", "Q", " a", "a")])


def test_left_pad_puts_padding_on_the_left_only():
    batch = left_pad([[5, 6], [7]], pad_id=9)
    assert batch["input_ids"].tolist() == [[5, 6], [9, 7]]
    assert torch.equal(batch["attention_mask"], torch.tensor([[1, 1], [0, 1]]))


def test_a_chat_is_encoded_as_the_template_writes_the_whole_of_it():
    """Prompt and answer together are how the tokens of the whole conversation begin; trained is the answer alone."""
    tokenizer = tiny.byte_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    chat = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello."), ("user", "Bye"), ("assistant", "Ciao.")]
    messages = [{"role": role, "content": content} for role, content in chat]
    whole = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
    rows = [{"messages": messages}]
    settings = RowsSettings(train=rows, eval=rows, chat_template=True, train_on="all")
    first, last = Encoder.of(tokenizer, settings)(load_examples(settings, "train"))
    assert [*last.prompt, *last.answer] == whole
    assert [*first.prompt, *first.answer] == whole[: first.length]
    for row, text in ((first, "Hello."), (last, "Ciao.")):
        assert tokenizer.decode(row.answer) == f"{text}{tokenizer.eos_token}"
