"""What a report is about: runs and studies, gathered into arms and compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from heft.compare.arms import Arm, arms_of, read_study, stage_arms
from heft.compare.comparison import Comparison, PairResult, compare, stage_pairs
from heft.compare.runs import Evaluated, RunFiles, read_run
from heft.report.words import listed


@dataclass(frozen=True)
class Subject:
    """Everything that a page shows.

    Attributes:
        title: what the runs are called.
        arms: with their runs' files.
        comparison: of the arms.
        studies: the study.json of each study.
    """

    title: str
    arms: Sequence[Arm]
    comparison: Comparison
    studies: Sequence[dict]

    @property
    def runs(self) -> list[RunFiles]:
        """Every run once, in the order of the arms."""
        return list({run.path: run for arm in self.arms for run in arm.runs}.values())

    def arm(self, name: str) -> Arm:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    def sides(self, pair: PairResult) -> tuple[int | None, Evaluated, Evaluated]:
        """One evaluation of each of a pair's arms: of the first seed that both have (else None, and each one's own)."""
        first, second = self.arm(pair.first), self.arm(pair.second)
        by_seed = {run.seed: run for run in second.runs}
        both = next(((run, by_seed[run.seed]) for run in first.runs if run.seed in by_seed), None)
        one, other = both or (first.runs[0], second.runs[0])
        return one.seed if both else None, one.after(first.stage), other.after(second.stage)


@dataclass(frozen=True)
class Trained:
    """Runs that were trained alike, whatever stages of them are compared."""

    title: str
    runs: Sequence[RunFiles]


def trained(arms: Sequence[Arm]) -> list[Trained]:
    """The training behind the arms, each once; what was evaluated before any training has none."""
    users: dict[tuple[Path, ...], list[Arm]] = {}
    for arm in arms:
        users.setdefault(tuple(run.path for run in arm.runs), []).append(arm)
    shown: set[Path] = set()
    groups = []
    for paths, members in users.items():
        if all(arm.stage == "base" for arm in members) or set(paths) <= shown:
            continue
        shown.update(paths)
        runs = members[0].runs
        groups.append(Trained(members[0].name if len(members) == 1 else runs[0].name, runs))
    return groups


def gather(paths: Sequence[Path]) -> Subject:
    """Read run and study directories, one or more, and compare what is in them.

    One run alone is looked at stage by stage.

    Raises:
        HeftError: a directory cannot be read, or its runs cannot be compared.
    """
    studies = [read_study(path) for path in paths if (path / "study.json").is_file()]
    runs = [read_run(path) for path in paths if not (path / "study.json").is_file()]
    arms = [arm for own, _ in studies for arm in own]
    alone = len(paths) == len(runs) == 1
    arms += stage_arms(runs[0]) if alone else arms_of(runs)
    names = [study["name"] for _, study in studies] or list(dict.fromkeys(run.name for run in runs))
    reference = studies[0][1].get("reference") if len(studies) == 1 else None
    comparison = compare(arms, reference, stage_pairs(arms) if alone else None)
    return Subject(listed(names), arms, comparison, [study for _, study in studies])
