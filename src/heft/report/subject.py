"""What a report is about: runs and studies, gathered into arms and compared."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from heft.compare.arms import Arm
from heft.compare.comparison import Comparison, PairResult, compare
from heft.compare.inputs import read_inputs
from heft.compare.runs import Evaluated, RunFiles
from heft.text.listing import listed


@dataclass(frozen=True)
class Subject:
    """Everything that a page shows.

    Attributes:
        title: what the runs are called.
        arms: with their runs' files.
        comparison: of the arms.
        studies: the study.json of each study.
        labels: what arms of studies are, in their authors' words, by the arm's name.
        notes: which runs of the studies failed and why, in sentences.
    """

    title: str
    arms: Sequence[Arm]
    comparison: Comparison
    studies: Sequence[dict]
    labels: Mapping[str, str]
    notes: Sequence[str]

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
    """Runs that were trained alike, up to the last stage of them that is compared."""

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
        ends = {arm.stage for arm in members}
        after = [arm for arm in members if arm.stage != "base"]
        title = after[0].name if len(after) == 1 else runs[0].name
        groups.append(Trained(title, [_up_to(run, ends) for run in runs]))
    return groups


def _up_to(run: RunFiles, ends: Collection[str]) -> RunFiles:
    """A run without what came after the last of some stages."""
    last = max(place for place, evaluation in enumerate(run.evaluations) if evaluation.stage in ends)
    return replace(run, evaluations=run.evaluations[: last + 1])


def gather(given: Sequence[str | Path]) -> Subject:
    """Read directories of runs and studies, and `RUN:stage` for a stage of a run, and compare what is in them.

    One run alone, no stage of it named, is looked at stage by stage.

    Raises:
        HeftError: one of them cannot be read, or they cannot be compared.
    """
    found = read_inputs(given)
    comparison = compare(found.arms, found.reference, found.pairs)
    return Subject(listed(found.names), found.arms, comparison, found.studies, found.labels, found.notes)
