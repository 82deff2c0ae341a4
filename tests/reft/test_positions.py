"""Which tokens are edited, against a definition with sets (mistakes 3, 5 and 6 of others)."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from heft.edits.positions import GROUPS, Positions, longest_tail, parse_branch_positions, parse_positions
from heft.reft.layout import (
    TokenLayout,
    attended_tokens,
    edited_token_indices,
    number_tokens,
    prompt_lengths_from_labels,
)

CPU = torch.device("cpu")


def expected_tokens(prompt: int, length: int, positions: Positions, part: str) -> set[int]:
    """Numbers of the edited ones among a row's real tokens."""
    if positions.all_tokens:
        return set(range(length))
    first = set(range(min(positions.first, prompt)))
    last = set(range(max(0, prompt - positions.last), prompt)) - first
    last |= set(range(prompt, length)) if positions.onward else set()
    return {"first": first, "last": last, "shared": first | last}[part]


rows_strategy = st.lists(
    st.tuples(st.integers(0, 4), st.integers(1, 9), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=4
)


@given(
    rows=rows_strategy,
    text=st.sampled_from(["all", "f1", "l1", "f2+l3", "l4", "f4", "f5+l5", "l3+", "f2+l3+"]),
    part=st.sampled_from(["shared", "first", "last"]),
    cut=st.integers(0, 5),
)
@settings(max_examples=200, deadline=None)
def test_edited_tokens_are_those_of_the_definition_for_any_padding_prompt_and_cache(rows, text, part, cut):
    """A row is (left padding, prompt, answer, right padding); the first `cut` columns are in the cache already."""
    positions, width = parse_positions(text), max(sum(row) for row in rows)
    attended = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, (left, prompt, answer, _) in enumerate(rows):
        attended[i, left : left + prompt + answer] = True
    prompt_B = torch.tensor([row[1] for row in rows])
    cut = min(cut, width - 1)
    layout = TokenLayout(number_tokens(attended)[:, cut:], prompt_B)
    found = edited_token_indices(layout, positions, part).tolist()
    expected = []
    for i, (left, prompt, answer, _) in enumerate(rows):
        tokens = expected_tokens(prompt, prompt + answer, positions, part)
        expected += [i * (width - cut) + left + t - cut for t in sorted(tokens) if left + t >= cut]
    assert found == expected


@given(prompt=st.integers(1, 12), first=st.integers(1, 8), last=st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_mistake_3_a_prompt_shorter_than_the_counts_never_gives_a_token_twice(prompt, first, last):
    layout = TokenLayout(torch.arange(prompt)[None], torch.tensor([prompt]))
    parts = {
        p: edited_token_indices(layout, Positions(first=first, last=last), p).tolist()
        for p in ("first", "last", "shared")
    }
    both = parts["first"] + parts["last"]
    assert len(set(both)) == len(both) == min(prompt, first + last)
    assert sorted(both) == parts["shared"]


def test_mistake_6_l1_is_the_last_prompt_token_and_not_the_one_before():
    layout = TokenLayout(torch.arange(8)[None], torch.tensor([5]))
    assert edited_token_indices(layout, Positions(last=1), "last").tolist() == [4]


def test_padding_is_numbered_minus_one_and_tokens_from_zero():
    attended = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0], [1, 0, 1, 1]]).bool()
    assert number_tokens(attended).tolist() == [[-1, -1, 0, 1], [0, 1, 2, -1], [0, -1, 1, 2]]


def test_prompt_lengths_count_attended_tokens_before_the_first_label():
    labels = torch.tensor([[-100, -100, 7, 7], [-100, -100, -100, 7], [-100, -100, -100, -100], [5, 5, -100, -100]])
    attended = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]).bool()
    assert prompt_lengths_from_labels(labels, attended).tolist() == [2, 2, 3, 0]


PADDING = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])


def four_dimensional(window: int | None = None) -> torch.Tensor:
    """Bool (B, 1, T, S) causal mask of `PADDING`, optionally with a sliding window."""
    query, key = torch.arange(5)[:, None], torch.arange(5)[None]
    seen = (key <= query) & (key > query - window if window else True)
    return seen[None, None] & PADDING.bool()[:, None, None, :]


