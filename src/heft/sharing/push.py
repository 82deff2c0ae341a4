"""`heft push`: a run's adapters and their card to the Hub, as one commit."""

import re
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from heft.adapters.hub import hub_id
from heft.errors import HeftError
from heft.runtime.hub import asked
from heft.sharing.facts import facts_of
from heft.sharing.folder import write_repository

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_BRANCH_PART = re.compile(r"\w(?!.*\.\.)[\w.-]*(?<!\.)")
"""Between slashes: what git takes, of the characters that `ORG/NAME@REVISION` has."""
OTHERWISE = (
    "nothing was committed. Try again when you are connected; until then `--dry-run` shows what would be sent, and"
    " `heft card` the card"
)
UNKNOWN = (
    "whether the commit arrived is not known: look at the repository's commits, and try again (files that are there"
    " already are not sent twice); `--dry-run` shows what would be sent"
)


@dataclass(frozen=True)
class Pushed:
    """What was sent, or would be.

    Attributes:
        repository: `ORG/NAME`.
        files: path in the repository → bytes.
        commit: its id; None for a dry run.
        url: of the commit.
    """

    repository: str
    files: dict[str, int]
    commit: str | None = None
    url: str | None = None


def push(
    given: str | Path,
    repository: str,
    private: bool = False,
    revision: str = "main",
    base: str | None = None,
    license: str | None = None,
    message: str | None = None,
    dry_run: bool = False,
    notice: Callable[[str], None] = lambda text: None,
) -> Pushed:
    """Send an adapter directory with a model card to a repository of the Hub, which is made where there is none.

    All files go in one commit, so a reader sees all of them or none.

    Args:
        given: a run or its adapter directory.
        repository: `ORG/NAME`.
        private: whether a new repository is to be seen by its owners alone; an old one has to be so already.
        revision: the branch, made where there is none.
        base: the base model's name on the Hub, where it is a folder here.
        license: its id, as the Hub has them.
        message: of the commit.
        dry_run: whether nothing is to be sent.
        notice: hears of each further try.

    Raises:
        HeftError: it cannot be read, the Hub does not answer or refuses, and nothing is committed then.
    """
    found = hub_id(repository)
    if found is None or found[1] is not None:
        raise HeftError(f"{repository!r} is no name of a repository; expected ORG/NAME (a branch goes to --revision)")
    if hub_id(f"{repository}@{revision}") is None or not all(_BRANCH_PART.fullmatch(p) for p in revision.split("/")):
        raise HeftError(
            f"--revision {revision!r} is no name of a branch; expected letters, digits, '.', '_', '-' and '/', such as"
            " v1"
        )
    facts = facts_of(given, base, license)
    with tempfile.TemporaryDirectory() as folder:
        files = write_repository(Path(folder), facts, repository, revision)
        sizes = {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
        if dry_run:
            return Pushed(repository, sizes)
        with _quietly():
            commit, url = _send(Path(folder), list(sizes), repository, private, revision, message, notice)
    return Pushed(repository, sizes, commit, url)


def _send(
    folder: Path,
    files: list[str],
    repository: str,
    private: bool,
    revision: str,
    message: str | None,
    notice: Callable[[str], None],
) -> tuple[str, str]:
    from huggingface_hub import CommitOperationAdd, HfApi

    from heft import __version__

    api = HfApi(library_name="heft", library_version=__version__)

    def commit():
        # what an earlier try has sent is there already, and a commit that arrived leaves nothing to do
        additions = [CommitOperationAdd(name, folder / name) for name in files]
        text = message or f"Adapters and model card, by heft {__version__}"
        return api.create_commit(repository, additions, commit_message=text, revision=revision)

    asked(lambda: _make(api, repository, private), repository, OTHERWISE, notice)
    if revision != "main":
        asked(lambda: api.create_branch(repository, branch=revision, exist_ok=True), repository, OTHERWISE, notice)
    try:
        done = asked(commit, repository, UNKNOWN, notice)
    except ValueError as error:  # of metadata that the Hub does not take
        raise HeftError(f"{repository}: the Hub refused the card or a file; nothing was committed: {error}") from error
    return done.oid, done.commit_url


def _make(api: "HfApi", repository: str, private: bool) -> None:
    """Make the repository where there is none, and see that it is as private as it is to be."""
    api.create_repo(repository, private=private or None, exist_ok=True)
    if private and not api.model_info(repository).private:
        raise HeftError(
            f"{repository} is there already and public, and --private makes new ones private only: make it private in"
            " its settings on the Hub first, or give another name; nothing was committed"
        )


@contextmanager
def _quietly():
    """Without huggingface_hub's bars and its advice, which heft gives itself."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, logging

    were, level = are_progress_bars_disabled(), logging.get_verbosity()
    disable_progress_bars()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if not were:
            enable_progress_bars()
