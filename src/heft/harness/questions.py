"""The harness's requests, a context and a continuation in token ids each, as questions that heft scores.

Continuations of one context become the choices of one question. Contexts that begin alike become one group, so that
what they have in common is computed once: passages with several questions, examples of a few-shot prompt.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from heft.errors import HeftError
from heft.evaluation.shared_prefix import common_length

WORTH_SHARING = 0.25
"""Contexts are of one group where they have at least this part of the longer one in common."""

Ids = tuple[int, ...]


@dataclass(frozen=True)
class HarnessQuestion:
    """A context with continuations of it; satisfies `heft.evaluation.shared_prefix.Question`.

    Attributes:
        id: names the first of its requests.
        group: of contexts that begin alike.
        prompt: ids of the context.
        choices: ids of each continuation.
    """

    id: str
    group: str | None
    prompt: Ids
    choices: tuple[Ids, ...]


@dataclass(frozen=True)
class Questions:
    """All requests as questions.

    Attributes:
        questions: ordered so that contexts that begin alike are neighbours.
        places: for each request, the index of its question and of its choice.
        cut: how many requests were cut to the model's length.
    """

    questions: list[HarnessQuestion]
    places: list[tuple[int, int]]
    cut: int


def questions_of(requests: Sequence[tuple[Sequence[int], Sequence[int]]], max_length: int) -> Questions:
    """Questions from requests, (ids of the context, ids of the continuation) each.

    A request of more than `max_length` tokens is cut at the left, as the harness's HFLM does: the last token is never
    read, so that one more fits.

    Raises:
        HeftError: a context or a continuation has no tokens, or a continuation alone is too long.
    """
    fitted = [_fitted(number, *request, max_length) for number, request in enumerate(requests)]
    merged: dict[tuple[Ids, int], list[int]] = {}
    for number, (context, _) in enumerate(fitted):
        alone = 0 if len(context) > 1 else number + 1  # a context of one token is no work that could be shared
        merged.setdefault((context, alone), []).append(number)
    contexts = sorted(merged)
    groups = _groups([context for context, _ in contexts])
    questions, places = [], [(0, 0)] * len(fitted)
    for index, (key, group) in enumerate(zip(contexts, groups, strict=True)):
        members = merged[key]
        choices = tuple(fitted[number][1] for number in members)
        questions.append(HarnessQuestion(f"request {members[0] + 1}", str(group), key[0], choices))
        for choice, number in enumerate(members):
            places[number] = (index, choice)
    cut = sum(len(given) != len(kept) for (given, _), (kept, _) in zip(requests, fitted, strict=True))
    return Questions(questions, places, cut)


def _fitted(number: int, context: Sequence[int], continuation: Sequence[int], max_length: int) -> tuple[Ids, Ids]:
    if not context or not continuation:
        what = "context" if not context else "continuation"
        raise HeftError(
            f"request {number + 1} of the harness has a {what} without tokens, so there is nothing to score; change the"
            " task's doc_to_text or doc_to_choice (a context of whitespace alone counts as none)"
        )
    if len(continuation) > max_length:
        raise HeftError(
            f"request {number + 1} of the harness has a continuation of {len(continuation):,} tokens, and the model"
            f" reads {max_length:,}; shorten it, or set max_length"
        )
    room = max_length + 1 - len(continuation)
    return tuple(context[-room:]), tuple(continuation)


def _groups(contexts: Sequence[Ids]) -> list[int]:
    """A number for each of sorted contexts, equal for neighbours of which the common beginning is worth sharing.

    A context joins its neighbours' group where no fewer tokens are saved with it than without it.
    """
    groups: list[int] = []
    first, common, count = 0, 0, 0
    for index, context in enumerate(contexts):
        if index:
            with_it = common_length([contexts[first][:common], context])
            long_enough = with_it >= WORTH_SHARING * max(len(context), len(contexts[first]))
            if long_enough and with_it * count >= common * (count - 1):
                common, count = with_it, count + 1
                groups.append(groups[-1])
                continue
        first, common, count = index, len(context), 1
        groups.append(index)
    return groups
