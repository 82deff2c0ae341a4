"""A task of your own. Run: python examples/custom_task.py

Three ways, from least to most work:
- rows in a JSON Lines file: no code at all, `task: {name: rows, train: …, eval: …}` in the recipe;
- a list of examples made in Python: `own_list` below;
- a task that a recipe can name: the two classes below in `src/heft/tasks/larger.py`, and `Larger` in the tuple
  `_TASKS` of `src/heft/tasks/__init__.py`. Then `task: {name: larger, below: 1000}` in a recipe.
"""

import random
from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from heft.tasks import Example, Split, Task, TaskSettings, choice_example, examples_of


class LargerSettings(TaskSettings):
    """Which of two numbers is larger."""

    name: Literal["larger"] = "larger"
    """Generated: which of two numbers is larger."""
    below: int = Field(default=100, ge=10)
    """Numbers are drawn from 0 up to this, exclusive."""


class Larger(Task):
    """Two different numbers; choices are " first" and " second"."""

    settings_type = LargerSettings
    fields = {"first": int, "second": int}  # checked in every row before `example` sees it
    settings: LargerSettings

    def rows(self, split: Split) -> Iterator[tuple[str, dict]]:
        # Odd sums train and even sums evaluate, so no row is in both. Published data sets have `sources` instead.
        generator = random.Random(f"{self.settings.sample_seed} {split}")
        count = 0
        while count < 200:
            first, second = generator.sample(range(self.settings.below), 2)
            if (first + second) % 2 == (split == "train"):
                yield f"larger[{split}] row {count}", {"first": first, "second": second}
                count += 1

    def example(self, row: dict) -> Example:
        prompt = f"Which is larger, {row['first']} or {row['second']}?\nAnswer:"
        return choice_example(self.name, prompt, ("first", "second"), gold=int(row["second"] > row["first"]))


def own_list() -> list[Example]:
    """Examples without a task: anything that takes examples takes these."""
    return [
        choice_example("colours", "Is the sky green?\nAnswer:", ("no", "yes"), gold=0),
        choice_example("colours", "Is grass green?\nAnswer:", ("no", "yes"), gold=1),
    ]


if __name__ == "__main__":
    for example in examples_of(Larger(LargerSettings(eval_limit=3)), "eval") + own_list():
        print(f"{example.id}  {example.prompt!r} {example.answer!r}")
