"""What is found in rows beside each other: the evaluation's questions in training, labels alike, answers cut."""

from collections.abc import Iterable
from dataclasses import replace

import pytest
from encoding import CuttingTokenizer, chosen, encoded, generated
from hypothesis import given
from hypothesis import strategies as st

import tiny
from heft.data.checks import sets
from heft.data.checks.sets import FEW_ROWS, labels_alike, repeats, tokens_in_text, train_in_eval
from heft.data.encode import EncodedExample, Encoder
from heft.tasks import TASKS, load_examples, task_for
from heft.tasks.choices import options_example
from heft.tasks.example import choice_example, generation_example
from heft.tasks.rows import RowsSettings

TOKENIZER = tiny.byte_tokenizer()


def select_rows(examples: Iterable) -> list[EncodedExample]:
    """Examples whose tokens do not matter."""
    return [EncodedExample(example, (), (), (), 0) for example in examples]


def answers_cut(train, evaluation, task, tokenizer):
    return sets.answers_cut(train, evaluation, task, tokenizer, [tokenizer.eos_token_id])


def task(**options):
    return task_for(RowsSettings(train="t", eval="e", **options))


def test_a_row_is_found_in_the_evaluation_at_any_whitespace_and_order_of_choices():
    held_out = [chosen("Who  is\nit?", ("Ann", "Bob"), 0)]
    rows = [chosen("Who is it?", ("Bob", "Ann"), 1), chosen("Who is she?", ("Ann", "Bob"), 0), chosen("Where?")]
    (fault,) = train_in_eval(rows, held_out)
    assert fault.found.startswith("1 of 3 train rows stands in the evaluation set too, 1 with the same answer")
    assert "'Who is it?'" in fault.found


def test_another_answer_to_the_same_question_counts_and_is_told_apart():
    (fault,) = train_in_eval([generated("Q:", " a"), generated("Q:", " b")], [generated("Q:", " b")])
    assert fault.found.startswith("2 of 2 train rows stand in the evaluation set too, 1 with the same answer")


def lettered(question: str, options: tuple[str, ...], gold: int) -> EncodedExample:
    return encoded(options_example("t", "letters", f"Question: {question}", question, options, gold))


def test_special_tokens_that_stand_as_text_in_some_rows_are_named_and_those_of_every_row_are_the_prompts_own():
    end = TOKENIZER.eos_token
    rows = [generated("Q: a", " b"), generated(f"Q: is {end} old?", " yes"), generated("Q: c", f" {end} d")]
    assert TOKENIZER.eos_token_id in TOKENIZER(rows[1].example.prompt, add_special_tokens=False)["input_ids"]
    told = tokens_in_text("train", rows, TOKENIZER)
    assert told.startswith(
        f"text that the model reads as a special token: 2 of 3 train rows have '{end}', such as 'Q: is"
    )
    chat = select_rows([replace(rows[0].example, turns=(("system", end), ("user", "hi")))])
    assert f"1 of 2 train rows have '{end}'" in tokens_in_text("train", [rows[0], *chat], TOKENIZER)
    assert tokens_in_text("train", rows[1:], TOKENIZER) == tokens_in_text("train", rows[:1], TOKENIZER) == ""


def test_options_in_the_prompt_may_have_any_order_and_any_letters():
    held_out = [lettered("Who is it?", ("Ann", "Bob", "Cy"), 0)]
    shuffled, other_answer = (lettered("Who is it?", ("Cy", "Ann", "Bob"), gold) for gold in (1, 2))
    (fault,) = train_in_eval([shuffled, other_answer, lettered("Who is she?", ("Ann", "Bob", "Cy"), 0)], held_out)
    assert fault.found.startswith("2 of 3 train rows stand in the evaluation set too, 1 with the same answer")
    (fault,) = train_in_eval([lettered("Who is it?", ("Dan", "Ann"), 1)], held_out)
    assert "1 of 1 train rows stands in the evaluation set too, 1 with the same answer" in fault.found
    assert train_in_eval([lettered("Who is it?", ("Dan", "Bob"), 0)], held_out) == []
    assert repeats("train", [*held_out, shuffled, other_answer]).endswith(": 2 of 3 train rows, 1 with the same answer")


