"""Every kind of row, and what is wrong with rows, as examples."""

import json

import pytest

from heft.errors import HeftError
from heft.tasks import load_examples
from heft.tasks.rows import RowsSettings
from heft.tasks.rows.share import set_aside


def examples(rows, split="train", **settings):
    return load_examples(RowsSettings(train=rows, eval=settings.pop("eval", rows), **settings), split)


def test_a_template_and_labels():
    rows = [{"text": "late {1}", "kind": "b"}, {"text": "broken", "kind": "a"}]
    made = examples(rows, prompt="{{T}}: {text}\nKind: ", answer="kind", choices="labels", format="cloze")
    assert [example.prompt for example in made] == ["{T}: late {1}\nKind:", "{T}: broken\nKind:"]
    assert [(example.choices, example.gold) for example in made] == [((" a", " b"), 1), ((" a", " b"), 0)]


@pytest.mark.parametrize(
    ("values", "names", "labels", "gold"),
    [
        (["1", "0", "1"], ["bad", "good"], (" bad", " good"), [1, 0, 1]),
        ([2, 10, 2], None, (" 2", " 10"), [0, 1, 0]),
        (["007", "1", "007"], None, (" 1", " 007"), [1, 0, 1]),
        ([True, False, True], None, (" false", " true"), [1, 0, 1]),
        ([1.0, 2.0, 1.0], {"1": "x", "2": "y"}, (" x", " y"), [0, 1, 0]),
    ],
)
def test_numeric_labels_and_their_names(values, names, labels, gold):
    rows = [{"t": f"text {i}", "y": value} for i, value in enumerate(values)]
    made = examples(rows, prompt="{t}", answer="y", choices="labels", label_names=names, format="cloze")
    assert [(example.choices, example.gold) for example in made] == [(labels, index) for index in gold]


@pytest.mark.parametrize(("answer", "gold"), [("red", 0), ("two", 1), (1, 1), ("0", 0)])
def test_choices_in_columns_and_an_answer_by_text_column_or_index(answer, gold):
    rows = [{"q": "Which?", "one": "red", "two": "blue", "a": answer}]
    (made,) = examples(rows, prompt="{q}", answer="a", choices=["one", "two"], format="cloze")
    assert (made.choices, made.gold) == ((" red", " blue"), gold)


def test_choices_in_a_list_column():
    (made,) = examples([{"q": "?", "c": ["x", "y"], "a": "y"}], prompt="{q}", answer="a", choices="c", format="cloze")
    assert (made.choices, made.gold) == ((" x", " y"), 1)


CHAT = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Bye"), ("assistant", "Ciao")]
OPENAI = [{"role": role, "content": text} for role, text in CHAT]
SHAREGPT = [{"from": {"user": "human", "assistant": "gpt"}.get(role, role), "value": text} for role, text in CHAT]
PARTS = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in CHAT]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": OPENAI},
        {"conversations": SHAREGPT},
        {"messages": PARTS},
        {"messages": json.dumps(OPENAI)},
        {"prompt": OPENAI[:4], "completion": OPENAI[4:]},
        {"system": "Be brief.", "conversations": SHAREGPT[1:]},
        {"messages": [*OPENAI, {"role": "user", "content": "unanswered"}]},
    ],
)
def test_chats_of_every_shape_are_the_same_turns(row):
    (last,) = examples([row], chat_template=True)
    assert (last.turns, last.answer, last.target) == (tuple(CHAT[:4]), " Ciao", "Ciao")
    first, second = examples([row], chat_template=True, train_on="all")
    assert (first.turns, first.answer) == (tuple(CHAT[:2]), " Hello")
    assert (second.turns, second.answer) == (last.turns, last.answer)
    assert first.group == second.group is not None


def test_whitespace_at_the_ends_of_labels_is_none_of_them():
    rows = [{"t": "x", "y": " b"}, {"t": "z", "y": "a "}]
    made = examples(rows, prompt="{t}", answer="y", choices=["b ", " a"])
    assert [(example.choices, example.gold) for example in made] == [((" b", " a"), 0), ((" b", " a"), 1)]
    rows = [{"t": "x", "y": 1}, {"t": "z", "y": "no"}]
    made = examples(rows, prompt="{t}", answer="y", choices="labels", label_names=[" no", "yes "])
    assert [(example.choices, example.gold) for example in made] == [((" no", " yes"), 1), ((" no", " yes"), 0)]
    columns = [{"t": "x", "y": " b", " b": "one", "a": "two"}]
    assert examples(columns, prompt="{t}", answer="y", choices=[" b", "a"])[0].choices == (" one", " two")


