"""What a report is about: runs and studies, gathered into arms and compared."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from heft.compare.arms import Arm
from heft.compare.comparison import compare
from heft.compare.inputs import Inputs, read_inputs
from heft.compare.results import Comparison, PairResult
from heft.compare.runs import Evaluated, RunFiles


@dataclass(frozen=True)
class Subject(Inputs):
    """Everything that a page shows: what was given, and the comparison of it."""

    comparison: Comparison

    @property
    def runs(self) -> list[RunFiles]:
        """Every run once, in the order of the arms."""
        return list({run.path: run for arm in self.arms for run in arm.runs}.values())

    @property
    def is_one_run(self) -> bool:
        """Whether the arms are the stages of one run, each set against the one before it."""
        return len(self.runs) == 1 and [arm.name for arm in self.arms] == [e.stage for e in self.runs[0].evaluations]

    @property
    def best(self) -> Arm:
        """What the page is first about: the last stage of one run, else the first of the most accurate arms."""
        if self.is_one_run:
            return self.arms[-1]
        most = max(result.accuracy for result in self.comparison.arms)
        name = next(result.name for result in self.comparison.arms if result.accuracy == most)
        return next(arm for arm in self.arms if arm.name == name)

    def sides(self, pair: PairResult) -> tuple[int | None, Evaluated, Evaluated]:
        """One evaluation of each of a pair's arms: of the first seed that both have (else None, and each one's own)."""
        by_name = {arm.name: arm for arm in self.arms}
        first, second = by_name[pair.first], by_name[pair.second]
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
    return Subject(**vars(found), comparison=compare(found.arms, found.reference, found.pairs))


def base_of(arm: Arm) -> float | None:
    """Accuracy of the base of an arm's first run; None where it was not evaluated."""
    first = arm.runs[0].evaluations[0]
    return first.summary.accuracy if first.stage == "base" else None
