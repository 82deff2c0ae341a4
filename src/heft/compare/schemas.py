"""What the files of a run and of a study must look like to be read: the kinds of the values that are used.

Other keys may stand beside them; later versions write more.
"""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from heft.errors import HeftError

_FAULTS_SHOWN = 5
_MOST = 1e30  # of a count or a cost: sums and means of these stay finite


class _Shape(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


def _stage_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_]{1,100}", value):
        raise ValueError("a stage's name is at most 100 letters, digits and _, since it names a file too")
    return value


Share = Annotated[float, Field(ge=0, le=1)]
Amount = Annotated[float, Field(ge=0, le=_MOST)]
StageName = Annotated[str, AfterValidator(_stage_name)]


class StageEntry(_Shape):
    """An entry of summary.json (heft.results.summary.StageSummary), as far as it is read."""

    name: StageName
    n: Annotated[int, Field(ge=1)]
    accuracy: Share
    balanced_accuracy: Share | None = None
    majority: Share | None = None
    predictions: dict[str, Share] | None = None
    seconds: Amount | None = None
    evaluation_seconds: Amount | None = None
    steps: Annotated[int, Field(ge=0, le=2**53)]
    tokens: Amount | None = None
    flops: Amount | None = None
    plain_flops: Amount | None = None
    trainable_parameters: Amount | None = None
    stored_parameters: Amount | None = None
    peak_bytes: Amount | None = None
    ended: str | None = None
    ended_because: str | None = None


def _base_then_stages(entries: list[StageEntry]) -> list[StageEntry]:
    names = [entry.name for entry in entries]
    if names[0] != "base" or len(set(names)) < len(names):
        raise ValueError(f"it must be the base, then stages, each once; got {', '.join(names)}")
    return entries


class Summary(_Shape):
    """summary.json."""

    stages: Annotated[list[StageEntry], Field(min_length=1), AfterValidator(_base_then_stages)]


class _Named(_Shape):
    name: str


class _BaseEntry(_Named):
    dtype: str | None = None


class ManifestFile(_Shape):
    """manifest.json."""

    format: Any = None
    base: _BaseEntry | None = None


class RecipeFile(_Shape):
    """recipe.yaml of a run: as it was resolved, perhaps by another version, so the recipe's own checks do not apply."""

    name: str
    seed: int
    stages: Annotated[dict[str, dict[str, Any]], Field(min_length=1)]
    task: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}


class _Failed(_Shape):
    seed: int
    error: str


class _Arm(_Shape):
    name: str
    label: str | None = None
    runs: list[str]
    stage: str | None = None
    failed: list[_Failed] = []


class StudyFile(_Shape):
    """study.json."""

    name: str
    reference: str | None = None
    seeds: list[int] = []
    arms: list[_Arm]


def require_shape(path: Path, value: dict[str, Any], shape: type[_Shape]) -> None:
    """See that a file's value has the kinds that are read.

    Raises:
        HeftError: it has not; the first faults are named.
    """
    try:
        shape.model_validate(value)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)[:_FAULTS_SHOWN]
        shown = "; ".join(f"{'.'.join(map(str, fault['loc']))[:80]}: {fault['msg']}" for fault in faults)
        raise HeftError(f"{path} is not whole or was changed by hand: {shown}") from None
