"""A run's directory, `runs/<name>/`:

    recipe.yaml      the resolved recipe
    manifest.json    format, versions, seed, fingerprints of base model and data
    metrics.jsonl    loss, learning rate and gradient norm of every logged step
    rows/            rows that were given from Python, as JSON Lines
    records/         one JSON Lines file an evaluation: base, then each stage
    summary.json     the figures of each evaluation
    adapter/         the adapters (heft.adapters.directory)

    checkpoints/     from which an unfinished run is resumed (heft.run.checkpoints)
    report.html      the page that `Result.report` writes where no other place is given

It is made only once everything has been checked, so bad input leaves nothing behind.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from heft.errors import HeftError
from heft.results.records import Record, write_records
from heft.results.summary import StageSummary, read_summaries, write_summaries
from heft.run.begun import remove_first_files, require_free
from heft.runtime.reporter import Reporter
from heft.storage.atomic import append_line, readable_os_errors, to_json, write_text
from heft.storage.reading import read_json

RUN_FORMAT = 1
"""Number of the format of a run's files, in manifest.json; it rises when a reader of the old ones would misread."""
REPORT = "report.html"


class RunDirectory(Reporter):
    """Writes a run's files as the run reports; each is whole or absent, but for metrics.jsonl, which grows by lines.

    Args:
        path: of the directory.
        writes: False in a process that only follows along, which keeps the figures and writes nothing.

    Attributes:
        adapter, checkpoints: where these go.
        summaries: the figures of the evaluations so far.
    """

    def __init__(self, path: Path, writes: bool = True):
        self.path, self.writes = path, writes
        self.adapter, self.checkpoints, self._metrics = path / "adapter", path / "checkpoints", path / "metrics.jsonl"
        self.summaries: list[StageSummary] = []

    def create(self, recipe_yaml: str, manifest: dict, rows: Mapping[str, Sequence[dict]] | None = None) -> None:
        """Make the directory, with what is known before the run.

        `rows` are those that no file has, by the names that their files are to have; bytes in them, such as images, are
        null there.

        Raises:
            HeftError: it holds something already, or cannot be written.
        """
        if not self.writes:
            return
        require_free(self.path)
        try:
            with readable_os_errors(self.path):
                (self.path / "records").mkdir(parents=True)
            for name, some in (rows or {}).items():
                with readable_os_errors(self.path):
                    (self.path / "rows").mkdir(exist_ok=True)
                lines = (json.dumps(row, ensure_ascii=False, default=_no_bytes) + "\n" for row in some)
                write_text(self.path / "rows" / f"{name}.jsonl", "".join(lines))
            write_text(self.path / "recipe.yaml", recipe_yaml)
            write_text(self.path / "manifest.json", to_json(manifest))
        except BaseException:
            remove_first_files(self.path)
            raise

    def resume(self, manifest: dict) -> str:
        """Take up what an earlier call left: the figures of evaluations whose records are there and agree with them.

        Returns:
            what differs from the run's start, in words, and may change the result in its last bits; empty if nothing.

        Raises:
            HeftError: the run was begun by a version of heft that writes other files, on another base model or other
                data, or something else is in its way.
        """
        there = read_json(self.path / "manifest.json")
        if there.get("format") != manifest["format"]:
            raise HeftError(
                f"{self.path} was begun by another version of heft (format {there.get('format')!r}, this one writes"
                f" {manifest['format']}); resume it with that version, or give another directory with --output DIR"
            )
        if (self.path / "adapter").exists():
            raise HeftError(
                f"{self.path / 'adapter'} has no heft.json, so it is not the run's; move it away, then resume"
            )
        others = {"base": f"another base model ({there.get('base')}, now {manifest['base']})"}
        others["data"] = f"other data ({difference_in_words(there.get('data'), manifest['data'])})"
        for what, words in others.items():
            if there.get(what) != manifest[what]:
                raise HeftError(
                    f"{self.path} was begun with {words}, so it cannot be resumed: give another directory with --output"
                    " DIR, or remove it"
                )
        if _hashes(there) != _hashes(manifest):
            raise HeftError(
                f"{self.path} was begun from another adapter ({there.get('sources')}, now {manifest['sources']}), so it"
                " cannot be resumed: put that one back, or give another directory with --output DIR"
            )
        with readable_os_errors(self.path / "records"):
            (self.path / "records").mkdir(exist_ok=True)
        for summary in read_summaries(self.path):
            if not summary.agrees_with(self.records(summary.name)):
                break
            self.summaries.append(summary)
        was, now = _environment(there), _environment(manifest)
        return ", ".join(f"{key} {was.get(key)} (now {now[key]})" for key in now if was.get(key) != now[key])

    def forget_from(self, stage: str) -> None:
        """Drop the figures of a stage, and of those after it."""
        names = [summary.name for summary in self.summaries]
        if stage in names:
            del self.summaries[names.index(stage) :]

    @property
    def metrics_bytes(self) -> int:
        """Size of metrics.jsonl."""
        return self._metrics.stat().st_size if self._metrics.exists() else 0

    def cut_metrics(self, size: int) -> None:
        """Take away what metrics.jsonl has beyond that size."""
        if self.metrics_bytes > size:
            with readable_os_errors(self._metrics):
                os.truncate(self._metrics, size)

    def metrics(self, values: dict) -> None:
        """Append a line to metrics.jsonl."""
        if self.writes:
            append_line(self._metrics, json.dumps(values))

    def evaluated(self, summary: StageSummary, records: Sequence[Record]) -> None:
        """Write an evaluation's records, and its figures into summary.json."""
        self.summaries.append(summary)
        if self.writes:
            write_records(self.records(summary.name), records)
            write_summaries(self.path, self.summaries)

    def records(self, name: str) -> Path:
        """Where the records of an evaluation are."""
        return self.path / "records" / f"{name}.jsonl"


def difference_in_words(there: object, now: dict[str, dict]) -> str:
    """How the rows of a run, as its manifest has them, differ from those that there are now."""
    was = there if isinstance(there, dict) else {}
    found = []
    for split, word in (("train", "training"), ("eval", "evaluation")):
        old, new = was.get(split), now[split]
        before = old.get("rows") if isinstance(old, dict) else None
        if old != new:
            found.append(f"{before} {word} rows, now {new['rows']}{' others' if before == new['rows'] else ''}")
    return "; ".join(found)


def _no_bytes(value: bytes) -> None:
    """For bytes, which JSON cannot hold and no task reads."""


def _hashes(manifest: dict) -> dict:
    """SHA-256 of the files that stages start from, by stage; they may have moved."""
    sources = manifest.get("sources")
    found = sources if isinstance(sources, dict) else {}
    return {name: source.get("sha256") if isinstance(source, dict) else None for name, source in found.items()}


def _environment(manifest: dict) -> dict:
    libraries = manifest.get("libraries")
    flat = {key: manifest.get(key) for key in ("heft_version", "python", "platform", "device")}
    return flat | (libraries if isinstance(libraries, dict) else {})
