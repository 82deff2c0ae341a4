"""What a search found as files: tune.json, table.md and tune.svg. heft.cli.tune prints the table."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from heft.storage.atomic import to_json, write_text
from heft.text.svg import CHARACTER, RIGHT, TOP, WIDTH, Drawing, axis, shortened
from heft.text.units import in_flops, in_time, percent, several
from heft.tune.budget import in_unit
from heft.tune.chosen_by import ChosenBy
from heft.tune.ledger import Account
from heft.tune.switch import Offer
from heft.tune.trial import Outcome, file_name
from heft.tune.verdict import ArmResult, verdict_in_words, winner_of

SHOWN = {"seconds": 4, "flops": 5}
"""Of a row of the table, which figure of cost the console shows beside the first four."""


@dataclass(frozen=True)
class Findings:
    """All that a report is made of.

    Attributes:
        name: the recipe's.
        budget: as it was given.
        unit: "seconds" or "flops".
        chosen_by: what trials are chosen by.
        results: the arms that have a trial, lowest loss first.
        accounts: all arms'.
        offers: at the forks of arms with two stages.
        validation_rows: that each trial is measured on.
        compared_rows: that the arms are compared on: those of repeats too, as far as the bests of all arms have them.
        finished: whether the search came to its end.
        calibration: what was spent before the arms began.
    """

    name: str
    budget: str
    unit: str
    chosen_by: ChosenBy
    results: list[ArmResult]
    accounts: Mapping[str, Account]
    offers: Mapping[str, list[Offer]]
    validation_rows: int
    compared_rows: int
    finished: bool
    calibration: float

    @property
    def winner(self) -> ArmResult:
        """The arm that is taken."""
        return winner_of(self.results)

    @property
    def words(self) -> str:
        """Who wins and why."""
        return verdict_in_words(self.results, self.unit, self.chosen_by)

    @property
    def columns(self) -> tuple[str, ...]:
        """Titles of the table beside the arms' names and settings."""
        return (self.chosen_by.name, "accuracy", "from the best (95 %)", "seconds", "FLOPs", "trials", "spent")


def trials_of(account: Account) -> list[Outcome]:
    """The trials of an arm that are whole recipes of it, in order."""
    return [outcome for outcome in account.used.values() if len(outcome.stages) == account.arm.count("+") + 1]


def table_rows(findings: Findings) -> list[tuple[str, ...]]:
    """The table, best arm first: its name and `Findings.columns`, then the settings of its best trial."""
    return [
        (
            f"{result.arm}{' (taken)' if result is findings.winner else ' (tie)' if result.ties else ''}",
            findings.chosen_by.figure(result.loss),
            percent(result.accuracy),
            "–" if result.difference == 0 else findings.chosen_by.difference(result.difference, result.interval),
            _training(result, findings.unit),
            in_flops(result.best.whole_flops),
            str(len(trials_of(findings.accounts[result.arm]))),
            in_unit(findings.accounts[result.arm].spent, findings.unit),
            settings_in_words(result.best),
        )
        for result in findings.results
    ]


def _training(result: ArmResult, unit: str) -> str:
    """Seconds of training the recipe alone; `~` where they are estimated."""
    seconds = result.best.whole_seconds
    if seconds is not None:
        return in_time(seconds)
    return f"~{in_time(result.cost)}" if unit == "seconds" else "–"


def settings_in_words(outcome: Outcome) -> str:
    """`coarse: 40 steps, learning_rate 0.001, rank 8; fine: …`: what the search chose, stage by stage."""
    keys = ("learning_rate", "reft_learning_rate", "rank", "positions", "layers")
    parts = []
    for name, stage in outcome.stages.items():
        own = {**stage, **{f"{m}.{k}": v for m in ("lora", "reft") for k, v in stage.get(m, {}).items()}}
        wanted = dict.fromkeys([*keys, *(f"{m}.{k}" for m in ("lora", "reft") for k in keys), *outcome.values])
        shown = [f"{key} {own[key]}" for key in wanted if own.get(key) not in (None, "all")]
        parts.append(f"{name}: {', '.join([several(stage['steps'], 'step'), *shown])}")
    return "; ".join(parts)


def write_report(folder: Path, findings: Findings) -> None:
    """Write tune.json, table.md and tune.svg."""
    write_text(folder / "tune.json", to_json(as_dict(findings)))
    write_text(folder / "table.md", _markdown(findings))
    plot(folder / "tune.svg", findings)


