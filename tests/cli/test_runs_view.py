"""Several runs at once on the console."""

import io

from rich.console import Console

from heft.cli.runs_view import RunsView
from heft.cli.show import ConsoleReporter, PlainConsole, table
from heft.runtime.reporter import RunNews

GOING = [
    RunNews("lora, seed 0", "n1", "coarse", 12, 40, 0.43125, ("base 43.3 %",)),
    RunNews("reft, seed 0", "n2", "loading a model"),
]


def test_where_there_is_no_terminal_a_line_comes_now_and_then():
    out = io.StringIO()
    reporter = ConsoleReporter(PlainConsole(file=out, soft_wrap=True))
    for _ in range(3):
        reporter.runs(GOING, 1, 4)
    reporter.runs((), 4, 4)
    line = "lora, seed 0 on n1: coarse 12/40, loss 0.4313; reft, seed 0 on n2: loading a model"
    assert out.getvalue() == f"1 of 4 runs done; {line}\n"


def test_in_a_terminal_there_is_one_table_which_goes_in_the_end():
    out = io.StringIO()
    view = RunsView(Console(file=out, force_terminal=True, width=100), table)
    view.show(GOING, 1, 4)
    shown = out.getvalue()
    for text in ("1 of 4 runs done, 2 going", "coarse 12/40, loss 0.4313", "base 43.3 %", "loading a model"):
        assert text in shown
    view.show((), 4, 4)
    assert view._live is None
    view.show((), 4, 4)  # where none was going


def test_of_many_runs_the_first_are_shown_and_the_others_counted():
    many = [RunNews(f"run {number}", "n", "coarse") for number in range(25)]
    out = io.StringIO()
    RunsView(Console(file=out, width=100, soft_wrap=True), table).show(many, 0, 30)
    assert out.getvalue().rstrip().endswith("run 19 on n: coarse and 5 more")


def test_text_that_a_terminal_would_obey_is_shown_as_it_is():
    out = io.StringIO()
    RunsView(Console(file=out, soft_wrap=True), table).show([RunNews("a\x1b[2J", "n", "coarse")], 0, 1)
    assert "\x1b[2J" not in out.getvalue()
