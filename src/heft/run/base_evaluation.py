"""The evaluation of a base model, found in runs that evaluated the same one before.

Every run shows what its stages made of the base, and the runs of a study mostly share it. It depends on nothing that is
trained, so it is computed once.
"""

from collections.abc import Iterable
from pathlib import Path

from heft.errors import HeftError
from heft.recipe.files import load_recipe
from heft.recipe.recipe import Recipe
from heft.results.records import Record, read_records
from heft.results.summary import StageSummary, read_summaries
from heft.storage.reading import read_json

_SAME = ("format", "heft_version", "python", "platform", "libraries", "device", "base")


def find_base_evaluation(
    runs: Iterable[Path], recipe: Recipe, manifest: dict
) -> tuple[Path, StageSummary, list[Record]] | None:
    """The first run that evaluated the same model on the same rows in the same way, with what it found.

    Args:
        runs: directories of runs; one that cannot be read is passed over.
        recipe: of the run that wants it.
        manifest: of that run (heft.run.train.run_manifest).

    Returns:
        its directory, and the figures and records of its base; None where there is no such run.
    """
    for path in runs:
        try:
            if not _same(load_recipe(path / "recipe.yaml"), read_json(path / "manifest.json"), recipe, manifest):
                continue
            summary = next((each for each in read_summaries(path) if each.name == "base"), None)
            file = path / "records" / "base.jsonl"
            if summary is not None and summary.agrees_with(file):
                return path, summary, read_records(file)
        except HeftError:
            continue
    return None


def _same(recipe: Recipe, manifest: dict, wanted: Recipe, wanted_manifest: dict) -> bool:
    """Whether the base would be evaluated to the same records; what is trained on, and how, may be another thing.

    Stages that keep prefixes for its evaluation (heft.evaluation.kept) change its records by rounding alone.
    """
    same_settings = all(getattr(recipe, key) == getattr(wanted, key) for key in ("model", "task", "evaluation"))
    same_base = all(manifest.get(key) == wanted_manifest[key] for key in _SAME)
    rows = manifest.get("data")
    same_rows = isinstance(rows, dict) and rows.get("eval") == wanted_manifest["data"]["eval"]
    return same_settings and same_base and same_rows
