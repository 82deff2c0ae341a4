"""WinoGrande: who or what a blank stands for (Sakaguchi et al. 2019, arXiv 1907.10641)."""

from typing import ClassVar, Literal

from heft.errors import HeftError
from heft.settings.words import show
from heft.tasks.base import Task, index_among
from heft.tasks.choices import ChoiceSettings, options_example
from heft.tasks.example import Example
from heft.tasks.sources import HubSource


class WinograndeSettings(ChoiceSettings):
    """Which of two words fills the blank of a sentence."""

    sources: ClassVar = {"hub": HubSource("allenai/winogrande", "winogrande_xl")}

    name: Literal["winogrande"] = "winogrande"
    """WinoGrande (xl): which of two words fills the blank of a sentence."""


class Winogrande(Task):
    """Sentence with one blank `_` and two options; answers are "1" and "2".

    Cloze: the prompt is the sentence up to the blank ("Sentence:" where the blank comes first), a choice is an option
    and the rest. Sentences come in twins that differ by a word; those that agree up to the blank share a group.
    """

    settings_type = WinograndeSettings
    fields = {"sentence": str, "option1": str, "option2": str, "answer": str}
    answer_field = "answer"
    settings: WinograndeSettings

    def example(self, row: dict) -> Example:
        sentence = row["sentence"].strip()
        if sentence.count("_") != 1:
            raise HeftError(f"sentence must have one blank '_'; got {show(sentence)}")
        options, gold = [row["option1"].strip(), row["option2"].strip()], index_among(row, "answer", ("1", "2"))
        before, _, rest = sentence.partition("_")
        before = before.strip()
        if self.settings.format == "cloze":
            options = [option + rest for option in options]
        return options_example(
            self.name,
            self.settings.format,
            head=f"Sentence: {sentence}\nWhich option fills the blank?",
            cloze_prompt=before or "Sentence:",
            options=options,
            gold=gold,
            group=before or sentence,
        )
