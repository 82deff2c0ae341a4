"""Time left and speed, by hand: pieces of known cost that run at known speeds on a clock of one's own."""

import io
import re

import pytest

from heft.cli.estimate import Estimate
from heft.cli.facts import facts, memory_in_use
from heft.cli.show import ConsoleReporter, PlainConsole
from heft.costs.pieces import pieces_of
from heft.data.rows import read_data
from heft.models.load import load_base
from heft.plan.planner import make_plan
from heft.recipe.files import load_recipe
from heft.run.train import train
from heft.runtime.reporter import Piece, Reporter


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_piece_of_even_steps_is_scaled_by_its_own_speed(clock):
    estimate = Estimate(clock)
    estimate.expect([Piece("a", "training", rows=40, tokens=400, flops=1000)])
    estimate.begin("a", 10)
    assert (estimate.speed, estimate.seconds_of_piece, estimate.seconds_of_run) == (None, None, None)
    clock.now += 6
    estimate.step(3)
    assert estimate.speed == pytest.approx((2, 20))  # 12 rows and 120 tokens in 6 s
    assert estimate.seconds_of_piece == pytest.approx(14)
    assert estimate.seconds_of_run == pytest.approx(14)


def test_first_steps_that_warm_up_are_forgotten(clock):
    estimate = Estimate(clock)
    estimate.expect([Piece("a", "training", rows=80, tokens=800, flops=1000)])
    estimate.begin("a", 8)
    for step, seconds in ((1, 50), (2, 1), (3, 1), (4, 1)):
        clock.now += seconds
        estimate.step(step)
    assert estimate.speed == pytest.approx((10, 100))
    assert estimate.seconds_of_piece == pytest.approx(4)


def test_what_is_computed_once_is_not_expected_again(clock):
    estimate = Estimate(clock)
    estimate.expect([Piece("a", "prefixes", 40, 400, flops=1000, once_flops=800, once_share=0.25)])
    estimate.begin("a", 20)
    clock.now += 10
    estimate.step(5)  # a quarter of the steps: 800 at once, 50 of the rest, which is three times as slow
    assert estimate.seconds_of_piece == pytest.approx(10 * 450 / 950)


def test_pieces_to_come_go_at_the_speed_of_their_kind(clock):
    estimate = Estimate(clock)
    kinds = ("evaluation", "training", "evaluation", "prefixes", "evaluation")
    estimate.expect([Piece(f"p{i}", kind, 10, 10, flops=100) for i, kind in enumerate(kinds)])
    estimate.begin("p0", 10)
    clock.now += 1
    estimate.step(10)
    assert estimate.seconds_of_run == pytest.approx(1 + 1 + 3 + 1)  # nothing but evaluation was seen: 100 a second
    estimate.end()
    estimate.begin("p1", 10)
    clock.now += 5
    estimate.step(5)  # 10 a second
    assert estimate.seconds_of_run == pytest.approx(5 + 1 + 30 + 1)
    clock.now += 5
    estimate.step(10)
    estimate.end()
    estimate.begin("p2", 10)
    clock.now += 4
    estimate.step(10)  # evaluations have now taken 5 s for 200
    assert estimate.seconds_of_run == pytest.approx(30 + 4)  # as the last evaluation, and as the last training


def test_where_a_cost_is_unknown_tokens_are_compared_training_three_for_one(clock):
    estimate = Estimate(clock)
    estimate.expect([Piece("e", "evaluation", 10, 100, flops=7), Piece("t", "training", 10, 100, flops=None)])
    estimate.begin("e", 1)
    clock.now += 2
    estimate.step(1)
    assert estimate.seconds_of_run == pytest.approx(6)


def test_a_resumed_piece_counts_from_where_it_was(clock):
    estimate = Estimate(clock)
    estimate.expect([Piece("a", "training", 100, 100, flops=100)])
    estimate.resumed("a", 8)
    estimate.begin("a", 10)
    clock.now += 3
    estimate.step(9)
    assert estimate.seconds_of_piece == pytest.approx(3)
    assert estimate.speed == pytest.approx((10 / 3, 10 / 3))


def test_a_piece_that_was_not_expected_is_known_by_its_steps_alone(clock):
    estimate = Estimate(clock)
    estimate.begin("?", 4)
    clock.now += 3
    estimate.step(1)
    assert estimate.speed is None
    assert estimate.seconds_of_piece == pytest.approx(9)
    assert estimate.seconds_of_run is None


