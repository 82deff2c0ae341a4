"""What was found, in one sentence and in tiles, and what looks wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from heft.compare.arms import Arm
from heft.compare.comparison import mean_or_none
from heft.compare.hints import hints_of_run
from heft.compare.results import ArmResult, PairResult
from heft.compare.runs import RunFiles
from heft.errors import HeftError
from heft.report.parts import Tile
from heft.report.subject import Subject, base_of
from heft.results.hints import Hint
from heft.text.listing import listed
from heft.text.units import (
    count,
    in_bytes,
    in_time,
    interval,
    percent,
    points,
    points_interval,
    scaled,
    several,
    unsigned_points,
    without_exponent,
)

_METHODS = {"lora": "LoRA", "reft": "ReFT", "joint": "LoRA with ReFT"}
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")


@dataclass(frozen=True)
class Answer:
    """The page's first part.

    Attributes:
        headline: what was found, in a sentence.
        more: what each stage or arm has to do with it, in sentences.
        tiles: the figures of the arm that the headline is about.
        hints: what looks wrong in its runs.
        wary: what else to be wary of, in sentences.
    """

    headline: str
    more: Sequence[str]
    tiles: Sequence[Tile]
    hints: Sequence[Hint]
    wary: Sequence[str]


def answer(subject: Subject, best: Arm) -> Answer:
    """The first part of a page; `best` is the arm that it is about."""
    arms = {arm.name: arm for arm in subject.comparison.arms}
    result = arms[best.name]
    stages = subject.is_one_run
    base = base_of(best)
    generated = result.predictions is None
    rightly = "exactly as the reference does" if generated else "rightly"
    who = _who(best) if stages else best.name
    headline = (
        f"{who} answers {percent(result.accuracy)} of {result.n:,} evaluation rows {rightly}"
        f" ({interval(result.interval)})"
    )
    if best.stage != "base" and base is not None:
        headline += f"; the base model {percent(base)}"
    pairs = subject.comparison.pairs
    more = _of_stages(subject, pairs) if stages else _of_arms(arms, best.name, pairs)
    tiles = _tiles(best, result, base, _against_base(subject, best))
    return Answer(f"{headline}.", more, tiles, hints(best.runs), _wary(subject))


def _who(arm: Arm) -> str:
    """The methods up to a stage: `LoRA then ReFT`."""
    if arm.stage == "base":
        return "The base model"
    stages = arm.runs[0].recipe["stages"]
    names = list(stages)
    done = names[: names.index(arm.stage) + 1] if arm.stage in stages else names
    return " then ".join(_METHODS.get(stages[name].get("method"), str(name)) for name in done)


def _of_stages(subject: Subject, pairs: Sequence[PairResult]) -> list[str]:
    """A sentence for each stage after the first: what it added to the one before it."""
    sentences = []
    names = [arm.name for arm in subject.arms]
    by_names = {(pair.first, pair.second): pair for pair in pairs}
    for place, (before, after) in enumerate(zip(names, names[1:], strict=False)):
        pair = by_names[after, before]
        which = f"The {_ORDINALS[place]} stage" if place < len(_ORDINALS) else f"Stage {place + 1}"
        subject_ = which if len(names) > 2 else "Training"
        sentences.append(f"{subject_} ({after}) {_change(pair)}.")
    return sentences


def _change(pair: PairResult) -> str:
    """What the first has over the second, in plain words."""
    if not any(row["won"] or row["lost"] for row in pair.mcnemar):
        return "changed no answer from right to wrong or back"
    size = unsigned_points(abs(pair.difference))
    did = f"{'added' if pair.difference >= 0 else 'took away'} {size} points"
    chance = "is more than chance would give" if pair.verdict in ("better", "worse") else "could be chance"
    return f"{did}, which {chance}"


def _of_arms(arms: dict[str, ArmResult], best: str, pairs: Sequence[PairResult]) -> list[str]:
    """A sentence for each arm that the best one was compared with, the nearest first; at most three."""
    found = []
    for pair in pairs:
        if best in (pair.first, pair.second):
            other = pair.second if pair.first == best else pair.first
            shown = pair.verdict in ("better", "worse")
            difference = pair.difference if pair.first == best else -pair.difference
            against = f"{other} ({percent(arms[other].accuracy)})"
            if difference == 0:
                words = f"the accuracy of {against}"
            else:
                more = "more" if difference > 0 else "less"
                chance = "is more than chance would give" if shown else "could be chance"
                words = f"{unsigned_points(abs(difference))} points {more} than {against}, which {chance}"
            found.append((-arms[other].accuracy, f"{best} has {words}."))
    sentences = [sentence for _, sentence in sorted(found)]
    left = len(sentences) - 3
    more = f"Under Statistics there {'is' if left == 1 else 'are'} {several(left, 'more comparison')}."
    return sentences[:3] + ([more] if left > 0 else [])


def _against_base(subject: Subject, best: Arm) -> PairResult | None:
    """The comparison of an arm with the base that it was trained on; None where it was not compared with that."""
    arms = {arm.name: arm for arm in subject.arms}
    own = best.runs[0].evaluations[0].records
    for pair in subject.comparison.pairs:
        other = arms[pair.second]
        if pair.first == best.name and other.stage == "base" and other.runs[0].after("base").records == own:
            return pair
    return None


def _tiles(arm: Arm, result: ArmResult, base: float | None, lift: PairResult | None) -> list[Tile]:
    seeds = f" · {len(arm.runs)} seeds" if len(arm.runs) > 1 and arm.stage != "base" else ""
    tiles = [Tile("accuracy", percent(result.accuracy), f"95 % interval {interval(result.interval)}{seeds}")]
    if arm.stage == "base":
        return tiles
    if base is not None:
        tiles.append(Tile("base model", percent(base), "before training"))
        more = f"95 % interval {points_interval(lift.interval)}" if lift and lift.interval else "over the base model"
        tiles.append(Tile("lift, points", points(result.accuracy - base), more))
    summaries = [run.after(arm.stage).summary for run in arm.runs]
    rouge_l, chrf = (mean_or_none([getattr(each, key) for each in summaries]) for key in ("rouge_l", "chrf"))
    if rouge_l is not None:
        more = "" if chrf is None else f"chrF {100 * chrf:.1f}; likeness to the references, of 100"
        tiles.append(Tile("ROUGE-L", f"{100 * rouge_l:.1f}", more))
    costs = result.costs
    if costs.seconds is not None:
        tiles.append(Tile("training time", in_time(costs.seconds), _device(arm.runs[0])))
    if costs.trainable_parameters is not None:
        tiles.append(
            Tile("trainable parameters", _short(costs.trainable_parameters), _share(arm, costs.trainable_parameters))
        )
    size = folder_bytes(arm.runs[0].path / "adapter")
    if size is not None:
        tiles.append(Tile("adapter size", in_bytes(size), "on disk, all of its stages"))
    return tiles


def _device(run: RunFiles) -> str:
    device = run.manifest.get("device")
    return f"on {device}" if isinstance(device, str) else ""


def _short(number: float) -> str:
    """`2.72 M`, or the whole number below 10,000."""
    return count(number) if number < 1e4 else scaled(number, [(1e3, "k"), (1e6, "M"), (1e9, "B")])


def _share(arm: Arm, trained: float) -> str:
    total = (arm.runs[0].manifest.get("base") or {}).get("parameters")
    if not isinstance(total, int) or total <= 0:
        return ""
    return f"{without_exponent(f'{100 * trained / total:.2g}')} % of the base model’s"


def folder_bytes(folder: Path) -> int | None:
    """Size of the files in a folder and below; None where there are none."""
    try:
        sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    except OSError:
        return None
    return sum(sizes) if sizes else None


def hints(runs: Sequence[RunFiles]) -> list[Hint]:
    """The hints of runs that are seeds of one arm, each rule's of each stage once."""
    found: dict[tuple[str, str], Hint] = {}
    for run in runs:
        try:
            for hint in hints_of_run(run):
                found.setdefault((hint.rule, hint.stage), hint)
        except HeftError:
            continue  # the page's learning curves say what is wrong with the file
    return list(found.values())


def _wary(subject: Subject) -> list[str]:
    comparison = subject.comparison
    arms = comparison.arms
    warnings = []
    if always := [arm.name for arm in arms if arm.collapsed and len(arm.collapsed) == len(arm.seeds)]:
        warnings.append(f"One and the same answer to every question: {listed(always)}.")
    warnings += [
        f"{arm.name} gives one and the same answer to every question in {len(arm.collapsed)} of {len(arm.seeds)} runs."
        for arm in arms
        if arm.collapsed and len(arm.collapsed) < len(arm.seeds)
    ]
    weak = [arm.name for arm in arms if arm.majority is not None and arm.interval[0] <= arm.majority]
    if weak:
        majority = next(arm.majority for arm in arms if arm.majority is not None)
        warnings.append(f"Not shown to beat always giving the commonest answer ({percent(majority)}): {listed(weak)}.")
    return [*warnings, *subject.notes]
