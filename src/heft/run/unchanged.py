"""Whether the rows of a finished run are still those that it was run with."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from heft.adapters.methods import edited_positions
from heft.data.encode import EncodedExample
from heft.data.rows import Data, dated, read_data
from heft.errors import HeftError
from heft.recipe.defaults import with_defaults_of
from heft.recipe.files import load_recipe, resolved, with_date_of
from heft.recipe.recipe import Recipe
from heft.run.directory import difference_in_words
from heft.runtime.reporter import Reporter
from heft.storage.reading import read_json


def fingerprints(data: Data) -> dict[str, dict]:
    """What a manifest says of a run's rows: how many each split has, and 16 hex digits of the SHA-256 of their ids and
    token ids, in order."""
    return {"train": _of_split(data.train), "eval": _of_split(data.eval)}


class RowsNow:
    """The rows of recipes as they are now; read once for each distinct model, task and set of edited positions.

    Args:
        reporter: hears of rows that cannot be read any more, and so not be compared.
    """

    def __init__(self, reporter: Reporter):
        self._reporter = reporter
        self._read: dict[str, dict | None] = {}

    def require_unchanged(self, path: Path, recipe: Recipe) -> None:
        """Require that a finished run in a directory has the rows that its recipe has now.

        Raises:
            HeftError: it has others, so its figures are not of these.
        """
        began = load_recipe(path / "recipe.yaml")
        there = read_json(path / "manifest.json").get("data")
        now = self._now(with_defaults_of(began, with_date_of(began, recipe)))
        if now is not None and there != now:
            raise HeftError(
                f"{path} holds a finished run of other data ({difference_in_words(there, now)}), so its figures are not"
                " of these rows: give another directory with --output DIR, or remove it"
            )

    def _now(self, recipe: Recipe) -> dict | None:
        """Of the rows of a recipe; None where they cannot be read."""
        positions = sorted(map(repr, edited_positions(recipe)))
        key = repr([recipe.model, recipe.task, recipe.allow, positions])
        if key not in self._read:
            try:
                self._read[key] = fingerprints(read_data(resolved(dated(recipe, Reporter())), Reporter()))
            except HeftError as error:
                self._reporter.warn(f"whether the rows are still those of the finished run was not looked at: {error}")
                self._read[key] = None
        return self._read[key]


def _of_split(rows: Sequence[EncodedExample]) -> dict:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(repr((row.example.id, row.prompt, row.choices, row.answer)).encode())
    return {"rows": len(rows), "fingerprint": digest.hexdigest()[:16]}