def as_dict(findings: Findings) -> dict[str, Any]:
    """What tune.json holds."""
    winner = findings.winner
    return {
        "name": findings.name,
        "budget": findings.budget,
        "unit": findings.unit,
        "chosen_by": findings.chosen_by.name,
        "finished": findings.finished,
        "calibration": findings.calibration,
        "validation_rows": findings.validation_rows,
        "compared_rows": findings.compared_rows,
        "winner": winner.arm,
        "verdict": findings.words,
        "arms": [_arm(result, findings) for result in findings.results],
        "without_a_trial": [arm for arm in findings.accounts if arm not in {each.arm for each in findings.results}],
    }


def _arm(result: ArmResult, findings: Findings) -> dict[str, Any]:
    account, best = findings.accounts[result.arm], asdict(result.best)
    del best["row_losses"]
    return arm_row(result, findings) | {
        "training_cost": result.cost,
        "budget": account.amount,
        "diverged": sum(outcome.diverged for outcome in trials_of(account)),
        "forks": [offer.as_dict() for offer in findings.offers.get(result.arm, [])],
        "best": best,
    }


def arm_rows(findings: Findings) -> list[dict[str, Any]]:
    """The arms' figures for programs, lowest loss first."""
    return [arm_row(result, findings) for result in findings.results]


def arm_row(result: ArmResult, findings: Findings) -> dict[str, Any]:
    """One arm's figures."""
    account = findings.accounts[result.arm]
    return {
        "arm": result.arm,
        "loss": result.loss,
        "accuracy": result.accuracy,
        "difference": result.difference,
        "interval": result.interval,
        "ties": result.ties,
        "still_falls": result.still_falls,
        "training_seconds": result.best.whole_seconds,
        "training_flops": result.best.whole_flops,
        "spent": account.spent,
        "trials": len(trials_of(account)),
        "recipe": f"arms/{file_name(result.arm)}.yaml",
    }


def _markdown(findings: Findings) -> str:
    state = "" if findings.finished else " The search was interrupted: this is the best so far."
    lines = [
        f"# {findings.name}: {findings.budget}, {findings.compared_rows:,} validation rows",
        "",
        f"{findings.words}{state}",
        "",
        f"| arm | {' | '.join(findings.columns)} | settings |",
        f"|{'---|' * (len(findings.columns) + 2)}",
        *(f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in table_rows(findings)),
        "",
        f"{_meaning(findings.chosen_by)} Seconds and FLOPs are of training the best recipe alone (~"
        " where seconds are estimated); `spent` is what the arm used of the budget, pieces that several arms share"
        " counted in each.",
    ]
    return "\n".join(lines) + "\n"


def _meaning(by: ChosenBy) -> str:
    if by.is_share:
        return "Expected errors: the mean of 1 − p of the right choice on the validation rows; differences in points."
    return "Validation loss: the mean of −ln p of an answer token."


def plot(path: Path, findings: Findings) -> None:
    """Draw the lowest of what trials are chosen by so far against what was spent, a line an arm."""
    curves = {arm: curve for arm, account in findings.accounts.items() if (curve := best_so_far(account))}
    points = [point for curve in curves.values() for point in curve]
    what = {"seconds": "time spent", "flops": "FLOPs spent"}[findings.unit]
    x = axis(what, [0.0, *(spent for spent, _ in points)], low=0.0, words=lambda spent: in_unit(spent, findings.unit))
    by = findings.chosen_by
    name, scale = (f"{by.name}, %", 100.0) if by.is_share else (by.name, 1.0)
    drawing = Drawing(x, axis(name, [scale * loss for _, loss in points], may_be_log=True))
    for number, (arm, curve) in enumerate(curves.items()):
        kind = "abcde"[number % 5]
        curve = [(spent, scale * loss) for spent, loss in curve]
        steps = [p for a, b in zip(curve, curve[1:], strict=False) for p in (a, (b[0], a[1]))] + [curve[-1]]
        drawing.line(steps, f"line {kind}")
        for point in curve:
            drawing.dot(point, f"fill {kind}", 2.2)
        place = WIDTH - RIGHT - 12 * CHARACTER, TOP + 10 + 13 * number
        drawing.text(*place, shortened(f"— {arm}", 14), f"label {kind}")
    write_text(path, drawing.file(f"{findings.name}: {by.lowest} against {what}, by arm"))


def best_so_far(account: Account) -> list[tuple[float, float]]:
    """(spent, lowest loss of the arm's trials so far), a point where it fell, and one at the end."""
    spent, lowest, points = 0.0, float("inf"), []
    own = {outcome.key for outcome in trials_of(account) if not outcome.is_repeat}  # which have other rows
    for outcome in account.used.values():
        spent += outcome.spent(account.unit)
        if outcome.key in own and outcome.loss is not None and outcome.loss < lowest:
            lowest = outcome.loss
            points.append((spent, lowest))
    return [*points, (spent, lowest)] if points and points[-1][0] < spent else points
