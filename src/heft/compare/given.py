"""What a person names on the command line: runs, stages of runs, studies."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from heft.compare.arms import Arm, arms_of, read_study, stage_arms
from heft.compare.comparison import stage_pairs
from heft.compare.runs import read_run


@dataclass(frozen=True)
class Given:
    """What is to be compared.

    Attributes:
        names: of the studies and of what else there is, for a title.
        arms: those of the studies, then those of the runs.
        reference: the study's, where there is one study and that arm has a finished run; else None.
        pairs: names of the arms to set against each other, where it is the stages of one run; else None.
        studies: the study.json of each study.
        labels: what arms of studies are, in their authors' words, by the arm's name; of those that have such words.
        notes: which runs of the studies failed and why, in sentences, and what follows from it.
    """

    names: list[str]
    arms: list[Arm]
    reference: str | None
    pairs: list[tuple[str, str]] | None
    studies: list[dict]
    labels: dict[str, str]
    notes: list[str]


def read_given(given: Sequence[str | Path]) -> Given:
    """Read directories of runs and studies, and `RUN:stage` for a stage of a run.

    One run alone, no stage of it named, is looked at stage by stage.

    Raises:
        HeftError: one of them cannot be read, or has no such stage.
    """
    named = [_path_and_stage(str(each)) for each in given]
    studies = [read_study(path) for path, stage in named if stage is None and _is_study(path)]
    rest = [(path, stage) for path, stage in named if stage is not None or not _is_study(path)]
    runs = [read_run(path) for path, _ in rest]
    alone = not studies and len(rest) == 1 and rest[0][1] is None
    own = stage_arms(runs[0]) if alone else arms_of(runs, [stage for _, stage in rest])
    names = _names_in_studies(studies, taken=[arm.name for arm in own])
    arms = [replace(arm, name=names[place, arm.name]) for place, (found, _) in enumerate(studies) for arm in found]
    notes = [note for _, study in studies for note in failures(study)]
    wanted = studies[0][1].get("reference") if len(studies) == 1 else None
    reference = names.get((0, wanted))
    if wanted is not None and reference is None:
        notes.append(f"The study’s reference, {wanted}, has no finished run.")
    return Given(
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
    """What of a study failed, from its study.json: a sentence for each arm and error, with the error's first line."""
    sentences = []
    for arm in study.get("arms", ()):
        seeds_by_error: dict[str, list[str]] = {}
        for failed in arm.get("failed", ()):
            seeds_by_error.setdefault(_first_line(failed["error"]), []).append(str(failed["seed"]))
        for error, seeds in seeds_by_error.items():
            who = f"seed {seeds[0]}, failed and is" if len(seeds) == 1 else f"seeds {', '.join(seeds)}, failed and are"
            sentences.append(f"{arm['name']}, {who} not counted: {error}")
    return sentences


def _first_line(text: object) -> str:
    return next(iter(str(text).strip().splitlines()), "no reason was given")


def _path_and_stage(given: str) -> tuple[Path, str | None]:
    path, colon, stage = given.rpartition(":")
    return (Path(path), stage) if colon and path and not os.path.exists(given) else (Path(given), None)


def _is_study(path: Path) -> bool:
    return os.path.isfile(path / "study.json")


def _names_in_studies(studies: Sequence[tuple[list[Arm], dict]], taken: Sequence[str]) -> dict[tuple[int, str], str]:
    """What each arm of each study is called here: as there, or STUDY/ARM where plain names are not all different."""
    plain = [*taken, *(arm.name for arms, _ in studies for arm in arms)]
    unlike = len(set(plain)) == len(plain)
    return {
        (place, arm.name): arm.name if unlike else f"{study['name']}/{arm.name}"
        for place, (arms, study) in enumerate(studies)
        for arm in arms
    }
