"""Lists in sentences."""

from collections.abc import Iterable, Sequence


def first_of(items: Iterable[object], limit: int, separator: str = ", ") -> str:
    """`a, b, c and 1,204 more`: the first `limit` items, and how many are left out."""
    shown = [str(item) for item in items]
    more = f" and {len(shown) - limit:,} more" if len(shown) > limit else ""
    return separator.join(shown[:limit]) + more


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
