"""The inputs of a comparison: runs, stages of runs, studies."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from heft.compare.arms import Arm, arms_of, read_study, stage_arms
from heft.compare.comparison import stage_pairs
from heft.compare.runs import RunFiles, read_run
from heft.errors import HeftError
from heft.text.listing import first_of

_RUNS_NAMED = 3


@dataclass(frozen=True)
class Inputs:
    """What to compare.

    Attributes:
        names: of the studies and of what else there is, for a title.
        arms: those of the studies, then those of the runs.
        reference: the study's, where there is one study and that arm has a finished run; else None.
        pairs: names of the arms to compare, where they are the stages of one run; else None.
        studies: the study.json of each study.
        labels: the label of each arm of a study that has one, by the arm's name.
        notes: which runs failed and why, or are not finished, and what casts doubt on the comparison, in sentences.
    """

    names: list[str]
    arms: list[Arm]
    reference: str | None
    pairs: list[tuple[str, str]] | None
    studies: list[dict]
    labels: dict[str, str]
    notes: list[str]


def read_inputs(given: Sequence[str | Path]) -> Inputs:
    """Read directories of runs and studies, and `RUN:stage` for a stage of a run.

    One run alone, without a stage, is compared stage by stage.

    Raises:
        HeftError: one of them cannot be read, or has no such stage.
    """
    named = [_path_and_stage(str(each)) for each in given]
    paths = [path for path, stage in named if stage is None and _is_study(path)]
    studies = [read_study(path) for path in paths]
    rest = [(path, stage) for path, stage in named if stage is not None or not _is_study(path)]
    runs = [read_run(path) for path, _ in rest]
    alone = not studies and len(rest) == 1 and rest[0][1] is None
    own = stage_arms(runs[0]) if alone else arms_of(runs, [stage for _, stage in rest])
    _require_once([*(arm for found, _ in studies for arm in found), *own])
    names = _names_in_studies(paths, studies, taken=[arm.name for arm in own])
    arms = [replace(arm, name=names[place, arm.name]) for place, (found, _) in enumerate(studies) for arm in found]
    notes = [note for found, study in studies for note in (*failures(study), *_unfinished(found, study))]
    if alone and runs[0].missing:
        notes.append(f"{runs[0].path} is unfinished: {', '.join(runs[0].missing)} is missing.")
    notes += _dates([run for arm in (*arms, *own) for run in arm.runs])
    notes += _other_rows([run for arm in (*arms, *own) if arm.stage != "base" for run in arm.runs])
    wanted = studies[0][1].get("reference") if len(studies) == 1 else None
    reference = names.get((0, wanted))
    if wanted is not None and reference is None:
        notes.append(f"The study’s reference, {wanted}, has no finished run.")
    return Inputs(
        names=[*(study["name"] for _, study in studies), *([runs[0].name] if alone else [arm.name for arm in own])],
        arms=[*arms, *own],
        reference=reference,
        pairs=stage_pairs(own) if alone else None,
        studies=[study for _, study in studies],
        labels={
            names[place, entry["name"]]: entry["label"]
            for place, (_, study) in enumerate(studies)
            for entry in study["arms"]
            if (place, entry["name"]) in names and entry.get("label") not in (None, entry["name"])
        },
        notes=notes,
    )


def failures(study: dict) -> list[str]:
    """What failed in a study, from its study.json: a sentence for each arm and error, with the error's first line."""
    sentences = []
    for arm in study.get("arms", ()):
        seeds_by_error: dict[str, list[str]] = {}
        for failed in arm.get("failed", ()):
            seeds_by_error.setdefault(_first_line(failed["error"]), []).append(str(failed["seed"]))
        for error, seeds in seeds_by_error.items():
            who = f"seed {seeds[0]}, failed and is" if len(seeds) == 1 else f"seeds {', '.join(seeds)}, failed and are"
            sentences.append(f"{arm['name']}, {who} not counted: {error}")
    return sentences


def _dates(runs: Sequence[RunFiles]) -> list[str]:
    """A note where prompts of several runs hold different dates."""
    dates = {run.manifest.get("template_date") for run in runs}
    days = sorted(day for day in dates if isinstance(day, str))
    if len(dates) < 2 or not days:
        return []
    return [
        f"The chat template wrote the day’s date into prompts, and runs are of several days: {', '.join(days)}. Their"
        " questions count as the same; task.template_date gives all runs one date."
    ]


def _other_rows(runs: Sequence[RunFiles]) -> list[str]:
    """A note where runs were trained on different rows, and their recipes name the same ones."""
    found: dict[str, dict[str, Path]] = {}
    for run in runs:
        named = json.dumps([run.recipe.get("model"), run.recipe.get("task")], sort_keys=True)
        rows = (run.manifest.get("data") or {}).get("train")
        found.setdefault(named, {}).setdefault(json.dumps(rows, sort_keys=True), run.path)
    return [
        f"{first_of(paths.values(), _RUNS_NAMED)} were trained on different rows, though their recipes name the same: a"
        " file has changed since, or rows came from Python."
        for paths in found.values()
        if len(paths) > 1
    ]


def _unfinished(arms: Sequence[Arm], study: dict) -> list[str]:
    """Which runs of a study are neither finished nor failed: a sentence for each arm."""
    done = {arm.name: [run.seed for run in arm.runs] for arm in arms}
    sentences = []
    for arm in study["arms"]:
        known = [*done.get(arm["name"], ()), *(failed["seed"] for failed in arm.get("failed", ()))]
        left = [str(seed) for seed in study.get("seeds", ()) if seed not in known]
        if left and arm.get("stage") is None:
            seeds = f"seed{'s' * (len(left) > 1)} {', '.join(left)}"
            sentences.append(f"{arm['name']}, {seeds}: not finished yet and not counted.")
    return sentences


def _require_once(arms: Sequence[Arm]) -> None:
    """Refuse the same stage of the same run given twice; a base is one evaluation, whichever run it is from."""
    seen: dict[tuple[Path, str], str] = {}
    for arm in arms:
        for run in arm.runs if arm.stage != "base" else ():
            key = (run.path.resolve(), arm.stage)
            if key in seen:
                raise HeftError(f"{run.path} is given twice (once as one of {seen[key]}); no run can be counted twice")
            seen[key] = arm.name


def _first_line(text: object) -> str:
    return next(iter(str(text).strip().splitlines()), "no reason was given")


def _path_and_stage(given: str) -> tuple[Path, str | None]:
    path, colon, stage = given.rpartition(":")
    return (Path(path), stage) if colon and path and not os.path.exists(given) else (Path(given), None)


def _is_study(path: Path) -> bool:
    return os.path.isfile(path / "study.json")


def _names_in_studies(
    paths: Sequence[Path], studies: Sequence[tuple[list[Arm], dict]], taken: Sequence[str]
) -> dict[tuple[int, str], str]:
    """The name of each arm of each study: as there, or STUDY/ARM where plain names are not all different.

    STUDY is its name, or its directory where studies have the same.
    """
    ways = (
        lambda place, arm: arm,
        lambda place, arm: f"{studies[place][1]['name']}/{arm}",
        lambda place, arm: f"{paths[place].resolve().name}/{arm}",
        lambda place, arm: f"{paths[place]}/{arm}",
    )
    for way in ways:
        names = {(place, arm.name): way(place, arm.name) for place, (arms, _) in enumerate(studies) for arm in arms}
        if len({*taken, *names.values()}) == len(taken) + len(names):
            break
    return names
