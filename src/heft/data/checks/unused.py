"""Settings that have no effect on the rows that there are."""

from collections.abc import Sequence

from heft.data.encode import EncodedExample
from heft.recipe.recipe import Recipe
from heft.settings.base import Settings
from heft.settings.words import show

_OF_CHOICES = (("task", "format"), ("evaluation", "normalize"))
_OF_GENERATING = (("task", "max_new_tokens"), ("task", "stop"))


def unused_settings(recipe: Recipe, rows: Sequence[EncodedExample]) -> list[str]:
    """Settings of choices that are set where no row has any, and of generated answers where all rows have choices."""
    found = []
    if not any(row.choices for row in rows):
        found += _set(recipe, _OF_CHOICES, "no row has choices, answers are generated")
    if all(row.choices for row in rows):
        found += _set(recipe, _OF_GENERATING, "all rows have choices, which are scored, and nothing is generated")
    return found


def _set(recipe: Recipe, keys: Sequence[tuple[str, str]], why: str) -> list[str]:
    """Those of the settings that are there and not what they are by default."""
    found = []
    for part, key in keys:
        settings: Settings = getattr(recipe, part)
        field = type(settings).model_fields.get(key)
        if field is not None and (value := getattr(settings, key)) != field.get_default(call_default_factory=True):
            found.append(f"{part}.{key}: {show(value)} has no effect, since {why}; remove it")
    return found