def test_a_piece_that_begins_again_or_ends_early_leaves_what_was_measured(clock):
    estimate = Estimate(clock)
    estimate.expect([Piece("a", "training", 10, 10, flops=100), Piece("b", "training", 10, 10, flops=100)])
    estimate.begin("a", 10)
    clock.now += 1
    estimate.step(5)
    estimate.end()
    estimate.begin("a", 10)  # memory ran out
    clock.now += 3
    estimate.step(5)
    assert estimate.speed is not None
    estimate.end()  # early stopping
    estimate.begin("b", 10)
    clock.now += 2
    estimate.step(5)
    assert estimate.seconds_of_run == pytest.approx(2)


def test_the_facts_are_in_one_line(clock):
    estimate = Estimate(clock)
    estimate.expect([Piece("a", "training", 400, 40_000, flops=1), Piece("b", "training", 400, 40_000, flops=3)])
    estimate.begin("a", 10)
    clock.now += 10
    estimate.step(2)
    shown = facts(estimate, "loss 1.2000")
    assert re.fullmatch(
        r"loss 1.2000, 8 rows/s, 800 tokens/s, 40 s left \(run: 3.2 min\), [\d.]+ [MG]B (RAM|CUDA peak)", shown
    ), shown
    clock.now += 40
    estimate.step(10)
    assert "run: 2.5 min left" in facts(estimate)


def test_memory_is_that_of_this_process():
    held, where = memory_in_use()
    before = held
    block = bytearray(200_000_000)
    block[::4096] = b"x" * len(block[::4096])
    held, where = memory_in_use()
    assert where != "RAM" or held - before > 150_000_000
    del block


STAGES = (
    "{coarse: {method: lora, rank: 2, epochs: 2, batch_size: 8},"
    " fine: {method: reft, positions: l2, rank: 2, epochs: 3, batch_size: 8}}"
)


def test_pieces_of_a_run_are_those_that_run_with_the_plans_costs(recipe_file, tmp_path):
    class Heard(Reporter):
        def __init__(self):
            self.pieces, self.begun = [], []

        def expected(self, pieces):
            self.pieces = list(pieces)

        def progress(self, what, total):
            self.begun.append(what)
            return super().progress(what, total)

    recipe, heard = load_recipe(recipe_file(STAGES), output=tmp_path / "run"), Heard()
    train(recipe, heard)
    assert [piece.name for piece in heard.pieces] == heard.begun
    plan = make_plan(recipe, probe_seconds=0)
    costs = {piece.name: piece.flops for piece in heard.pieces}
    assert costs["evaluation of base"] == plan.base_evaluation_flops
    for stage in plan.stages:
        assert costs[stage.name] == stage.flops
        assert costs[f"evaluation of {stage.name}"] == stage.evaluation_flops
    coarse, fine = (next(piece for piece in heard.pieces if piece.name == name) for name in ("coarse", "fine"))
    assert (coarse.rows, coarse.tokens) == (48, 2 * plan.train.tokens)
    assert (fine.kind, fine.once_share) == ("prefixes", pytest.approx(1 / 9))  # 24 rows, computed 16 at a time
    assert 0 < fine.once_flops < fine.flops


def test_what_is_done_is_not_expected_again(recipe_file):
    recipe = load_recipe(recipe_file(STAGES))
    base = load_base(recipe.model)
    data = read_data(recipe, Reporter())
    left = pieces_of(recipe, base.model, data, evaluated=["base", "coarse"], trained=["coarse"])
    assert [piece.name for piece in left] == ["fine", "evaluation of fine"]
    left = pieces_of(recipe, base.model, data, evaluated=["base"], trained=["coarse"])
    assert [piece.name for piece in left] == ["evaluation of coarse", "fine", "evaluation of fine"]


@pytest.mark.parametrize("is_terminal", [False, True])
def test_lines_and_bar_show_the_same_facts(is_terminal):
    console = PlainConsole(file=io.StringIO(), force_terminal=is_terminal, width=200, soft_wrap=True)
    reporter = ConsoleReporter(console)
    reporter.expected([Piece("work", "training", 100, 1000, flops=10)])
    with reporter.progress("work", 2):
        reporter.metrics({"stage": "work", "step": 1, "loss": 0.5})
        reporter.step("work", 2, 2)
    text = console.file.getvalue()
    for fact in ("work", "2/2", "loss 0.5000", "rows/s", "tokens/s", "B "):
        assert fact in text
