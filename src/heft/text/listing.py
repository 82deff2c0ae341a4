"""Lists in messages: the first few, and how many more there are."""

from collections.abc import Iterable


def first_of(items: Iterable[object], limit: int, separator: str = ", ") -> str:
    """`a, b, c and 1,204 more`: the first `limit` items, and how many are left out."""
    shown = [str(item) for item in items]
    more = f" and {len(shown) - limit:,} more" if len(shown) > limit else ""
    return separator.join(shown[:limit]) + more
