"""Base class of every settings model: strict, frozen, and the single place where a setting is declared."""

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo
from pydantic_core import PydanticCustomError

from heft.errors import HeftError
from heft.settings.words import faults_of, in_one_line


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

    if not TYPE_CHECKING:  # type checkers know the fields of each subclass, and would see this instead

        def __init__(self, **values: Any) -> None:
            """Made in Python, as from a file: as strict, and with a `HeftError` that says all that is wrong."""
            try:
                self.__pydantic_validator__.validate_python(values, strict=True, self_instance=self)
            except ValidationError as error:
                faults = in_one_line(faults_of(error, type(self)))
                raise HeftError(f"{type(self).__name__}: {faults}") from None

        __init__.__pydantic_base_init__ = True  # groups within groups are checked by pydantic at once, without this


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


def _check_path(value: str) -> str:
    if "\0" in value:
        raise ValueError("has a NUL character, which no path and no name can have; remove it")
    return value


def output_directory(output: str | None, name: str) -> Path:
    """The directory that a setting `output` names, `~` being the home; `runs/<name>` where it is null."""
    return Path("runs") / name if output is None else Path(os.path.expanduser(output))


FileName = Annotated[str, AfterValidator(_check_file_name)]
"""A name that a directory can have."""
PathOrId = Annotated[str, AfterValidator(_check_path)]
"""A path, or the name of what is on the Hub."""
Distinct = AfterValidator(_check_distinct)
"""Where the value is a list, no entry is repeated."""
