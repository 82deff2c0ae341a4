"""GSM8K: grade-school arithmetic in words, worked out step by step (Cobbe et al. 2021, arXiv 2110.14168)."""

import re
from typing import ClassVar, Literal

from pydantic import Field

from heft.errors import HeftError
from heft.settings.words import show
from heft.tasks.base import SplitSettings, Task
from heft.tasks.example import Example, generation_example
from heft.tasks.sources import HubSource

MARK = "####"
_NUMBER = re.compile(r"(?:(?<![\w.)])-)?\$?(\d[\d,]*(?:\.\d+)?|\.\d+)", re.ASCII)


class Gsm8kSettings(SplitSettings):
    """Grade-school arithmetic; the answer is generated."""

    sources: ClassVar = {"hub": HubSource("openai/gsm8k", "main", {"train": "train", "test": "test"})}

    name: Literal["gsm8k"] = "gsm8k"
    """GSM8K: grade-school arithmetic in words; the worked solution is generated."""
    eval_split: str = Field(default="test", min_length=1)
    """The split to evaluate on; GSM8K has no validation split."""
    max_new_tokens: int = Field(default=400, ge=1)
    """Tokens generated for a solution at most."""


class Gsm8k(Task):
    """Question; the answer is the worked solution without its <<calculator>> marks, ending in "#### 18"."""

    generates = True
    settings_type = Gsm8kSettings
    fields = {"question": str, "answer": str}
    answer_field = "answer"
    stop = ("\nQuestion:",)
    settings: Gsm8kSettings

    def example(self, row: dict) -> Example:
        prompt = f"Question: {row['question'].strip()}\nAnswer:"
        if "answer" not in row:
            return generation_example(self.name, prompt)
        solution = re.sub(r"<<[^<>]*>>", "", row["answer"]).strip()
        target = final_number(solution)
        if MARK not in solution or target is None:
            raise HeftError(f"answer must end in '{MARK} <number>'; it ends in {show(solution[-30:])}")
        return generation_example(self.name, prompt, f" {solution}", target)

    def prediction(self, text: str) -> str | None:
        return final_number(text)


def final_number(text: str) -> str | None:
    """The last number of the line after the last "####", else the last number of the text; none without a number.

    Commas, $ and a trailing period are dropped, and so are leading zeros and zeros after the point: 18.0 is "18".
    """
    marked = text.rpartition(MARK)[2].strip().partition("\n")[0] if MARK in text else ""
    found = list(_NUMBER.finditer(marked)) or list(_NUMBER.finditer(text))
    if not found:
        return None
    whole, _, fraction = found[-1][1].replace(",", "").partition(".")
    whole, fraction = whole.lstrip("0") or "0", fraction.rstrip("0")
    number = f"{whole}.{fraction}" if fraction else whole
    return f"-{number}" if found[-1][0].startswith("-") and number != "0" else number
