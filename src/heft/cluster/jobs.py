"""A run that is to be done, how it can fail, and what does runs."""

import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from heft.errors import HeftError
from heft.recipe.recipe import Recipe
from heft.runtime.reporter import Reporter


@dataclass(frozen=True)
class Job:
    """A run that is to be done, or to be gone on with.

    Attributes:
        name: for people, such as "lora, seed 0"; no two jobs have the same.
        recipe: its recipe, with the directory that it writes.
        base_from: directories of runs from which the evaluation of the base may be taken.
    """

    name: str
    recipe: Recipe
    base_from: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Failure:
    """Why a run is not finished.

    Attributes:
        words: for people.
        traceback: where it happened; None for an error of heft's own words.
    """

    words: str
    traceback: str | None = None


def failure_of(error: Exception) -> Failure:
    """An error as a failure, with its type and its place where it is not one of heft's own."""
    if isinstance(error, HeftError):
        return Failure(str(error))
    where = "".join(traceback.format_exception(error))
    return Failure(f"{type(error).__name__}: {error}", where)


class Executor(Protocol):
    """Does runs, wherever that is.

    Attributes:
        is_elsewhere: whether runs may be done on other machines than this one, where steps take other times.
    """

    is_elsewhere: bool

    def ready(self, reporter: Reporter) -> AbstractContextManager[None]:
        """Around everything that is done: makes sure beforehand that runs can be done, and writes nothing.

        Raises:
            HeftError: they cannot.
        """
        ...

    def run(self, jobs: Sequence[Job], directory: Path, reporter: Reporter) -> Iterator[tuple[Job, Failure | None]]:
        """Do all jobs, each of which writes below `directory`; gives each as it ends.

        Raises:
            HeftError: none can be done; what is finished by then stays.
        """
        ...
