"""Hints at the end of a run: what was seen, what it means, and the setting that changes it.

Each rule is a function of a run's figures with its numbers above it; it gives hints only where something is wrong. None
of them is a statistical finding but `changed_nothing`, whose test is McNemar's.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

from heft.results.labels import label_of
from heft.results.proportions import mcnemar
from heft.results.records import Record
from heft.results.summary import StageSummary
from heft.text.units import interval, percent, several

FEWEST_ROWS = 20
"""Evaluated rows below which nothing is said of answers."""
GOOD = 0.98
"""Accuracy of the last stage from which nothing is said of steps and losses."""
ONE_ANSWER = 0.95
"""Share of one answer among those given from which it counts as given to everything …"""
MORE_THAN_RIGHT = 0.05
"""… where it is the right one that much less often."""
FEW_CHANGED = 0.05
"""Share of answers below which a stage has changed few."""
FEWEST_STEPS, MANY_STEPS = 20, 50
"""Optimizer steps below which a stage has hardly begun, and the steps that it is then advised to take."""
CUT = 0.1
"""Share of generated answers without an end from which it is worth a hint."""
SMALL_MODEL = 1_000_000_000
"""Parameters below which a model seldom knows what a letter before an option is for."""


@dataclass(frozen=True)
class Hint:
    """One thing that looks wrong.

    Attributes:
        rule: name of the rule that found it.
        stage: what it is about; "base" for the model before any.
        seen: what was seen, a sentence with its figures.
        means: what that means, a sentence.
        do: what to do, a sentence with the very setting to write.
    """

    rule: str
    stage: str
    seen: str
    means: str
    do: str

    def __str__(self) -> str:
        return f"{self.seen} {self.means} {self.do}"


@dataclass(frozen=True)
class StageFacts:
    """What is known of the model after a stage, or of the base.

    Attributes:
        summary: its figures.
        records: its answers.
        settings: the stage's settings as in a resolved recipe; none for the base.
        losses: (step, mean training loss) as logged, finite ones.
        validation: (step, validation loss) as logged, finite ones.
    """

    summary: StageSummary
    records: Sequence[Record]
    settings: Mapping[str, Any] = field(default_factory=dict)
    losses: Sequence[tuple[int, float]] = ()
    validation: Sequence[tuple[int, float]] = ()

    @property
    def name(self) -> str:
        """Of the stage, or "base"."""
        return self.summary.name

    @property
    def hardly_begun(self) -> bool:
        """Whether it took few optimizer steps, as planned."""
        return 0 < self.summary.steps < FEWEST_STEPS and self.summary.ended != "early_stopping"

    @property
    def is_frozen(self) -> bool:
        """Whether it takes an adapter as it is and trains nothing, so that it has no setting of training."""
        return self.summary.ended == "frozen"

    def more(self, factor: float) -> str:
        """The setting for so many times the steps, as it stands in a recipe; what trains a frozen stage on."""
        if self.is_frozen:
            return f"`stages.{self.name}.steps: {MANY_STEPS}`"
        steps, epochs = self.settings.get("steps"), self.settings.get("epochs")
        if steps or not epochs:
            return f"`stages.{self.name}.steps: {ceil((steps or self.summary.steps) * factor)}`"
        return f"`stages.{self.name}.epochs: {ceil(epochs * factor)}`"

    def train_longer(self, factor: float) -> str:
        """What to do where so many times the steps may help, without a full stop."""
        return f"Train {'it on' if self.is_frozen else 'longer'}: {self.more(factor)}"

    def rate(self, factor: float) -> str:
        """The setting for so many times the learning rate."""
        return f"`stages.{self.name}.learning_rate: {self.settings.get('learning_rate', 2e-4) * factor:.2g}`"


@dataclass(frozen=True)
class RunFacts:
    """A run that has trained at least one stage.

    Attributes:
        base: the model before any stage.
        trained: after each stage, in order.
        task: settings of the task, as in a resolved recipe.
        parameters: numbers of the base model; None where unknown.
    """

    base: StageFacts
    trained: Sequence[StageFacts]
    task: Mapping[str, Any] = field(default_factory=dict)
    parameters: int | None = None

    @property
    def last(self) -> StageFacts:
        """After the last stage."""
        return self.trained[-1]

    @property
    def steps(self) -> list[tuple[StageFacts, StageFacts]]:
        """Each stage with what was there before it."""
        return list(zip([self.base, *self.trained], self.trained, strict=False))


def one_answer(run: RunFacts) -> list[Hint]:
    """The last stage gives one answer to at least 95 % of the rows, and it is right for fewer (by 5 points or more)."""
    last = run.last
    n = len(last.records)
    (answer, given), *_ = Counter(record.prediction for record in last.records).most_common(1)
    right = sum(record.gold == answer for record in last.records)
    if n < FEWEST_ROWS or given < ONE_ANSWER * n or given - right < MORE_THAN_RIGHT * n:
        return []
    name = label_of(answer, last.summary.labels)
    seen = f"After {last.name} the answer is “{name}” for {given:,} of {n:,} rows; it is right for {right:,}."
    means = "The model gives one answer to everything: it has not learned to tell the rows apart."
    few = last.summary.steps < MANY_STEPS
    do = f"{last.train_longer(MANY_STEPS / max(1, last.summary.steps))}." if few else f"Try {last.rate(1 / 3)}."
    return [Hint("one_answer", last.name, seen, means, do)]


def below_majority(run: RunFacts) -> list[Hint]:
    """The last accuracy is not above that of always giving the commonest right answer (and answers do vary)."""
    last, summary = run.last, run.last.summary
    if summary.majority is None or summary.n < FEWEST_ROWS or summary.accuracy > summary.majority or one_answer(run):
        return []
    commonest = Counter(record.gold for record in last.records).most_common(1)[0][0]
    name = label_of(commonest, summary.labels)
    seen = (
        f"After {last.name} accuracy is {percent(summary.accuracy)}; always “{name}” has {percent(summary.majority)}."
    )
    means = "The model is no better than the commonest answer (the majority class)."
    how = last.train_longer(3) if last.is_frozen else f"Train longer ({last.more(3)}) or faster ({last.rate(3)})"
    do = f"{how}, and look at rows with `heft plan --show 3`."
    return [Hint("below_majority", last.name, seen, means, do)]


def changed_nothing(run: RunFacts) -> list[Hint]:
    """A stage changed fewer than 5 % of the answers, and McNemar's exact test shows no difference (p above 0.05).

    A stage of fewer than 20 steps is left to `too_few_steps`, which says why.
    """
    hints = []
    for before, after in run.steps:
        was = {record.id: record for record in before.records}
        both = [(was[record.id], record) for record in after.records if record.id in was]
        changed = sum(one.prediction != two.prediction for one, two in both)
        won = sum(two.correct and not one.correct for one, two in both)
        lost = sum(one.correct and not two.correct for one, two in both)
        unclear = not won + lost or mcnemar(won, lost) > 0.05
        if after.hardly_begun or len(both) < FEWEST_ROWS or changed >= FEW_CHANGED * len(both) or not unclear:
            continue
        seen = f"Stage {after.name} changed {several(changed, 'answer')} of {len(both):,} ({won} won, {lost} lost)."
        if before is not run.base and before.summary.accuracy >= GOOD:
            means = (
                f"It adds nothing that these rows show: {before.name} is already at {percent(before.summary.accuracy)}."
            )
            do = f"Leave `stages.{after.name}` out, or evaluate on harder rows."
        elif after.is_frozen:
            means = "The adapter that it takes changes nothing that these rows show; the difference could be chance."
            do = f"{after.train_longer(1)}, or leave `stages.{after.name}` out."
        else:
            means = "It has trained nothing that these rows show; the difference could be chance."
            do = f"Try {after.rate(3)} or {after.more(3)}, or leave `stages.{after.name}` out."
        hints.append(Hint("changed_nothing", after.name, seen, means, do))
    return hints


def never_ended(run: RunFacts) -> list[Hint]:
    """At least 10 % of the last stage's generated answers reached task.max_new_tokens before an end."""
    last = run.last
    n, cut = len(last.records), sum(record.cut for record in last.records)
    if n < FEWEST_ROWS or cut < CUT * n:
        return []
    most = run.task.get("max_new_tokens")
    seen = f"After {last.name} {cut:,} of {n:,} answers were cut at task.max_new_tokens ({most})."
    if cut >= ONE_ANSWER * n:
        means = "The model has not learned to end its answers."
        do = f'{last.train_longer(3)}, or give a text that ends them, such as `task.stop: ["\\n"]`.'
    else:
        means = "What was cut off is not compared, so right answers may count as wrong."
        do = f"Write `task.max_new_tokens: {2 * most}`." if most else "Raise `task.max_new_tokens`."
    return [Hint("never_ended", last.name, seen, means, do)]


def letters_at_chance(run: RunFacts) -> list[Hint]:
    """A base below 1 B parameters answers in letters, its interval holds chance, and training ended below 90 %."""
    base = run.base
    sizes = [len(record.log_likelihoods) for record in base.records]
    small = run.parameters is not None and run.parameters < SMALL_MODEL
    if run.task.get("format") != "letters" or not small or len(sizes) < FEWEST_ROWS or 0 in sizes:
        return []
    chance, (low, high) = sum(1 / size for size in sizes) / len(sizes), base.summary.interval
    if not low <= chance <= high or run.last.summary.accuracy >= 0.9:
        return []
    seen = (
        f"Before training, letters are right in {percent(base.summary.accuracy)} ({interval((low, high))}), and chance"
        f" is {percent(chance)}."
    )
    means = (
        f"A model of {run.parameters / 1e6:,.0f} M parameters seldom knows what a letter before an option stands for."
    )
    return [
        Hint("letters_at_chance", "base", seen, means, "Write `task.format: cloze`: the option’s text is the answer.")
    ]


AnswerRule = Callable[[RunFacts], list[Hint]]
ANSWER_RULES: tuple[AnswerRule, ...] = (one_answer, below_majority, changed_nothing, never_ended, letters_at_chance)
