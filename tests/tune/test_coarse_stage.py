"""The coarse stage of arms with two stages, and its lengths behind which second stages are tried."""

from types import SimpleNamespace

from heft.tune.arms import Search
from heft.tune.chosen_by import LOSS
from heft.tune.ledger import Account, Ledger
from heft.tune.trial import Outcome


def coarse_stage(tmp_path, *rounds):
    """What is found where LoRA's first rounds have these trials, each a candidate's name, steps and loss."""

    def trials(number):
        return [
            (name, Outcome(f"{name}{steps}", "lora", {}, {}, loss, None, steps=steps))
            for name, steps, loss in rounds[number]
        ]

    account = Account("lora+reft", 100.0, "seconds", Ledger(tmp_path / "trials.jsonl"), LOSS)
    search = Search(None, {"lora+reft": account})
    search.__dict__["_loras_rounds"] = SimpleNamespace(planned=lambda: [0, 1], trials=trials)
    pieces = search._coarse_stage(account)
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            name, own = end.value
            return name, [each.steps for each in own]


def test_it_is_the_best_with_its_shorter_trials(tmp_path):
    found = coarse_stage(tmp_path, [("a", 8, 0.5), ("b", 12, 0.4)], [("a", 30, 0.6), ("b", 30, 0.3)])
    assert found == ("b", [12, 30])


def test_one_that_can_be_no_longer_is_there_once(tmp_path):
    """In the second round it has the trial that it had: two forks of one length would have nothing between them."""
    found = coarse_stage(tmp_path, [("a", 12, 0.3), ("b", 8, 0.5)], [("a", 12, 0.3), ("b", 12, 0.4)])
    assert found == ("a", [12])


def test_what_diverged_is_no_fork(tmp_path):
    found = coarse_stage(tmp_path, [("a", 8, None), ("b", 8, 0.5)], [("a", 30, 0.3), ("b", 30, 0.4)])
    assert found == ("a", [30])
