"""Lists in sentences."""

import difflib
from collections.abc import Iterable, Sequence
from string import ascii_lowercase


def first_of(items: Iterable[object], limit: int, separator: str = ", ") -> str:
    """`a, b, c and 1,204 more`: the first `limit` items, and how many are left out."""
    shown = [str(item) for item in items]
    more = f" and {len(shown) - limit:,} more" if len(shown) > limit else ""
    return separator.join(shown[:limit]) + more


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def suggest(given: str, known: Sequence[str]) -> str:
    """`; did you mean 'x'?` for the known words closest to the given one, or the list of all where none is close."""
    close = difflib.get_close_matches(given, known, n=2, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(repr(word) for word in close)}?"
    return f"; known here: {', '.join(sorted(known))}"


def letter(index: int) -> str:
    """a, b, …, z, aa, ab, …"""
    return (letter(index // 26 - 1) if index >= 26 else "") + ascii_lowercase[index % 26]
