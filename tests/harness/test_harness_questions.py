"""The harness's requests as questions: every request keeps its tokens and finds its place again."""

import random

import pytest

from heft.errors import HeftError
from heft.evaluation.shared_prefix import common_length
from heft.harness.questions import questions_of

LONG = 1000


def requests(seed: int) -> list[tuple[list[int], list[int]]]:
    draw = random.Random(seed)
    passages = [[draw.randrange(9) for _ in range(draw.randint(1, 40))] for _ in range(6)]
    made = []
    for _ in range(40):
        context = draw.choice(passages) + [draw.randrange(9) for _ in range(draw.randint(0, 6))]
        made.append((context, [draw.randrange(9) for _ in range(draw.randint(1, 5))]))
    return made


@pytest.mark.parametrize("seed", range(20))
def test_every_request_finds_its_context_and_its_continuation(seed):
    asked = requests(seed)
    found = questions_of(asked, LONG)
    assert found.cut == 0
    for (context, continuation), (question, choice) in zip(asked, found.places, strict=True):
        assert found.questions[question].prompt == tuple(context)
        assert found.questions[question].choices[choice] == tuple(continuation)
    assert sum(len(question.choices) for question in found.questions) == len(asked)
    assert len(set(found.places)) == len(asked)


@pytest.mark.parametrize("seed", range(20))
def test_a_group_saves_tokens_and_its_contexts_begin_alike(seed):
    groups = {}
    for question in questions_of(requests(seed), LONG).questions:
        groups.setdefault(question.group, []).append(question.prompt)
    for prompts in groups.values():
        if len(prompts) > 1:
            assert common_length(prompts) >= 0.25 * min(map(len, prompts))


def test_questions_on_a_passage_are_one_group_and_other_passages_others():
    one, two = [1] * 20, [2] * 20
    asked = [(one + [5], [7]), (two + [5], [7]), (one + [6, 6], [7]), (two + [6], [7]), ([1, 3], [7])]
    found = questions_of(asked, LONG)
    group = [found.questions[question].group for question, _ in found.places]
    assert group[0] == group[2] != group[1] == group[3]
    assert group[4] not in group[:4]


def test_continuations_of_one_context_are_choices_but_not_of_a_single_token():
    found = questions_of([([4, 5], [1]), ([4, 5], [2, 3]), ([9], [1]), ([9], [2])], LONG)
    assert [len(question.choices) for question in found.questions] == [2, 1, 1]


def test_what_is_too_long_is_cut_at_the_left_and_the_last_token_is_never_read():
    found = questions_of([([1, 2, 3, 4], [5, 6]), ([1, 2], [3])], max_length=3)
    assert [q.prompt + q.choices[0] for q in found.questions] == [(1, 2, 3), (3, 4, 5, 6)]
    assert found.cut == 1


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (([], [1]), "context without tokens"),
        (([1], []), "continuation without tokens"),
        (([1], [2] * 9), "continuation of 9 tokens"),
    ],
)
def test_what_cannot_be_scored_is_named_by_its_place(request_, message):
    with pytest.raises(HeftError, match=f"request 2 of the harness has a {message}"):
        questions_of([([1], [2]), request_], max_length=8)
