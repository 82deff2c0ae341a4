"""ARC (Clark et al. 2018, arXiv 1803.05457) and OpenBookQA (Mihaylov et al. 2018, arXiv 1809.02789): school science."""

from typing import ClassVar, Literal

from heft.errors import HeftError
from heft.settings.words import show
from heft.tasks.base import Task
from heft.tasks.choices import ChoiceSettings, check_options, options_example, question_cloze
from heft.tasks.example import Example
from heft.tasks.sources import HubSource

_SPLITS = {split: split for split in ("train", "validation", "test")}


class ArcEasySettings(ChoiceSettings):
    """School science questions, the easier part."""

    sources: ClassVar = {"hub": HubSource("allenai/ai2_arc", "ARC-Easy", _SPLITS)}

    name: Literal["arc_easy"] = "arc_easy"
    """ARC-Easy: school science questions."""


class ArcChallengeSettings(ChoiceSettings):
    """School science questions, the harder part."""

    sources: ClassVar = {"hub": HubSource("allenai/ai2_arc", "ARC-Challenge", _SPLITS)}

    name: Literal["arc_challenge"] = "arc_challenge"
    """ARC-Challenge: school science questions that word statistics miss."""


class OpenbookqaSettings(ChoiceSettings):
    """Elementary science, four options."""

    sources: ClassVar = {"hub": HubSource("allenai/openbookqa", "main", _SPLITS)}

    name: Literal["openbookqa"] = "openbookqa"
    """OpenBookQA: elementary science, a fact and common sense combined."""


class ArcEasy(Task):
    """Question and 3 to 5 options, re-lettered from A in their order."""

    settings_type = ArcEasySettings
    fields = {"question": str, "choices": dict, "answerKey": str}
    answer_field = "answerKey"
    settings: ChoiceSettings

    def example(self, row: dict) -> Example:
        options, gold = labelled_options(row)
        question = row["question"].strip()
        head, cloze = f"Question: {question}", question_cloze(question)
        return options_example(self.name, self.settings.format, head, cloze, options, gold)


class ArcChallenge(ArcEasy):
    """As ARC-Easy."""

    settings_type = ArcChallengeSettings


class Openbookqa(Task):
    """Question stem and four options; many stems are the beginning of a sentence, so cloze is the stem alone."""

    settings_type = OpenbookqaSettings
    fields = {"question_stem": str, "choices": dict, "answerKey": str}
    answer_field = "answerKey"
    settings: OpenbookqaSettings

    def example(self, row: dict) -> Example:
        options, gold = labelled_options(row)
        stem = row["question_stem"].strip()
        return options_example(self.name, self.settings.format, f"Question: {stem}", stem, options, gold)


def labelled_options(row: dict) -> tuple[list[str], int | None]:
    """The options of a row, and the gold one's index; None without a key.

    `choices` holds `text` and `label` (A to E or 1 to 5, only names); `answerKey` is a label.

    Raises:
        HeftError: the lists are missing or do not match, or the key is no label.
    """
    texts, labels = (row["choices"].get(name) for name in ("text", "label"))
    if not isinstance(texts, list) or not isinstance(labels, list) or len(texts) != len(labels):
        raise HeftError(f"choices must hold the lists text and label of one length; got {show(row['choices'])}")
    check_options(texts, "choices.text", least=3, most=5)
    if "answerKey" not in row:
        return texts, None
    if labels.count(row["answerKey"]) != 1:
        raise HeftError(f"answerKey must be one of the labels {show(labels)}; got {show(row['answerKey'])}")
    return texts, labels.index(row["answerKey"])
