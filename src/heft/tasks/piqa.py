"""PIQA: everyday physical common sense, which of two ways reaches a goal (Bisk et al. 2020, arXiv 1911.11641)."""

from typing import ClassVar, Literal

from heft.tasks.base import Task, index_among
from heft.tasks.choices import ChoiceSettings, options_example, question_cloze
from heft.tasks.example import Example
from heft.tasks.sources import HubSource


class PiqaSettings(ChoiceSettings):
    """Which of two ways reaches a goal."""

    sources: ClassVar = {"hub": HubSource("ybisk/piqa", revision="refs/convert/parquet")}

    name: Literal["piqa"] = "piqa"
    """PIQA: which of two ways reaches an everyday goal."""


class Piqa(Task):
    """Goal and two solutions. Examples of one goal share a group.

    On the Hub the default branch is a loading script, which `datasets` 4 refuses; the converted branch has the rows.
    """

    settings_type = PiqaSettings
    fields = {"goal": str, "sol1": str, "sol2": str, "label": int}
    answer_field = "label"
    settings: PiqaSettings

    def example(self, row: dict) -> Example:
        goal = row["goal"].strip()
        options, gold = (row["sol1"], row["sol2"]), index_among(row, "label", (0, 1))
        head = f"Goal: {goal}\nWhich way reaches the goal?"
        return options_example(self.name, self.settings.format, head, question_cloze(goal), options, gold, group=goal)
