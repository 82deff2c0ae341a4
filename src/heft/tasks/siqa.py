"""Social IQa: why people act, and what they feel and do next (Sap et al. 2019, arXiv 1904.09728)."""

from typing import ClassVar, Literal

from heft.tasks.base import Task, index_among
from heft.tasks.choices import ChoiceSettings, options_example, question_cloze
from heft.tasks.example import Example
from heft.tasks.sources import HubSource


class SiqaSettings(ChoiceSettings):
    """Questions about a social situation, three options."""

    sources: ClassVar = {"hub": HubSource("allenai/social_i_qa", revision="refs/convert/parquet")}

    name: Literal["siqa"] = "siqa"
    """Social IQa: why people act, and what they feel and do next."""


class Siqa(Task):
    """Situation, question and three options; labels are "1" to "3". Examples of one situation share a group.

    On the Hub the default branch is a loading script, which `datasets` 4 refuses; the converted branch has the rows.
    """

    settings_type = SiqaSettings
    fields = {"context": str, "question": str, "answerA": str, "answerB": str, "answerC": str, "label": str}
    answer_field = "label"
    settings: SiqaSettings

    def example(self, row: dict) -> Example:
        context, question = row["context"].strip(), row["question"].strip()
        options, gold = (row["answerA"], row["answerB"], row["answerC"]), index_among(row, "label", ("1", "2", "3"))
        head, cloze = f"{context}\nQuestion: {question}", f"{context}\n{question_cloze(question)}"
        return options_example(self.name, self.settings.format, head, cloze, options, gold, group=context)
