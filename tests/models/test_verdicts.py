"""What was found of a fast path for one training holds for others of its kind, and for none of another kind."""

import time

import pytest

import tiny
from heft.adapters.attach import attach
from heft.adapters.detach import gone_afterwards
from heft.models.verdicts import NothingTold, Verdicts, remembered, verdict
from heft.recipe.recipe import LoraStage, ReftStage

SAME = {"steps": 1, "rank": 2}


def reft(**settings) -> ReftStage:
    return ReftStage(method="reft", **{**SAME, "positions": "l2", **settings})


def lora(**settings) -> LoraStage:
    return LoraStage(method="lora", **{**SAME, "positions": "l2+", **settings})


def verdicts_on(stages, answers, about=lambda number: "fast"):
    """What is found for trainings on one model, one after the other, and how often that is tried."""
    model, known, tried, found = tiny.tiny_model(), Verdicts(), [], []

    def decide():
        tried.append(1)
        answer = answers[len(tried) - 1]
        if answer is NothingTold:
            raise NothingTold
        return answer

    for number, stage in enumerate(stages):
        with gone_afterwards(model), remembered(known):
            attach(model, "fine", stage)
            found.append(verdict(model, about(number), decide))
    return found, len(tried)


@pytest.mark.parametrize("answer", [None, "it differs"])
@pytest.mark.parametrize("other", [reft(), reft(rank=4), reft(learning_rate=0.5, seed=3, steps=9)])
def test_one_of_the_same_kind_is_not_tried_again(other, answer):
    assert verdicts_on([reft(), other], [answer]) == ([answer, answer], 1)


@pytest.mark.parametrize("other", [reft(positions="l3"), reft(layers=[1]), reft(site="mlp"), lora()])
def test_one_of_another_kind_is(other):
    assert verdicts_on([reft(), other, reft()], [None, "it differs"]) == ([None, "it differs", None], 2)


def test_lora_of_another_rank_and_alpha_is_of_the_same_kind_and_of_other_targets_is_not():
    stages = [lora(), lora(rank=4, alpha=3.0), lora(targets=["q_proj"]), lora(positions="all")]
    assert verdicts_on(stages, [None, "other targets", "all"]) == ([None, None, "other targets", "all"], 3)


def test_another_path_or_other_rows_are_tried():
    assert verdicts_on([reft(), reft()], [None, "it differs"], about=lambda number: number)[1] == 2


def test_where_nothing_could_be_told_it_is_tried_again():
    assert verdicts_on([reft(), reft(), reft()], [NothingTold, "it differs"]) == ([None, "it differs", "it differs"], 2)


def test_outside_everything_is_tried():
    model = tiny.tiny_model()
    answers = iter(["first", "second"])
    assert [verdict(model, "fast", lambda: next(answers)) for _ in range(2)] == ["first", "second"]


def test_what_finding_them_took_is_added_up_and_looking_one_up_takes_nothing():
    model, known = tiny.tiny_model(), Verdicts()
    with gone_afterwards(model), remembered(known):
        attach(model, "fine", reft())
        verdict(model, "fast", lambda: time.sleep(0.05))
        once = known.seconds
        verdict(model, "fast", lambda: time.sleep(0.05))
    assert 0.05 <= once == known.seconds
