"""`heft compare`: which runs, and what sets them apart."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table as RichTable

from heft.cli.show import ConsoleReporter
from heft.compare.comparison import Comparison, compare
from heft.compare.inputs import read_inputs
from heft.compare.table import Table, tables
from heft.errors import HeftError
from heft.text.escape import escape_controls


def run_compare(
    given: Sequence[str],
    reference: str | None,
    as_json: bool,
    overrides: Sequence[str] = (),
    output: Path | None = None,
    dry_run: bool = False,
) -> None:
    """Run a study where a study file is given; else compare runs, or one run's stages, or studies' arms, and print.

    Raises:
        HeftError: something of it cannot be read, or does not compare.
    """
    if any(name.endswith((".yaml", ".yml")) for name in given):
        if len(given) > 1:
            raise HeftError("give one study file, or directories of runs; got both or several")
        if reference is not None or as_json:
            raise HeftError(f"{given[0]} names its reference itself and leaves comparison.json; give it alone")
        from heft.cli.study import run_study

        run_study(Path(given[0]), overrides, output, dry_run)
        return
    if overrides or output is not None or dry_run:
        raise HeftError("--set, --output and --dry-run are for a study file; runs are compared as they are")
    found = read_inputs(given)
    if reference is None:
        comparison = compare(found.arms, found.reference, found.pairs)
    else:
        comparison = compare(found.arms, reference)
    if as_json:
        print(escape_controls(json.dumps(comparison.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)))
    else:
        show(comparison, ConsoleReporter(), found.notes)


def show(comparison: Comparison, reporter: ConsoleReporter, notes: Sequence[str] = ()) -> None:
    """Print the verdicts, what else there is to know, and the tables."""
    for pair in comparison.pairs:
        reporter.note(pair.words)
    if not comparison.pairs:
        reporter.note("one arm alone: nothing to compare it with")
    for note in notes:
        reporter.note(note)
    for table in tables(comparison):
        reporter.console.print(_rich(table))


def _rich(table: Table) -> RichTable:
    # as wide as it is, on a narrow screen too: figures that are cut off say something else
    shown = RichTable(title=table.title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, width=_width(table))
    for number, heading in enumerate(table.headings):
        shown.add_column(heading, justify="left" if number < table.texts else "right", no_wrap=True)
    for row in table.rows:
        shown.add_row(*row)
    return shown


def _width(table: Table) -> int:
    """What the table takes with nothing cut off: its cells, and three columns of space and border for each."""
    return sum(3 + max(map(len, column)) for column in zip(table.headings, *table.rows, strict=True))
