"""What is wrong with rows, for people: all of them counted, the first ten shown, each cause once."""

from collections import Counter
from collections.abc import Sequence

from heft.errors import HeftError

Row = tuple[str, dict]
"""The place of a row ("path:line" or "google/boolq[validation] row 12") and its columns."""

FAULTS_SHOWN = 10
_PLACES_SHOWN = 10
"""Further places that a cause names."""


def fault_report(heading: str, faults: Sequence[str]) -> HeftError:
    """One error that shows the first ten faults and counts the rest."""
    lines = [heading, *(f"  {fault}" for fault in faults[:FAULTS_SHOWN])]
    if len(faults) > FAULTS_SHOWN:
        lines.append(f"  … and {len(faults) - FAULTS_SHOWN:,} more")
    return HeftError("\n".join(lines))


def faults_by_cause(heading: str, faults: Sequence[tuple[str, str]]) -> HeftError:
    """One error from places and what is wrong there: a cause stands once, with the first ten places that have it."""
    causes: dict[str, list[str]] = {}
    for where, cause in faults:
        causes.setdefault(cause, []).append(where)
    return fault_report(heading, [f"{places[0]}: {cause}{_elsewhere(places[1:])}" for cause, places in causes.items()])


def require_distinct(where: object, columns: Sequence[str]) -> None:
    """Require that no column has the name of another.

    Raises:
        HeftError: some have.
    """
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise HeftError(f"{where}: columns must have names, each once; twice there: {', '.join(map(repr, twice))}")


def _elsewhere(places: Sequence[str]) -> str:
    """Where else: ` (and in 2 more: :4, :7)`."""
    if not places:
        return ""
    shown = [_short(place) for place in places[: _PLACES_SHOWN - 1]]
    more = len(places) - len(shown)
    return f" (and in {len(places):,} more: {', '.join(shown)}{', …' if more else ''})"


def _short(place: str) -> str:
    """A place without its file: `:12` or `row 12`."""
    file, colon, line = place.rpartition(":")
    if colon and line.isdecimal():
        return f":{line}"
    return f"row {place.rpartition(' row ')[2]}" if " row " in place else place
