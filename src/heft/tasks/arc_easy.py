"""ARC-Easy: school science questions (Clark et al. 2018, arXiv 1803.05457)."""

from typing import Literal

from heft.tasks.base import Example, Task
from heft.tasks.choices import ChoiceSettings, labelled_options, options_example, question_cloze
from heft.tasks.sources import HubSource


class ArcEasySettings(ChoiceSettings):
    """School science questions, the easier part."""

    name: Literal["arc_easy"] = "arc_easy"
    """ARC-Easy: school science questions."""


class ArcEasy(Task):
    """Question and 3 to 5 options, re-lettered from A in their order."""

    name = "arc_easy"
    settings_type = ArcEasySettings
    hub = HubSource("allenai/ai2_arc", "ARC-Easy", {"train": "train", "validation": "validation", "test": "test"})
    fields = {"question": str, "choices": dict, "answerKey": str}
    settings: ArcEasySettings

    def example(self, row: dict) -> Example:
        options, gold = labelled_options(row)
        question = row["question"].strip()
        head, cloze = f"Question: {question}", question_cloze(question)
        return options_example(self.name, self.settings.format, head, cloze, options, gold)