@pytest.mark.parametrize("settings", [{"choices": ["a", " "]}, {"choices": "labels", "label_names": {"0": " "}}])
def test_a_label_of_whitespace_alone_is_refused(settings):
    with pytest.raises(HeftError, match="must have texts that are not empty"):
        RowsSettings(train="t", prompt="{t}", answer="y", **settings)


def test_labels_that_differ_by_whitespace_at_their_ends_are_one():
    with pytest.raises(HeftError, match="must not repeat an entry"):
        RowsSettings(train="t", prompt="{t}", answer="y", choices=["a", "a "])


def test_every_turn_is_trained_on_in_chats_only():
    with pytest.raises(HeftError, match=r"task.train_on: all has no effect, since .* is no chat; remove it"):
        examples([{"prompt": "x", "completion": "y"}], train_on="all")


def test_alpaca_rows():
    row = {"instruction": "Add.", "input": "1 2", "output": "3"}
    (chat,) = examples([row], chat_template=True)
    assert (chat.turns, chat.answer) == ((("user", "Add.\n\n1 2"),), " 3")
    (plain,) = examples([row])
    assert plain.prompt == "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:"
    assert plain.answer == "\n3"
    for nothing in (None, "", " \n"):
        (alone,) = examples([{**row, "input": nothing}])
        assert alone.prompt == "### Instruction:\nAdd.\n\n### Response:"


def test_a_system_prompt_stands_before_every_prompt_that_has_none():
    (pair,) = examples([{"prompt": "x", "completion": "y"}], chat_template=True, system="S")
    assert pair.turns == (("system", "S"), ("user", "x"))
    (chat,) = examples([{"messages": OPENAI}], chat_template=True, system="S")
    assert chat.turns[0] == ("system", "Be brief.")


def _messages(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (_messages(("user", "x")), "the assistant says nothing"),
        (_messages(("user", ""), ("assistant", "y")), r"messages\[0\]: content must be text that is not empty"),
        (_messages(("ghost", "x"), ("assistant", "y")), "role must be system, user or assistant; got 'ghost'"),
        (_messages(("user", "x"), ("tool", "y")), "calls of tools are not trained on"),
        (_messages(("user", [{"type": "image_url"}]), ("assistant", "y")), "images cannot be read"),
        (_messages(("user", "x"), ("system", "s"), ("assistant", "y")), "a system prompt stands at the beginning"),
    ],
)
def test_what_is_no_chat_is_refused_in_words(row, fault):
    with pytest.raises(HeftError, match=fault):
        examples([row], chat_template=True)


QUESTION, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


@pytest.mark.parametrize("empty", ["", " \n", None, []])
def test_an_empty_system_prompt_is_none(empty):
    chat = {"messages": [{"role": "system", "content": empty}, QUESTION, ANSWER]}
    (alone,) = examples([chat], chat_template=True)
    assert alone.turns == (("user", "q"),)
    (given,) = examples([chat], chat_template=True, system="S")
    assert given.turns == (("system", "S"), ("user", "q"))


