"""The page and the Markdown table: sections in order, and the files written."""

from base64 import b64encode
from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from heft import __version__
from heft.compare.table import markdown
from heft.errors import HeftError
from heft.report import (
    by_label,
    calibration,
    curves,
    edits,
    examples,
    pairs,
    pareto,
    provenance,
    results,
    typesetting,
    usage,
)
from heft.report.answer import answer
from heft.report.parts import DASH, Section
from heft.report.subject import Subject, gather
from heft.storage.atomic import write_text
from heft.storage.targets import make_folder_of, require_new_file
from heft.text.escape import escape_controls
from heft.text.listing import listed


def write_report(given: Sequence[str | Path], output: Path, markdown_file: Path | None = None) -> None:
    """Write the page to `output`, and the table to `markdown_file` if given; both whole or not at all.

    `given` are directories of runs and studies, and `RUN:stage` for a stage of a run.

    Raises:
        HeftError: a directory cannot be read, its runs cannot be compared, or a file cannot be written there.
    """
    outputs = [path for path in (output, markdown_file) if path is not None]
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise HeftError(f"{output} cannot be both the page and the Markdown table; give two names")
    for path in outputs:
        require_new_file(path, "the report")
    subject = gather(given)
    page = render(subject)
    for path in outputs:
        make_folder_of(path)
    if markdown_file is not None:
        write_text(markdown_file, markdown(subject.comparison, subject.notes))
    write_text(output, page)


def sections(subject: Subject) -> list[Section]:
    """The page's parts below the answer, in order."""
    texts = examples.load_texts(subject.arms[0].runs[0])
    found = [
        results.results(subject),
        usage.section(subject.best),
        by_label.section(subject.best, texts),
        curves.section(subject),
        examples.section(subject, texts),
        pairs.section(subject) if subject.comparison.pairs else None,
        None if subject.is_one_run else pareto.section(subject),
        calibration.section(subject),
        edits.section(subject),
        provenance.section(subject),
    ]
    return [section for section in found if section is not None]


def render(subject: Subject) -> str:
    """The page as HTML: one file that asks for no other.

    Its one script copies lines and opens folds for printing; the page names it by its hash, so no other can run.
    """
    environment = Environment(
        loader=PackageLoader("heft.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for each in (typesetting.breakable, typesetting.code, typesetting.isolated, typesetting.unbroken):
        environment.filters[each.__name__] = each
    style, script = (_own_file(name) for name in ("page.css", "page.js"))
    first = subject.runs[0]
    page = environment.get_template("page.html.jinja").render(
        title=listed(subject.names),
        task=first.recipe["task"].get("name", DASH),
        model=(first.manifest.get("base") or {}).get("name", DASH),
        questions=subject.comparison.arms[0].n,
        sections=sections(subject),
        answer=answer(subject, subject.best),
        style=style,
        script=script,
        script_hash=b64encode(sha256(script.encode()).digest()).decode(),
        version=__version__,
    )
    return escape_controls(page)  # escaping leaves control characters, and marks that let a name read as another


def _own_file(name: str) -> Markup:
    return Markup(files("heft.report").joinpath(name).read_text(encoding="utf-8").strip())