@pytest.mark.parametrize("format", ["letters", "cloze"])
@pytest.mark.parametrize(
    "question",
    ["WHERE IS THE CAFÉ NO. 1?", "Where is the cafe\u0301 no. 1?", "Where is\xa0the café no. １?"],
    ids=["letter case", "accents of their own", "compatible characters"],
)
def test_the_same_question_and_answer_in_other_characters_is_found(format, question):
    def row(asked, options, gold):
        return encoded(options_example("t", format, asked, asked, options, gold))

    held_out = [row("Where is the café no. 1?", ("Here", "There"), 0)]
    (fault,) = train_in_eval([row(question, ("there", "HERE"), 1)], held_out)
    assert fault.found.startswith("1 of 1 train rows stands in the evaluation set too, 1 with the same answer")
    generated_too = [generated(question, " here")], [generated("Where is the café no. 1?", " Here")]
    assert "1 with the same answer" in train_in_eval(*generated_too)[0].found


def test_a_case_or_an_exponent_that_is_what_is_asked_makes_another_question():
    train = [generated("What is CO?", " a gas"), generated("What is 2² + 1?", " 5")]
    assert train_in_eval(train, [generated("What is Co?", " a metal"), generated("What is 22 + 1?", " 23")]) == []
    (fault,) = train_in_eval([generated("Un cafe\u0301?", " non")], [generated("Un  café?", " oui")])
    assert "0 with the same answer" in fault.found


def test_a_beginning_in_common_is_no_row_in_common():
    assert train_in_eval([chosen("So", ("it rained", "it snowed"))], [chosen("So", ("he left", "she left"))]) == []
    (fault,) = train_in_eval([chosen("So", ("he left", "it snowed"))], [chosen("So", ("he left", "she left"))])
    assert "1 with the same answer" in fault.found


TEXTS = st.sampled_from(["a", "b", "a  b", "a b"])
QUESTIONS = st.builds(
    lambda prompt, first, second, gold: choice_example("t", prompt, (first, second), gold),
    TEXTS, TEXTS, TEXTS, st.sampled_from([0, 1]),
)  # fmt: skip


@given(st.lists(QUESTIONS, max_size=6), st.lists(QUESTIONS, max_size=6))
def test_what_stands_in_the_evaluation_is_what_comparing_every_pair_finds(train, evaluation):
    def is_same(one, other) -> bool:
        prompt, choices, answer = (
            one.prompt.split() == other.prompt.split(),
            sorted(c.split() for c in one.choices) == sorted(c.split() for c in other.choices),
            one.answer.split() == other.answer.split(),
        )
        return prompt and (choices or answer)

    expected = sum(any(is_same(one, other) for other in evaluation) for one in train)
    faults = train_in_eval(select_rows(train), select_rows(evaluation))
    assert len(faults) == (expected > 0)
    if faults:
        assert faults[0].found.startswith(f"{expected} of {len(train)} train rows")


def test_labels_are_alike_where_enough_rows_share_one_answer_or_choice_number():
    same = [chosen(f"Q{n}?") for n in range(FEW_ROWS)]
    other = [*same[:-1], chosen("Q?", gold=1)]
    texts = [encoded(choice_example("t", f"Q{n}?", (f"right {n}", "wrong"), 0)) for n in range(FEW_ROWS)]
    (fault,) = labels_alike(same, same)
    assert fault.found == "all 10 train rows have the answer ' yes' and all 10 eval rows have the answer ' yes'"
    (fault,) = labels_alike(other, same)
    assert fault.found == "all 10 eval rows have the answer ' yes'"
    (fault,) = labels_alike(other, texts)
    assert fault.found == "all 10 eval rows have the right choice as number 1"
    assert "shuffle choices that were written with the right one first" in fault.message([])
    assert labels_alike(other, [*texts[:-1], other[-1]]) == []
    assert labels_alike(same[:-1], same[:-1]) == []


def test_generated_answers_that_are_all_the_same_text_are_alike():
    assert labels_alike([generated(f"Q{n}", " ok") for n in range(FEW_ROWS)], [])
    assert not labels_alike([generated(f"Q{n}", f" {n}") for n in range(FEW_ROWS)], [])