def test_turns_of_weight_0_are_read_and_not_trained_on():
    """As OpenAI's files for fine-tuning have them."""
    answers = [{**ANSWER, "content": text, "weight": weight} for text, weight in (("a", 1), ("b", 0), ("c", None))]
    chat = {"messages": [part for answer in answers for part in (QUESTION, answer)]}
    made = examples([chat], chat_template=True, train_on="all")
    assert [example.target for example in made] == ["a", "c"]
    assert made[1].turns == (("user", "q"), ("assistant", "a"), ("user", "q"), ("assistant", "b"), ("user", "q"))
    (last,) = examples([{"messages": chat["messages"][:4]}], chat_template=True)
    assert last.target == "a"
    with pytest.raises(HeftError, match="no answer to train on"):
        examples([{"messages": chat["messages"][2:4]}], chat_template=True)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"messages": [QUESTION, ANSWER], "tools": [{"type": "function"}]}, "tools: calls of tools are not trained on"),
        ({"messages": [QUESTION, ANSWER], "functions": '[{"name": "f"}]'}, "functions: calls of tools"),
        ({"prompt": [QUESTION], "completion": [ANSWER], "tools": ["f"]}, "tools: calls of tools"),
        ({"messages": [QUESTION, {**ANSWER, "reasoning_content": "hm"}]}, "reasoning_content is not trained on"),
        ({"messages": [QUESTION, {**ANSWER, "thinking": "hm"}]}, "thinking is not trained on"),
        ({"messages": [QUESTION, {**ANSWER, "weight": 0.5}]}, "weight must be 0 or 1; got 0.5"),
    ],
)
def test_what_a_chat_says_beside_its_turns_is_refused_and_never_left_out_in_silence(row, fault):
    with pytest.raises(HeftError, match=fault):
        examples([row], chat_template=True)


@pytest.mark.parametrize("nothing", [None, "", [], "[]", "null"])
def test_a_column_of_tools_that_names_none_changes_nothing(nothing):
    message = {**ANSWER, "reasoning_content": None, "tool_calls": None}
    (made,) = examples([{"messages": [QUESTION, message], "tools": nothing}], chat_template=True)
    assert (made.turns, made.target) == ((("user", "q"),), "a")


def test_chats_need_the_chat_template():
    with pytest.raises(HeftError, match="list row 0: rows of messages .* set task.chat_template: true"):
        examples([{"messages": OPENAI}])


@pytest.mark.parametrize("nothing", [None, "", " \t"])
@pytest.mark.parametrize("settings", [{"choices": "labels"}, {"choices": ["a", "b"]}, {}])
def test_a_row_that_asks_nothing_is_refused_and_one_with_some_empty_columns_is_not(nothing, settings):
    rows = [{"text": "x", "more": nothing, "kind": "a"}, {"text": nothing, "more": "y", "kind": "b"}]
    options = {"prompt": "Ticket: {text} {more}\nKind:", "answer": "kind", **settings}
    assert len(examples(rows, **options)) == 2
    told = "list row 2: text and more are empty, so nothing is asked"
    with pytest.raises(HeftError, match=told):
        examples([*rows, {"text": nothing, "more": None, "kind": "a"}], **options)
    with pytest.raises(HeftError, match="list row 1: text is empty, so nothing is asked"):
        examples(rows, **{**options, "prompt": "Ticket: {text}\nKind:"})


def test_a_missing_column_is_named_with_those_there_are():
    with pytest.raises(HeftError, match=r"there is no column 'txt' \(the row has text, kind\)"):
        examples([{"text": "a", "kind": "b"}], prompt="{txt}", answer="kind")


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"prompt": "{text"}, "not a template"),
        ({"prompt": "text"}, "names no column"),
        ({"answer": "x"}, "needs prompt"),
        ({"prompt": "{a} is {b}", "answer": "b"}, "b stands in prompt too, which would tell it; end prompt where"),
        ({"prompt": "{a}", "choices": "labels"}, "needs answer"),
        ({"system": "S"}, "needs chat_template: true"),
        ({"eval": "e", "eval_share": 0.1}, "has no effect beside eval"),
        ({"prompt": "{a}", "answer": "b", "choices": ["x"]}, "at least two"),
    ],
)
def test_settings_without_sense_are_refused(settings, fault):
    with pytest.raises(HeftError, match=fault):
        RowsSettings(train="t.csv", **settings)


ROWS = [{"t": f"{'Same' if n % 10 == 0 else n} text", "y": "ab"[n % 4 == 0]} for n in range(100)]
TEMPLATE = {"prompt": "{t}", "answer": "y", "choices": "labels", "format": "cloze"}


def test_rows_set_aside_are_a_share_of_every_label_and_no_prompt_is_on_both_sides():
    settings = RowsSettings(train=[row for row in ROWS if "Same" not in row["t"]], **TEMPLATE)
    train, held = (load_examples(settings, split) for split in ("train", "eval"))
    assert (len(train), len(held)) == (72, 18)
    assert sum(example.gold == 1 for example in held) == 4  # a fifth of the 20 of label b
    both = RowsSettings(train=ROWS, **TEMPLATE)
    train, held = ({example.prompt for example in load_examples(both, split)} for split in ("train", "eval"))
    assert not train & held
    half = settings.model_copy(update={"eval_share": 0.5})
    assert [len(load_examples(half, split)) for split in ("train", "eval")] == [45, 45]
    other = RowsSettings(train=ROWS, sample_seed=1, **TEMPLATE)
    assert {example.prompt for example in load_examples(other, "eval")} != held


