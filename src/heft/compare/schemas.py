"""The values that are read from the files of runs and studies. Other keys are ignored: later versions write more."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class _Schema(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class _BaseEntry(_Schema):
    name: str
    dtype: str | None = None


class ManifestFile(_Schema):
    """manifest.json."""

    format: Any = None
    base: _BaseEntry | None = None
    data: dict[str, Any] | None = None
    sources: dict[str, dict[str, Any]] = {}


class _StageSettings(_Schema):
    method: str = ""
    steps: int | None = None
    epochs: float | None = None


class _EvaluationSettings(_Schema):
    normalize: str = "none"


class RecipeFile(_Schema):
    """recipe.yaml of a run: as it was resolved, perhaps by another version, so the recipe's own checks do not apply."""

    name: str
    seed: int
    stages: Annotated[dict[str, _StageSettings], Field(min_length=1)]
    task: dict[str, Any] = {}
    evaluation: _EvaluationSettings = _EvaluationSettings()


class _Failed(_Schema):
    seed: int
    error: str


class _Arm(_Schema):
    name: str
    label: str | None = None
    runs: list[str]
    stage: str | None = None
    failed: list[_Failed] = []


class StudyFile(_Schema):
    """study.json."""

    name: str
    reference: str | None = None
    seeds: list[int] = []
    arms: list[_Arm]
