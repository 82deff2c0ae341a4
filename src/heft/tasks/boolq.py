"""BoolQ: yes-or-no questions about a passage (Clark et al. 2019, arXiv 1905.10044)."""

from typing import ClassVar, Literal

from heft.tasks.base import Example, SplitSettings, Task, choice_example
from heft.tasks.sources import BOOLQ_PATH, HubSource


class BoolqSettings(SplitSettings):
    """Yes-or-no questions about a passage."""

    has_wheel: ClassVar[bool] = True

    name: Literal["boolq"] = "boolq"
    """BoolQ: yes-or-no questions about a passage."""
    passage: bool = True
    """Whether the prompt shows the passage; without it the model answers from memory, some 15 points lower."""


class Boolq(Task):
    """Passage, question, "Answer:"; choices " no" (0) and " yes" (1). Examples of one passage share a group.

    The prompt is that of EleutherAI's lm-evaluation-harness, so that zero-shot figures can be set beside its own.
    """

    name = "boolq"
    settings_type = BoolqSettings
    hub = HubSource(BOOLQ_PATH)
    fields = {"question": str, "passage": str, "answer": bool}
    settings: BoolqSettings

    def example(self, row: dict) -> Example:
        passage = row["passage"].strip()
        prompt = f"Question: {row['question'].strip().rstrip('?').rstrip()}?\nAnswer:"
        if self.settings.passage:
            prompt = f"{passage}\n{prompt}"
        return choice_example(self.name, prompt, ("no", "yes"), int(row["answer"]), group=passage)