def test_at_least_one_prompt_is_on_each_side():
    assert len(set_aside(["a", "b"], [0, 0], 0.01, 0)) == 1
    assert len(set_aside(["a", "b"], [0, 1], 0.99, 0)) == 1
    assert len(set_aside(["a", "a", "b"], [0, 0, 0], 0.5, 0)) in (1, 2)


@pytest.mark.parametrize("nothing", [None, "", " \n", float("nan")])
def test_an_empty_system_prompt_of_an_alpaca_row_is_none(nothing):
    row = {"instruction": "Add.", "output": "3", "system": nothing, "history": None}
    assert examples([row], chat_template=True)[0].turns == (("user", "Add."),)
    (given,) = examples([row], chat_template=True, system="S")
    assert given.turns == (("system", "S"), ("user", "Add."))
    assert examples([row])[0].turns is None
    for given in (row, {"messages": [QUESTION, ANSWER]}):  # of a chat it was left out
        with pytest.raises(HeftError, match=r"system must be text; got \['S'\]"):
            examples([{**given, "system": ["S"]}], chat_template=True)


def test_a_message_of_a_table_has_null_for_the_names_that_it_does_not_use():
    message = dict.fromkeys(("role", "content", "from", "value"))
    chat = [{**message, "from": "human", "value": "q"}, {**message, "from": "gpt", "value": "a"}]
    (made,) = examples([{"conversations": chat}], chat_template=True)
    assert (made.turns, made.target) == ((("user", "q"),), "a")


@pytest.mark.parametrize("name", ["tool_calls", "function_call"])
def test_a_call_beside_the_text_of_a_message_is_refused_and_never_left_out(name):
    with pytest.raises(HeftError, match=r"messages\[1\]: calls of tools are not trained on"):
        examples([{"messages": [QUESTION, {**ANSWER, name: {"name": "f", "arguments": "{}"}}]}], chat_template=True)


def test_what_a_row_hands_to_its_chat_template_has_to_be_what_all_rows_hand_to_it():
    rows = [
        {"messages": [QUESTION, ANSWER], "chat_template_kwargs": {"enable_thinking": False, "tools": [], "x": None}}
    ]
    with pytest.raises(
        HeftError, match=r"chat_template_kwargs has enable_thinking: false, .* set task.chat_template_args"
    ):
        examples(rows, chat_template=True)
    assert examples(rows, chat_template=True, chat_template_args={"enable_thinking": False})[0].target == "a"
    for nothing in (None, {}, "", "{}"):
        assert examples([{**rows[0], "chat_template_kwargs": nothing}], chat_template=True)[0].target == "a"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('[{"role": "user", "content": "\\ud83d"}]', "half of a surrogate pair"),
        ("[" * 100_000, "nested too deeply"),
        ("[{'role': 'user'}]", "not JSON: Expecting property name enclosed in double quotes"),
    ],
)
def test_a_cell_that_is_no_chat_in_json_is_refused_with_the_reason(text, fault):
    with pytest.raises(HeftError, match=f"messages must be a list of messages; got the text .*{fault}"):
        examples([{"messages": text}], chat_template=True)


@pytest.mark.parametrize(
    ("content", "turn"),
    [("a\n", "a"), (" a", "a"), ("\n\n a", "a"), ("\n    return a\n", "    return a"), ("\ta", "\ta")],
)
def test_an_answer_of_a_chat_keeps_its_indentation_alone_of_the_whitespace_around_it(content, turn):
    """As a completion does, and most templates, which trim turns."""
    (made,) = examples([{"messages": [QUESTION, {**ANSWER, "content": content}]}], chat_template=True)
    assert (made.turn, made.target) == (turn, turn.strip())
    (pair,) = examples([{"prompt": "q", "completion": content}], chat_template=True)
    assert pair.turn == turn
