"""ARC-Challenge: school science questions that word statistics miss (Clark et al. 2018, arXiv 1803.05457)."""

from typing import Literal

from heft.tasks.base import Example, Task
from heft.tasks.choices import ChoiceSettings, labelled_options, options_example, question_cloze
from heft.tasks.sources import HubSource


class ArcChallengeSettings(ChoiceSettings):
    """School science questions, the harder part."""

    name: Literal["arc_challenge"] = "arc_challenge"
    """ARC-Challenge: school science questions that word statistics miss."""


class ArcChallenge(Task):
    """Question and 3 to 5 options, re-lettered from A in their order."""

    name = "arc_challenge"
    settings_type = ArcChallengeSettings
    hub = HubSource("allenai/ai2_arc", "ARC-Challenge", {"train": "train", "validation": "validation", "test": "test"})
    fields = {"question": str, "choices": dict, "answerKey": str}
    settings: ArcChallengeSettings

    def example(self, row: dict) -> Example:
        options, gold = labelled_options(row)
        question = row["question"].strip()
        head, cloze = f"Question: {question}", question_cloze(question)
        return options_example(self.name, self.settings.format, head, cloze, options, gold)
