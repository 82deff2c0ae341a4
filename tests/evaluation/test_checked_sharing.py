"""Sharing prefixes is tried before an evaluation shares them."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

import tiny
from heft.data.encode import Encoder
from heft.evaluation.evaluator import evaluate_examples
from heft.evaluation.likelihood import _chosen, plain_log_likelihoods, why_not_shared
from heft.evaluation.scoring import score_choices
from heft.evaluation.shared_pass import SharedPasses
from heft.models import equality
from heft.models.equality import noise_of, rounded_otherwise
from heft.models.verdicts import Verdicts, remembered
from heft.recipe.recipe import EvaluationSettings
from heft.runtime.reporter import Reporter
from heft.tasks import load_examples, task_for
from heft.tasks.whereabouts import WhereaboutsSettings
from tolerance import rounded

TASK = WhereaboutsSettings(train_size=4, eval_size=8)


@pytest.fixture
def examples():
    return Encoder(tiny.byte_tokenizer(), 512)(load_examples(TASK, "eval"))


def evaluated(model, examples, share=True):
    heard = []
    reporter = Reporter()
    reporter.note = heard.append
    settings = EvaluationSettings(share_prefix=share)
    return evaluate_examples(model, tiny.byte_tokenizer(), task_for(TASK), examples, settings, reporter), heard


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_sharing_that_equals_the_plain_path_is_done_without_a_word(architecture, examples):
    _, heard = evaluated(tiny.tiny_model(architecture), examples)
    assert heard == []


@pytest.mark.parametrize("fault", ["differs", "raises"])
def test_sharing_that_differs_or_raises_gives_way_to_the_plain_path(fault, examples, monkeypatch):
    right = SharedPasses.score

    def spoilt(self, batch):
        if fault == "raises":
            raise RuntimeError("stack expects each tensor to be equal size")
        right(self, batch)
        for stem in batch.stems:
            self.scores[stem.index] = [score + 0.1 for score in self.scores[stem.index]]

    model = tiny.tiny_model()
    expected, _ = evaluated(model, examples, share=False)
    monkeypatch.setattr(SharedPasses, "score", spoilt)
    found, heard = evaluated(model, examples)
    (note,) = heard
    assert note.startswith("evaluation: no prefix is shared, the plain path is taken: ")
    assert ("differs from the plain path by 0.1" if fault == "differs" else "RuntimeError: stack expects") in note
    assert found.records == expected.records


def test_where_kept_prefixes_do_not_give_the_plain_result_they_are_computed_and_shared_without_a_word(
    examples, monkeypatch
):
    class Broken:
        start = 2

        def cache(self, questions, lengths):
            raise RuntimeError("keys of another model")

        def nothing_kept(self):
            return self

    heard, taken = [], []
    right = SharedPasses.score
    monkeypatch.setattr(SharedPasses, "score", lambda self, batch: taken.append(self.kept) or right(self, batch))
    reporter = Reporter()
    reporter.note = heard.append
    model = tiny.tiny_model()
    found = score_choices(model, 0, examples, EvaluationSettings(), 8, reporter, "evaluation", kept=Broken())
    assert heard == []
    assert taken[0].start == 2
    assert taken[-1] is None
    assert sum(found, []) == rounded(sum(plain_log_likelihoods(model, examples, 8, 0), []))


@pytest.mark.parametrize(("times", "shares"), [(1.5, True), (3.0, False)])
def test_in_bfloat16_scores_may_differ_as_far_as_rounding_moves_them(times, shares, examples, monkeypatch):
    """Which is more than what may differ in any case: of a small model too little for that, so that is less here."""
    monkeypatch.setattr(equality, "rounding", lambda dtype: 1e-3)
    model = tiny.tiny_model().bfloat16()
    tried = _chosen(examples)

    def scores():
        return [s for row in plain_log_likelihoods(model, tried, len(tried), 0) for s in row]

    expected = scores()
    with rounded_otherwise(model):
        moved = scores()
    noise = noise_of(expected, moved)
    assert 1e-3 < noise < 0.1
    right = SharedPasses.score

    def off(self, batch):
        right(self, batch)
        for stem in batch.stems:
            self.scores[stem.index] = [s + times * noise * max(1.0, abs(s)) for s in self.scores[stem.index]]

    monkeypatch.setattr(SharedPasses, "score", off)
    why = why_not_shared(model, examples, 0)
    assert (why is None) == shares


@pytest.mark.parametrize("lacks", ["memory", "numbers"])
def test_a_plain_path_that_gives_nothing_says_nothing_about_sharing_and_is_asked_again(lacks, examples, monkeypatch):
    def plain(model, chosen, *rest):
        if lacks == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [[math.nan] * len(each.choices) for each in chosen]

    monkeypatch.setattr("heft.evaluation.likelihood.plain_log_likelihoods", plain)
    verdicts = Verdicts()
    with remembered(verdicts):
        assert why_not_shared(tiny.tiny_model(), examples, 0) is None
    assert not verdicts.found


def test_what_was_found_for_prefixes_of_one_reach_is_not_taken_for_those_of_another(examples, monkeypatch):
    monkeypatch.setattr("heft.evaluation.likelihood._why_unlike", lambda model, chosen, pad_id, kept: str(kept))
    model = tiny.tiny_model()
    with remembered(Verdicts()):
        for kept in (None, SimpleNamespace(start=2), SimpleNamespace(start=3)):
            assert why_not_shared(model, examples, 0, kept) == str(kept)


def test_the_shortest_question_the_longest_and_two_on_one_text_are_what_is_tried(monkeypatch):
    rows = Encoder(tiny.byte_tokenizer(), 512)(load_examples(TASK, "eval"))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].prompt))
    alike = order[3:5]
    grouped = [
        replace(row, example=replace(row.example, group="a" if i in alike else f"g{i}")) for i, row in enumerate(rows)
    ]
    seen = []
    monkeypatch.setattr(
        "heft.evaluation.likelihood.choice_log_likelihoods",
        lambda model, chosen, **rest: seen.append(chosen) or [[0.0] * len(e.choices) for e in chosen],
    )
    assert why_not_shared(tiny.tiny_model(), grouped, 0) is None
    assert seen[0] == [grouped[i] for i in sorted({order[0], *alike, order[-1]})]
