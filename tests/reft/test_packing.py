"""Several sequences in a row: each has the numbers, prompts and edits that it has alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heft.reft.packing import Sequences, sequence_starts
from reft.support import edited_tokens, logits, token_ids, with_reft

LENGTHS = ((5, 7), (4, 8))
PROMPTS = (3, 5, 2, 6)
SPANS = [(0, 0, 5), (0, 5, 12), (1, 0, 4), (1, 4, 12)]


def packed() -> dict[str, torch.Tensor]:
    numbers = torch.stack([torch.cat([torch.arange(length) for length in row]) for row in LENGTHS])
    return {"ids": token_ids(2, 12), "position_ids": numbers}


def answers(ids: torch.Tensor) -> torch.Tensor:
    labels = torch.full_like(ids, -100)
    for (row, start, end), prompt in zip(SPANS, PROMPTS, strict=True):
        labels[row, start + prompt : end] = ids[row, start + prompt : end]
    return labels


@pytest.mark.parametrize("positions", ["l2", "f1", "f2+l2", "all"])
@pytest.mark.parametrize("source", ["lengths", "labels"])
@pytest.mark.parametrize("architecture", ["llama", "gemma3", "mistral"])
def test_packed_sequences_have_the_logits_that_each_has_alone(positions, source, architecture):
    model, inputs = with_reft(architecture, positions=positions), packed()
    told = {"prompt_lengths": list(PROMPTS)} if source == "lengths" else {"labels": answers(inputs["ids"])}
    together = logits(model, **inputs, **told, use_cache=False)  # transformers parts sequences only without a cache
    for (row, start, end), prompt in zip(SPANS, PROMPTS, strict=True):
        alone = logits(model, inputs["ids"][row : row + 1, start:end], prompt_lengths=[prompt])[0]
        assert torch.allclose(together[row, start:end], alone, atol=1e-5)


def test_packed_sequences_are_prompts_as_a_whole_where_nothing_else_is_said():
    inputs = packed()
    found = edited_tokens(with_reft(layers=[0], positions="f1+l1"), **inputs)
    assert found == [{0, 4, 5, 11}, {0, 3, 4, 11}]


def test_a_length_for_each_row_of_packed_sequences_is_refused():
    with pytest.raises(ValueError, match=r"one length for each of 4 packed sequences; got shape \[2\]"):
        logits(with_reft(), **packed(), prompt_lengths=[3, 4])


def test_bounds_of_sequences_tell_them_without_position_ids():
    ids = token_ids(1, 12)
    bounds = torch.tensor([0, 5, 12], dtype=torch.int32)
    model = with_reft(layers=[0], positions="f1+l1")
    assert edited_tokens(model, ids, cu_seq_lens_q=bounds) == [{0, 4, 5, 11}]


def test_left_padded_position_ids_are_not_taken_for_packed_ones():
    ids, mask = token_ids(2, 8), torch.ones(2, 8, dtype=torch.long)
    mask[0, :3] = 0
    numbers = (mask.cumsum(1) - 1).clamp(min=0)
    model = with_reft(layers=[0], positions="f1+l1")
    assert edited_tokens(model, ids, attention_mask=mask, position_ids=numbers) == [{3, 7}, {0, 7}]


def test_position_ids_that_begin_anew_behind_a_mask_of_ones_are_packed_too():
    inputs = packed()
    model = with_reft(layers=[0], positions="f1+l1")
    found = edited_tokens(model, **inputs, attention_mask=torch.ones_like(inputs["ids"]))
    assert found == [{0, 4, 5, 11}, {0, 3, 4, 11}]


def test_a_sequence_labelled_from_its_first_token_on_is_refused_among_others():
    inputs = packed()
    labels = answers(inputs["ids"])
    labels[0, 5:] = inputs["ids"][0, 5:]
    with pytest.raises(ValueError, match="no prompt for a ReFT edit"):
        logits(with_reft(positions="l1"), **inputs, labels=labels)


@given(
    st.lists(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), min_size=1, max_size=4), min_size=1, max_size=3)
)
@settings(max_examples=60, deadline=None)
def test_numbers_lengths_and_prompts_are_those_of_a_loop_over_the_sequences(rows):
    """A row is a list of (length, labelled tokens at the end); rows are padded on the right."""
    width = max(sum(length for length, _ in row) for row in rows)
    position_ids, attended, labels, expected = [], [], [], []
    for row in rows:
        numbers, real, told, want = [], [], [], []
        for length, answer in row:
            answer = min(answer, length)
            numbers += range(length)
            real += [True] * length
            told += [-100] * (length - answer) + [7] * answer
            want += [(number, length, length - answer) for number in range(length)]
        gap = width - len(numbers)
        position_ids.append(numbers + [0] * gap)
        attended.append(real + [False] * gap)
        labels.append(told + [-100] * gap)
        expected.append(want)
    attended_BT = torch.tensor(attended)
    starts_BT = sequence_starts({"position_ids": torch.tensor(position_ids)}, attended_BT, has_mask=True)
    sequences = Sequences(starts_BT, attended_BT)
    prompts_BT = sequences.prompts_from_labels(torch.tensor(labels))
    assert sequences.count() == sum(map(len, rows))
    assert sequences.one_each(prompts_BT).tolist() == [n - min(a, n) for row in rows for n, a in row]
    for row, want in enumerate(expected):
        found = zip(sequences.numbers()[row], sequences.lengths()[row], prompts_BT[row], strict=True)
        assert [tuple(map(int, values)) for values in found][: len(want)] == want
        assert (sequences.numbers()[row, len(want) :] == -1).all()
