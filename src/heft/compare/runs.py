"""Run directories, read back strictly and without torch."""

import math
from dataclasses import dataclass
from pathlib import Path

from heft.adapters.places import run_directory, search_in
from heft.compare.schemas import ManifestFile, RecipeFile
from heft.errors import HeftError
from heft.results.metrics import measure
from heft.results.records import Record, read_records
from heft.results.summary import StageSummary, read_summaries
from heft.run.directory import RUN_FORMAT
from heft.settings.files import faults_error
from heft.settings.words import checked
from heft.settings.yaml import read_yaml_file
from heft.storage.reading import is_file, parse_json, read_json, read_lines
from heft.text.command import command


@dataclass(frozen=True)
class Evaluated:
    """The model after a stage, or the base, on the evaluation split.

    Attributes:
        stage: "base" or the stage's name.
        summary: its figures, from summary.json.
        records: one for each example.
    """

    stage: str
    summary: StageSummary
    records: tuple[Record, ...]


@dataclass(frozen=True)
class RunFiles:
    """The files of a run.

    Attributes:
        path: its directory.
        name, seed: from its recipe.
        recipe: the resolved recipe.
        manifest: versions and fingerprints.
        evaluations: the base, then each stage that was finished, in order.
    """

    path: Path
    name: str
    seed: int
    recipe: dict
    manifest: dict
    evaluations: tuple[Evaluated, ...]

    @property
    def final(self) -> Evaluated:
        """The last evaluation."""
        return self.evaluations[-1]

    @property
    def missing(self) -> list[str]:
        """Stages of the recipe that the run has not reached."""
        return [name for name in self.recipe["stages"] if name not in {e.stage for e in self.evaluations}]

    def after(self, stage: str) -> Evaluated:
        """The evaluation after a stage, or of the base; a HeftError where the run has none."""
        by_stage = {evaluation.stage: evaluation for evaluation in self.evaluations}
        if stage not in by_stage:
            raise HeftError(f"{self.path} has no stage {stage!r}; it has {', '.join(by_stage)}")
        return by_stage[stage]


def read_run(path: Path) -> RunFiles:
    """Read a run, given its directory or its adapter directory.

    Raises:
        HeftError: it is not a run directory, is of another version of heft, or a file in it is missing or broken.
    """
    path = run_directory(path)
    manifest = read_json(path / "manifest.json")
    require_format(path, manifest, RUN_FORMAT)
    checked(path / "manifest.json", manifest, ManifestFile)
    recipe = _read_recipe(path / "recipe.yaml")
    if recipe.get("sweep") is not None:
        raise HeftError(
            f"{path} is a sweep, not a run; train its winner with `{command('train', path / 'winner.yaml')}`"
        )
    checked(path / "recipe.yaml", recipe, RecipeFile)
    if (search := search_in(path)) is not None:
        raise HeftError(search)
    if not is_file(path / "summary.json"):
        raise HeftError(f"{path} holds no evaluation yet: the run ended, or still is, before the end of its first one")
    summaries = read_summaries(path)
    names = [summary.name for summary in summaries]
    if names[:1] != ["base"] or len(set(names)) < len(names):
        raise HeftError(f"{path / 'summary.json'} must hold the base, then stages, each once; got {', '.join(names)}")
    evaluations = tuple(_evaluated(path, summary) for summary in summaries)
    return RunFiles(path, recipe["name"], recipe["seed"], recipe, manifest, evaluations)


def read_metrics(path: Path) -> list[dict]:
    """The lines of metrics.jsonl in a run's directory; none where nothing was logged. A last one cut off is left out.

    Raises:
        HeftError: a line is not a JSON object.
    """
    file = Path(path) / "metrics.jsonl"
    if not is_file(file):
        return []
    rows = []
    for number, line in read_lines(file):
        if not line.endswith(b"\n"):
            break
        try:
            rows.append(parse_json(line, finite=False))  # a loss may have been NaN
        except ValueError as error:
            raise HeftError(f"{file}:{number}: {error}") from None
        if not isinstance(rows[-1], dict):
            raise HeftError(f"{file}:{number}: not a JSON object")
    return rows


def require_format(path: Path, value: dict, known: int) -> None:
    """Raise a HeftError where files have another format than the one that is read here."""
    found = value.get("format")
    if found != known:
        given = "no format" if found is None else f"format {found!r}"
        raise HeftError(f"{path} was made by another version of heft ({given}, this one reads {known}); run it again")


def _read_recipe(path: Path) -> dict:
    document = read_yaml_file(path, "resolved recipe", "the one that heft train writes")
    if document.faults:
        raise HeftError(f"{path} cannot be read: {faults_error(document.faults)}")
    if not isinstance(document.data, dict):
        raise HeftError(f"{path} does not hold a recipe")
    return document.data


def _evaluated(path: Path, summary: StageSummary) -> Evaluated:
    file = path / "records" / f"{summary.name}.jsonl"
    records = read_records(file)
    if len(records) != summary.n:
        raise HeftError(f"{file} holds {len(records):,} records, summary.json counts {summary.n:,}; run it again")
    figures = measure(records)
    checked = ("accuracy", "balanced_accuracy", "majority", "predictions")
    unlike = [key for key in checked if not _same(getattr(figures, key), getattr(summary, key))]
    if unlike:
        raise HeftError(
            f"{file} and summary.json do not agree on {', '.join(unlike)}: one of them was changed; run it again"
        )
    return Evaluated(summary.name, summary, tuple(records))


def _same(computed: object, written: object) -> bool:
    if isinstance(computed, dict) and isinstance(written, dict):
        return computed.keys() == written.keys() and all(_same(computed[key], written[key]) for key in computed)
    if isinstance(computed, float) and isinstance(written, int | float):
        return math.isclose(computed, written, abs_tol=1e-9)
    return computed == written
