"""Base class of every settings model: strict, frozen, and the single place where a setting is declared."""

import difflib
import re
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo
from pydantic_core import PydanticCustomError


class Settings(BaseModel):
    """A group of settings. Unknown keys are errors, values are never silently converted between kinds."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
    )


def suggest(given: str, known: list[str] | tuple[str, ...]) -> str:
    """`; did you mean 'x'?` for the known words closest to the given one, or the list of all where none is close."""
    close = difflib.get_close_matches(given, known, n=2, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(repr(word) for word in close)}?"
    return f"; known here: {', '.join(sorted(known))}"


def _check_file_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value) or ".." in value:
        raise ValueError(f"a name is letters, digits, '.', '_' and '-', without '..', and no path; got {value!r}")
    return value


def _check_distinct(value: list | str, info: ValidationInfo) -> list | str:
    if isinstance(value, list) and len(set(value)) != len(value):
        raise ValueError(f"{info.field_name} must not repeat an entry; got {value}")
    return value


def value_error(text: str, **context) -> PydanticCustomError:
    """A validator's error, with context for `heft.settings.words.explain`, such as the key `below` that is wrong."""
    return PydanticCustomError("value_error", "{text}", {"text": text, **context})


FileName = Annotated[str, AfterValidator(_check_file_name)]
"""A name that a directory can have."""
Distinct = AfterValidator(_check_distinct)
"""Where the value is a list, no entry is repeated."""
