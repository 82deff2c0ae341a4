"""HellaSwag: which of four endings continues a text (Zellers et al. 2019, arXiv 1905.07830)."""

import re
from typing import ClassVar, Literal

from heft.tasks.base import Task, index_among
from heft.tasks.choices import ChoiceSettings, check_options, options_example
from heft.tasks.example import Example
from heft.tasks.sources import HubSource


class HellaswagSettings(ChoiceSettings):
    """Which of four endings continues a text."""

    sources: ClassVar = {"hub": HubSource("Rowan/hellaswag")}

    name: Literal["hellaswag"] = "hellaswag"
    """HellaSwag: which of four endings continues a text."""


class Hellaswag(Task):
    """Context and four endings, cleaned; labels are "0" to "3". Examples of one context share a group.

    A row of the Hub gives the context in parts (activity_label, ctx_a, ctx_b), which are joined as
    "Activity: first part Second part"; a row without these parts is taken to have that form in `ctx` already.
    """

    settings_type = HellaswagSettings
    fields = {"ctx": str, "endings": list, "label": str}
    answer_field = "label"
    settings: HellaswagSettings

    def example(self, row: dict) -> Example:
        check_options(row["endings"], "endings", least=4, most=4)
        context = cleaned(_context(row))
        endings = [cleaned(ending) for ending in row["endings"]]
        check_options(endings, "endings (without bracketed marks)", least=4, most=4)
        gold = index_among(row, "label", ("0", "1", "2", "3"))
        head = f"{context}\nWhich ending continues the text?"
        return options_example(self.name, self.settings.format, head, context, endings, gold, group=context)


def cleaned(text: str) -> str:
    """The text without the marks of its origin on WikiHow; cleaning twice is cleaning once.

    As lm-evaluation-harness does: " [title]" ends a sentence, other bracketed marks go, double spaces become one.
    Deviations, so that it is idempotent: longer runs of spaces become one too, and none stay at the ends.
    """
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return re.sub(r" {2,}", " ", text).strip()


def _context(row: dict) -> str:
    parts = [row.get(name) for name in ("activity_label", "ctx_a", "ctx_b")]
    if not all(isinstance(part, str) for part in parts):
        return row["ctx"]
    activity, first, second = parts
    return f"{activity}: {first} {second.capitalize()}"
