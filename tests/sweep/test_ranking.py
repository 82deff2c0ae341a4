"""What the best configuration is: the one with the fewest expected errors, or the lowest loss of generated answers."""

import math
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

from heft.data.encode import EncodedExample
from heft.sweep.report import plot, ranking
from heft.sweep.results import rank
from heft.tasks.example import choice_example

RIGHT, WRONG = (7,), (8, 9)


def training(probabilities, choices=(RIGHT, WRONG)):
    """Configurations whose right answers have these probabilities on the validation rows, and the wrong ones the
    rest; None: it diverged."""
    rows = len(next(each for each in probabilities if each))
    example = choice_example("task", "Is it so?", ["yes", "no"], gold=0)
    row = EncodedExample(example, (1, 2), choices, RIGHT, cut=0)

    def measure(items):
        right = [probabilities[learner][number] for learner, number, _ in items]
        return [-math.log(p if text == RIGHT else 1 - p) for p, (_, _, text) in zip(right, items, strict=True)]

    learners = [
        SimpleNamespace(
            number=number,
            configuration=SimpleNamespace(name=f"c{number:02}", values={"rank": number}),
            taken=3,
            parameters={},
            stopped_early=False,
            diverged=each is None,
            losses=[1.0],
            validation_losses=[],
        )
        for number, each in enumerate(probabilities)
    ]
    forward = SimpleNamespace(examples=[row] * rows, item=lambda *key: key)
    retrying = SimpleNamespace(measure=measure)
    return SimpleNamespace(learners=learners, forward=forward, validation=list(range(rows)), retrying=retrying)


CAUTIOUS, BOLD = [0.6, 0.6, 0.6, 0.4], [0.99, 0.99, 0.99, 0.01]
"""The second has a higher loss, since it is sure of its one wrong answer, and fewer expected errors."""


def test_expected_errors_decide_where_there_are_choices(tmp_path):
    found = rank(training([CAUTIOUS, None, BOLD]), "none")
    assert [result.name for result in found] == ["c02", "c00", "c01"]
    assert [result.expected_errors for result in found[:2]] == pytest.approx([(3 * 0.01 + 0.99) / 4, 0.45])
    assert found[0].loss == pytest.approx(-(3 * math.log(0.99) + math.log(0.01)) / 4)
    assert found[0].loss > found[1].loss
    assert [result.accuracy for result in found] == [0.75, 0.75, None]
    assert (found[2].expected_errors, found[2].ranked_by) == (None, None)
    assert ranking(found) == "expected errors"
    plot(tmp_path / "sweep.svg", found, "sweep")
    drawn = ElementTree.parse(tmp_path / "sweep.svg").getroot()
    dots = [float(dot.get("cx")) for dot in drawn.findall("{*}circle")]
    assert dots == sorted(dots)
    assert len(dots) == 2
    assert "expected errors on the validation rows, %" in " ".join(drawn.itertext())


def test_the_loss_decides_where_answers_are_generated(tmp_path):
    found = rank(training([BOLD, CAUTIOUS], choices=()), "none")
    assert [result.name for result in found] == ["c01", "c00"]
    assert [result.expected_errors for result in found] == [None, None]
    assert ranking(found) == "validation loss"
    plot(tmp_path / "sweep.svg", found, "sweep")
    assert "validation loss per answer token" in (tmp_path / "sweep.svg").read_text()
