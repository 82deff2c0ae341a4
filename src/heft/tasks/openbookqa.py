"""OpenBookQA: elementary science with a fact and common sense (Mihaylov et al. 2018, arXiv 1809.02789)."""

from typing import Literal

from heft.tasks.base import Example, Task
from heft.tasks.choices import ChoiceSettings, labelled_options, options_example
from heft.tasks.sources import HubSource


class OpenbookqaSettings(ChoiceSettings):
    """Elementary science, four options."""

    name: Literal["openbookqa"] = "openbookqa"
    """OpenBookQA: elementary science, a fact and common sense combined."""


class Openbookqa(Task):
    """Question stem and four options; many stems are the beginning of a sentence, so cloze is the stem alone."""

    name = "openbookqa"
    settings_type = OpenbookqaSettings
    hub = HubSource("allenai/openbookqa", "main", {"train": "train", "validation": "validation", "test": "test"})
    fields = {"question_stem": str, "choices": dict, "answerKey": str}
    settings: OpenbookqaSettings

    def example(self, row: dict) -> Example:
        options, gold = labelled_options(row)
        stem = row["question_stem"].strip()
        return options_example(self.name, self.settings.format, f"Question: {stem}", stem, options, gold)
