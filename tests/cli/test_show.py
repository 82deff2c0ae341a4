"""What the console prints: tables whose figures are whole on every screen."""

import io

import pytest

from heft.cli.show import PlainConsole, table

FIGURES = ["1.34 GFLOP", "95.1–100.0 %"]


@pytest.mark.parametrize("name", ["fine", "0.001, [layers 1 to 12], loreft", "退款请求和其他相关问题", "a\x1b[2Jb"])
def test_a_table_is_as_wide_as_it_is_on_a_narrow_screen_and_in_a_pipe(name):
    lines = _printed(table("plan", ["stage"], ["FLOPs", "95 % interval"], [[name, *FIGURES], ["base", *FIGURES]]))
    shown = name.replace("\x1b", "\\u001b")
    assert any(all(cell in line for cell in (shown, *FIGURES)) for line in lines)
    assert not any("…" in line for line in lines)


def test_a_table_that_may_fold_fits_the_screen():
    made = table("runs", ["run", "is at"], [], [["a run with a name", "coarse 12/40, loss 0.4313"]], may_fold=True)
    assert max(map(len, _printed(made))) <= 30


def _printed(made) -> list[str]:
    out = io.StringIO()
    PlainConsole(file=out, width=30, soft_wrap=True).print(made)
    return out.getvalue().splitlines()
