"""Whatever rows there are: batches and cut prompts against their definitions, in plain Python."""

from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from heft.data.encode import IGNORED, UNCUT_HEAD, EncodedExample, Encoder, left_pad, training_batch
from heft.edits.positions import Positions
from heft.errors import HeftError
from heft.tasks.example import generation_example

TOKENIZER = tiny.byte_tokenizer()
PAD = 7
IDS = st.integers(0, 258)
ROWS = st.lists(st.lists(IDS, min_size=1, max_size=9), min_size=1, max_size=5)
LETTERS = st.text("abc é", min_size=1, max_size=60).map(lambda text: "x" + text.replace(" ", "_"))


@given(ROWS)
def test_left_pad_holds_each_row_at_the_right_and_counts_its_own_tokens(rows):
    batch = {key: value.tolist() for key, value in left_pad(rows, PAD).items()}
    width = max(map(len, rows))
    for i, row in enumerate(rows):
        padding = width - len(row)
        assert batch["input_ids"][i] == [PAD] * padding + row
        assert batch["attention_mask"][i] == [0] * padding + [1] * len(row)
        assert batch["position_ids"][i] == [0] * padding + list(range(len(row)))


@given(st.lists(st.tuples(st.lists(IDS, min_size=1, max_size=9), st.lists(IDS, min_size=1, max_size=4)), min_size=1))
def test_a_training_batch_labels_answers_at_their_own_tokens_and_nothing_else(pairs):
    example = generation_example("t", "p", " a", "a")
    rows = [EncodedExample(example, tuple(prompt), (), tuple(answer), 0) for prompt, answer in pairs]
    batch = {key: value.tolist() for key, value in training_batch(rows, PAD).items()}
    for i, (prompt, answer) in enumerate(pairs):
        labelled = [place for place, label in enumerate(batch["labels"][i]) if label != IGNORED]
        assert [batch["labels"][i][place] for place in labelled] == answer
        assert [batch["input_ids"][i][place] for place in labelled] == answer
        assert labelled == list(range(len(batch["labels"][i]) - len(answer), len(batch["labels"][i])))
        assert batch["prompt_lengths"][i] == len(prompt)


@settings(deadline=None)
@given(LETTERS, LETTERS, st.integers(8, 90), st.integers(0, 24), st.integers(0, 24))
def test_a_prompt_keeps_to_the_limit_and_loses_only_its_middle(prompt, answer, limit, first, last):
    example = generation_example("t", prompt, f" {answer}", answer)
    whole, answer_ids = TOKENIZER(prompt)["input_ids"], (*TOKENIZER(f" {answer}")["input_ids"], TOKENIZER.eos_token_id)
    head, tail = max(UNCUT_HEAD, first), max(1, last)
    room = limit - len(answer_ids)
    try:
        (encoded,) = Encoder(TOKENIZER, limit, positions=[Positions(first=first, last=last)])([example])
    except HeftError:
        assert len(whole) < max(1, first + last) or (len(whole) > room and room < head + tail)
        return
    assert encoded.answer == answer_ids
    assert len(encoded.prompt) == min(len(whole), room) == len(whole) - encoded.cut
    kept = list(encoded.prompt)
    if not encoded.cut:
        assert kept == whole
        return
    assert kept[:head] == whole[:head]
    assert kept[head:] == whole[len(whole) - (len(kept) - head) :]
    assert len(kept) - head >= tail


@given(st.lists(st.text(max_size=12).map(lambda text: f"q{text}."), min_size=1, max_size=4))
def test_rows_are_encoded_alone_as_they_are_together(prompts):
    examples = [generation_example("t", prompt, " a", "a") for prompt in prompts]
    encode = Encoder(TOKENIZER, 400)
    assert encode(examples) == [encode([example])[0] for example in examples]
