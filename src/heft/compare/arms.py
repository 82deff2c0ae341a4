"""Arms: experimental conditions, each of one or more runs that differ in their seed."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from heft.compare.runs import RunFiles, read_run, require_format
from heft.compare.schemas import StudyFile
from heft.errors import HeftError
from heft.recipe.files import ONLY_WRITING
from heft.recipe.recipe import Recipe
from heft.settings.words import checked
from heft.storage.reading import is_file, read_json

STUDY_FORMAT = 1
"""Number of the format of study.json."""


@dataclass(frozen=True)
class Arm:
    """Runs that differ in their seed only: base, rows to train on and recipes are equal, but for seed, name and output.

    Attributes:
        name: for people, unique.
        stage: after which the runs are compared; "base" for the model before any.
        runs: one for each seed.
    """

    name: str
    stage: str
    runs: tuple[RunFiles, ...]


def arms_of(runs: Sequence[RunFiles], stages: Sequence[str | None] | None = None) -> list[Arm]:
    """Gather runs into arms, in the order in which each first appears.

    An arm is called as its recipe is; where that does not tell arms apart, as the directory of its first run. `stages`
    says after which stage each run is compared, None for its last.

    Raises:
        HeftError: a run is unfinished and no stage of it was named, or one recipe and seed was given twice.
    """
    stages = stages if stages is not None else [None] * len(runs)
    gathered: dict[tuple[str, str], list[RunFiles]] = {}
    for run, stage in zip(runs, stages, strict=True):
        if stage is None and run.missing:
            raise HeftError(
                f"{run.path} is unfinished: {', '.join(run.missing)} is missing; name a stage that it has with"
                f" {run.path}:{run.final.stage}"
            )
        evaluation = run.final if stage is None else run.after(stage)
        gathered.setdefault((_recipe_key(run, evaluation.stage), evaluation.stage), []).append(run)
    for members in gathered.values():
        _require_other_seeds(members)
    members = list(gathered.values())
    ends = [stage for _, stage in gathered]
    names = _tell_apart(members, ends)
    return [Arm(name, stage, tuple(runs)) for name, stage, runs in zip(names, ends, members, strict=True)]


def stage_arms(run: RunFiles) -> list[Arm]:
    """A run's base and stages, each an arm of its own."""
    return [Arm(evaluation.stage, evaluation.stage, (run,)) for evaluation in run.evaluations]


def read_study(path: Path) -> tuple[list[Arm], dict]:
    """The arms of a study directory that have a finished run, and its study.json.

    An arm may name the `stage` that it is compared after, such as "base"; else it is the last.

    Raises:
        HeftError: the study or one of its runs cannot be read, or no arm has a finished run.
    """
    path = Path(path)
    if not is_file(path / "study.json"):
        raise HeftError(f"{path} is not a study directory: it has no study.json")
    study = read_json(path / "study.json")
    require_format(path, study, STUDY_FORMAT)
    checked(path / "study.json", study, StudyFile)
    arms = []
    for entry in study["arms"]:
        runs = tuple(read_run(path / run) for run in entry["runs"])
        if runs:
            stage = entry.get("stage") or runs[0].final.stage
            for run in runs:
                run.after(stage)  # raises where there is none
            arms.append(Arm(entry["name"], stage, runs))
    if not arms:
        raise HeftError(f"{path} holds no finished run yet")
    return arms, study


def _recipe_key(run: RunFiles, stage: str) -> str:
    """What must be equal in an arm: everything that can affect the model after a stage, but the seed.

    That is the recipe's settings, and what it only names: the base's weights, the rows that were trained on and the
    adapters that stages start from.
    """
    recipe, manifest = _as_now(run.recipe), run.manifest
    base = manifest.get("base") or {}  # dtype: what model.dtype auto resolved to on the run's machine
    compared = {key: value for key, value in recipe.items() if key not in {"seed", "name", "stages"} | ONLY_WRITING}
    names = list(recipe["stages"])
    done = names[: names.index(stage) + 1] if stage in names else []
    rows = (manifest.get("data") or {}).get("train") if done else None
    stages = [[name, recipe["stages"][name], manifest.get("sources", {}).get(name, {}).get("sha256")] for name in done]
    return json.dumps([compared, base.get("dtype"), base.get("fingerprint"), rows, stages], sort_keys=True)


def _as_now(recipe: dict) -> dict:
    """A resolved recipe with later settings at their defaults; unchanged where it is not a valid recipe now."""
    try:
        return Recipe.model_validate(recipe).model_dump(mode="json")
    except ValidationError:
        return recipe


def _require_other_seeds(runs: Sequence[RunFiles]) -> None:
    seen: dict[int, RunFiles] = {}
    for run in runs:
        if run.seed in seen:
            raise HeftError(
                f"{seen[run.seed].path} and {run.path} are one recipe with one seed, {run.seed}: nothing to compare"
            )
        seen[run.seed] = run


def _tell_apart(members: Sequence[Sequence[RunFiles]], stages: Sequence[str]) -> list[str]:
    """The shortest naming under which no two arms have the same name, and none reads as a stage of another's run."""
    ends = [stage if stage != runs[0].final.stage else "" for runs, stage in zip(members, stages, strict=True)]
    for plain in (lambda run: run.name, partial(_end_of_path, 1), partial(_end_of_path, 2), lambda run: str(run.path)):
        names = [plain(runs[0]) + (f":{end}" if end else "") for runs, end in zip(members, ends, strict=True)]
        if _unlike(names) and _unlike({runs[0].path: plain(runs[0]) for runs in members}.values()):
            return names
    return [f"{name} ({number})" for number, name in enumerate(names, 1)]


def _end_of_path(parts: int, run: RunFiles) -> str:
    return "/".join(run.path.resolve().parts[-parts:])


def _unlike(names: Iterable[str]) -> bool:
    names = list(names)
    return len(set(names)) == len(names)
