"""Where rows come from: a folder of JSON Lines, the Hugging Face Hub, or what else a task names."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from heft.errors import HeftError
from heft.storage.reading import is_dir, is_file
from heft.tasks.table import Row, read_json_lines, user_path
from heft.tasks.table.files import files_beside


class Source(Protocol):
    """A place that has the rows of a task's splits."""

    def rows(self, split: str) -> Iterator[Row]:
        """Yield every row of a split in the source's own order, with its place.

        Raises:
            HeftError: the source cannot be read, or has no such split.
        """


@dataclass(frozen=True)
class HubSource:
    """A data set on the Hub.

    `splits` maps the split names that heft uses (also the names of local files) to the Hub's, and lists only splits
    with answers. `revision` is a branch or commit; none is the default branch. `otherwise` is what else to do where the
    Hub cannot be reached.
    """

    path: str
    config: str | None = None
    splits: Mapping[str, str] = field(default_factory=lambda: {"train": "train", "validation": "validation"})
    revision: str | None = None
    otherwise: str | None = None

    def rows(self, split: str) -> Iterator[Row]:
        """As `Source.rows`; rows are counted from 0, as the data set's own index does."""
        if split not in self.splits:
            raise HeftError(f"{self.path} has no split {split!r} with answers; it has {', '.join(self.splits)}")
        where = f"{self.path}[{self.splits[split]}]"
        try:
            from datasets import load_dataset  # here because it takes a second to import

            rows = load_dataset(self.path, self.config, split=self.splits[split], revision=self.revision)
        except Exception as error:  # every kind of failure (offline, gated, renamed, full disk) has the same way out
            raise HeftError(self._failure(split, error)) from error
        if not len(rows):
            raise HeftError(f"{where} has no rows")
        for number, row in enumerate(rows):
            yield f"{where} row {number}", row

    def _failure(self, split: str, error: Exception) -> str:
        reason = (str(error).strip().splitlines() or ["no reason given"])[0]
        lines = [
            f"{self.path} could not be reached or opened on the Hugging Face Hub ({type(error).__name__}: {reason})."
            " Either",
            "  - check the network, the disk, and `hf auth login` where the data set asks for it; or",
            f"  - use a local copy: --set task.source=PATH, a folder that holds {split}.jsonl",
        ]
        return "\n".join([*lines, *([f"  - or {self.otherwise}"] if self.otherwise else [])])


def read_rows(source: str, split: str, sources: Mapping[str, Source]) -> Iterator[Row]:
    """Yield every row of a split with its place, in the source's own order.

    `source` is the name of one of the task's own `sources`, or the path of a folder that holds `<split>.jsonl`.

    Raises:
        HeftError: the source is missing, unreadable or empty.
    """
    if source in sources:
        return sources[source].rows(split)
    return read_json_lines(_split_file(user_path(source), split, sources))


def _split_file(folder: Path, split: str, sources: Mapping[str, Source]) -> Path:
    """`folder/<split>.jsonl`, or the reason that there is none."""
    if is_file(folder):
        raise HeftError(
            f"source {str(folder)!r} is a file; expected the folder that holds {split}.jsonl "
            "(for a file of your own use the task rows)"
        )
    if not is_dir(folder):
        expected = ", ".join([*sources, "the path of a folder"])
        raise HeftError(f"source {str(folder)!r} is not a folder; expected one of: {expected}")
    path = folder / f"{split}.jsonl"
    if not is_file(path):
        raise HeftError(f"{path} does not exist. {files_beside(path)}")
    return path
