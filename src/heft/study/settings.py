"""The settings of a study. `heft.study.files` reads them from YAML, together with the recipes of its arms."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import InitErrorDetails

from heft.settings.base import Distinct, FileName, PathOrId, Settings, output_directory, value_error
from heft.text.listing import suggest


class Budget(Settings):
    """What the stages of an arm may cost together: one of these keys. All its stages are made longer or shorter by one
    factor, to come as near as whole steps allow."""

    steps: int | None = Field(default=None, ge=1)
    """Optimiser steps."""
    flops: float | None = Field(default=None, gt=0)
    """FLOPs of training as `heft plan` counts them with nothing cached."""
    spent_flops: float | None = Field(default=None, gt=0)
    """Executed FLOPs of training: what heft caches is not counted again."""
    seconds: float | None = Field(default=None, gt=0)
    """Seconds of training on this machine, by a few steps of each stage that are measured first."""
    steps_of: str | None = None
    """As many steps as this arm takes."""
    flops_of: str | None = None
    """As many FLOPs as this arm takes, with nothing cached in either."""
    spent_flops_of: str | None = None
    """As many executed FLOPs as this arm takes."""
    seconds_of: str | None = None
    """As many seconds as this arm takes, both measured first."""

    @model_validator(mode="after")
    def _one_is_given(self) -> "Budget":
        if len(self._given) != 1:
            found = f"{' and '.join(self._given)} are given" if self._given else "none is given"
            raise ValueError(f"a budget is exactly one of {', '.join(type(self).model_fields)}; {found}")
        return self

    @property
    def kind(self) -> str:
        """`steps`, `flops`, `spent_flops` or `seconds`."""
        return self._given[0].removesuffix("_of")

    @property
    def amount(self) -> float | None:
        """How much of that kind; None where it is what another arm takes."""
        return getattr(self, self.kind)

    @property
    def other(self) -> str | None:
        """The arm whose cost is taken; None where the budget is a number."""
        return getattr(self, f"{self.kind}_of")

    @property
    def _given(self) -> list[str]:
        return [key for key in type(self).model_fields if getattr(self, key) is not None]


class ArmSettings(Settings):
    """One experimental condition: a recipe, with some settings changed."""

    recipe: str = Field(min_length=1)
    """Path of the recipe, from the study's file, or the name of one that comes with heft, such as quickstart."""
    set: dict[str, Any] = Field(default={})
    """Settings to change in it, as with `--set`, such as {stages.coarse.epochs: 20}; after the study's own `set`."""
    label: str | None = Field(default=None, min_length=1)
    """What it is, for people; null means its name."""
    budget: Budget | None = None
    """What its stages may cost together; null means the study's budget."""


def _check_arm_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", value) or value == "base":
        raise ValueError(f"an arm's name is letters, digits, '_' and '-', and not 'base'; got {value!r}")
    return value


class StudySettings(Settings):
    """The settings of a study: several recipes × seeds."""

    name: FileName
    """Name of the study: letters, digits, `.`, `_` and `-`."""
    arms: dict[Annotated[str, AfterValidator(_check_arm_name)], ArmSettings] = Field(min_length=1)
    """What is compared."""
    set: dict[str, Any] = Field(default={})
    """Settings to change in the recipes of all arms, as with `--set`."""
    seeds: Annotated[list[Annotated[int, Field(ge=0, le=2**32 - 1)]], Distinct] = Field(default=[0], min_length=1)
    """Each arm is run once with each of these seeds."""
    budget: Budget | None = None
    """What each arm's stages may cost together; null leaves the recipes as long as they are. An arm whose own cost this
    names stays as it is."""
    reference: str | None = None
    """The arm that all others are compared with; null compares all pairs."""
    base: bool = False
    """Compare the model before any stage too, as an arm `base`."""
    output: PathOrId | None = Field(default=None, min_length=1)
    """Directory that the study writes; null means `runs/<name>`."""

    @field_validator("arms")
    @classmethod
    def _budgets_name_arms(cls, arms: dict[str, ArmSettings]) -> dict[str, ArmSettings]:
        faults = []
        for name, arm in arms.items():
            problem = arm.budget and _problem_of(arm.budget, name, arms)
            if problem:
                path = (name, "budget", f"{arm.budget.kind}_of")
                faults.append(InitErrorDetails(type=value_error(problem), loc=path, input=None))
        if faults:
            raise ValidationError.from_exception_data("arms", faults)
        return arms

    @field_validator("budget")
    @classmethod
    def _budget_names_an_arm(cls, value: Budget | None, info: ValidationInfo) -> Budget | None:
        arms = info.data.get("arms")
        problem = _problem_of(value, None, arms) if value is not None and arms else None
        if problem:
            raise ValueError(problem)
        return value

    @field_validator("reference")
    @classmethod
    def _reference_is_an_arm(cls, value: str | None, info: ValidationInfo) -> str | None:
        arms = info.data.get("arms")
        if value is not None and arms and value not in arms:
            raise ValueError(f"no arm {value!r}{suggest(value, list(arms))}")
        return value

    @property
    def output_dir(self) -> Path:
        """The directory that the study writes."""
        return output_directory(self.output, self.name)

    def budget_of(self, arm: str) -> Budget | None:
        """What an arm may cost; None where it stays as long as its recipe is."""
        budget = self.arms[arm].budget or self.budget
        return None if budget is None or budget.other == arm else budget


def _problem_of(budget: Budget, name: str | None, arms: dict[str, ArmSettings]) -> str | None:
    """What is wrong with a budget that is another arm's; `name` is the arm that has it, None for all arms."""
    other = budget.other
    if other is None:
        return None
    if other not in arms:
        return f"no arm {other!r}{suggest(other, list(arms))}"
    if other == name:
        return "names its own arm; name another, or give a number"
    if arms[other].budget is not None and arms[other].budget.other is not None:
        return f"arm {other!r} has the budget of another arm itself; name that one"
    return None