def test_an_answer_of_just_as_many_tokens_as_are_generated_is_whole_without_its_end():
    rows = [generated("Q:", " 1234"), generated("Q:", " 123")]
    assert answers_cut([], rows, task(max_new_tokens=5), TOKENIZER) == []
    (fault,) = answers_cut([], rows, task(max_new_tokens=4), TOKENIZER)
    assert fault.found.startswith("1 of 2 eval rows have an answer of more than task.max_new_tokens 4, up to 5 tokens")
    assert answers_cut([], [chosen()], task(max_new_tokens=1), TOKENIZER) == []


def test_an_end_token_inside_an_answer_that_is_generated_is_found():
    row = generated("Q:", " yes")
    ended = replace(row, answer=(*row.answer[:1], TOKENIZER.eos_token_id, *row.answer[1:]))
    (fault,) = answers_cut([], [row, ended], task(max_new_tokens=9), TOKENIZER)
    assert "have an answer with the EOS token inside" in fault.found


def test_an_answer_with_a_stop_string_is_cut_except_whitespace_the_template_strips():
    examples = [generation_example("t", "Q:", answer, answer.strip()) for answer in ("\none", " one")]
    chatty = tiny.byte_tokenizer()
    chatty.chat_template = "{% for m in messages %}{{ m.content }}>{% endfor %}"
    (fault,) = answers_cut([], Encoder(TOKENIZER, 99)(examples), task(stop=["\n", "two"]), TOKENIZER)
    assert fault.found.startswith("1 of 2 eval rows have an answer with one of the texts that end it, '\\n', 'two'")
    rows = Encoder(chatty, 99, chat_template=True)(examples)
    assert answers_cut([], rows, task(stop=["\n"], chat_template=True), chatty) == []


def test_rows_that_the_tokenizer_cuts_are_found_and_long_uncut_ones_are_not():
    cutting = CuttingTokenizer(12)
    rows = [generated(prompt, " a", cutting) for prompt in ("short", "rather longer than that", "again longer than")]
    faults = answers_cut(rows, rows[:1], task(), cutting)
    assert [fault.found.partition(",")[0] for fault in faults] == ["2 of 3 train rows are cut by the tokenizer itself"]
    whole = [encoded(row.example) for row in rows]
    assert answers_cut(whole, whole, task(), TOKENIZER) == []
    answers = [generated("Q", " a very long answer", cutting)]
    assert len(answers_cut(answers, rows[:1], task(), cutting)) == 1


def test_questions_asked_again_are_counted_within_a_split():
    rows = [generated("Q:", " a"), generated("Q:", " a"), generated("Q:", " b"), generated("R:", " a")]
    assert repeats("train", rows) == "questions asked again: 2 of 4 train rows, 1 with the same answer"
    assert repeats("train", rows[2:]) == ""


@pytest.mark.parametrize(
    ("name", "options", "start"),
    [
        ("boolq", {}, None),
        ("arc_challenge", {"format": "letters"}, None),
        ("openbookqa", {"format": "letters"}, "11 of 4,957 train rows stand"),
        ("openbookqa", {"format": "cloze"}, "11 of 4,957 train rows stand"),
        ("arc_easy", {"format": "cloze"}, "1 of 2,251 train rows stands"),
    ],
)
def test_published_data_has_the_train_rows_in_validation_that_docs_checks_lists(shared_data, name, options, start):
    settings = TASKS[name].settings_type(name=name, source=str(shared_data / name), **options)
    faults = train_in_eval(*(select_rows(load_examples(settings, split)) for split in ("train", "eval")))
    assert len(faults) == (start is not None)
    assert all(fault.found.startswith(start) for fault in faults)


def test_made_up_rows_are_disjoint():
    settings = TASKS["whereabouts"].settings_type(name="whereabouts", train_size=3000, eval_size=800)
    train, evaluation = (select_rows(load_examples(settings, split)) for split in ("train", "eval"))
    assert (train_in_eval(train, evaluation), repeats("train", train), repeats("eval", evaluation)) == ([], "", "")