def as_float(mask: torch.Tensor) -> torch.Tensor:
    return torch.zeros(mask.shape).masked_fill(~mask, torch.finfo(torch.float32).min)


@pytest.mark.parametrize(
    "mask",
    [
        PADDING,
        PADDING.bool(),
        four_dimensional(),
        as_float(four_dimensional()),
        four_dimensional(window=2),
        {"sliding_attention": four_dimensional(2), "full_attention": four_dimensional()},
        {"sliding_attention": four_dimensional(2)},
        torch.nn.functional.pad(four_dimensional(), (0, 7)),  # a cache of fixed size
    ],
    ids=["2d", "2d_bool", "4d_bool", "4d_float", "4d_sliding", "dict", "dict_sliding", "static_cache"],
)
def test_real_tokens_are_found_in_any_mask_a_model_is_given(mask):
    assert torch.equal(attended_tokens(mask, 2, 5, CPU), PADDING.bool())


def test_without_a_mask_every_token_is_real():
    assert torch.equal(attended_tokens(None, 2, 3, CPU), torch.ones(2, 3, dtype=torch.bool))


def test_a_mask_for_one_row_serves_the_batch():
    assert attended_tokens(torch.ones(1, 3), 4, 3, CPU).shape == (4, 3)


def test_a_window_that_has_dropped_cached_tokens_is_refused_and_says_what_to_pass():
    with pytest.raises(ValueError, match=r"covers 5 of 9 tokens.*2-D attention_mask"):
        attended_tokens(four_dimensional(window=2), 2, 9, CPU)


@given(
    text=st.sampled_from(["all", "f1", "l1", "f2+l3", "l4", "f5+l5", "l3+", "f5+l2+"]),
    prompt=st.integers(1, 12),
    answer=st.integers(0, 4),
    start=st.integers(0, 8),
    group=st.sampled_from(GROUPS),
)
@settings(max_examples=100, deadline=None)
def test_what_positions_answer_agrees_with_the_tokens_that_they_edit(text, prompt, answer, start, group):
    positions, length = parse_positions(text), prompt + answer
    edited = expected_tokens(prompt, length, positions, group)
    assert positions.count(prompt, start, length, group) == len([token for token in edited if token >= start])
    assert all(positions.edits(token, prompt, group) == (token in edited) for token in range(-1, length))
    everywhere = expected_tokens(prompt, length, positions, "shared")
    if positions.reach_back() is None:
        assert 0 in everywhere
    else:
        assert min(everywhere) == max(0, prompt - positions.reach_back())
    inner = set(range(positions.protected_head(), prompt - positions.protected_tail()))
    assert positions.all_tokens or not inner & everywhere


@pytest.mark.parametrize(
    ("text", "words", "tied", "untied"),
    [
        ("all", "all tokens, those of the answer too", ("shared",), ("shared",)),
        ("f7", "the first 7 of the prompt (f7)", ("first",), ("first",)),
        ("l4+", "the last 4 of the prompt and all later tokens (l4+)", ("last",), ("last",)),
        ("f7+l2", "the first 7 and the last 2 of the prompt (f7+l2)", ("shared",), ("first", "last")),
    ],
)
def test_positions_are_said_in_words_and_have_their_groups_of_weights(text, words, tied, untied):
    positions = parse_positions(text)
    assert (str(positions), positions.in_words()) == (text, words)
    assert (positions.groups(tied=True), positions.groups(tied=False)) == (tied, untied)


def test_the_longest_tail_is_that_of_the_adapter_which_reaches_back_the_furthest():
    assert longest_tail(parse_positions(text) for text in ("f2+l3", "l5+", "f4", "all")) == 5
    assert longest_tail([]) == 0


@pytest.mark.parametrize(("text", "stored"), [("all", "all"), ("l8", "l8+"), ("l8+", "l8+")])
def test_positions_of_a_weight_update_go_on_behind_the_prompt_and_have_one_spelling(text, stored):
    assert str(parse_branch_positions(text)) == stored


@pytest.mark.parametrize("text", ["f2", "f2+l4", "f2+l4+", "l0", "none"])
def test_a_weight_update_of_first_positions_is_refused(text):
    with pytest.raises(ValueError, match=r"'all' or 'lN\+'.*got '" + text.replace("+", r"\+")):
        parse_branch_positions(text)
