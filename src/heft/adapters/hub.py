"""Adapters on the Hub: `ORG/NAME@REVISION`, downloaded once for each commit. Needs no torch.

Their files are copied out of the Hub's cache, where they are links, into heft's own, a folder for each commit. Nothing
else of a repository is downloaded: no code, no pickles.
"""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from heft.adapters.safety import CONFIG, WEIGHTS, require_inside
from heft.builtin import cache_dir
from heft.errors import HeftError
from heft.runtime.hub import asked
from heft.storage.atomic import atomic_folder
from heft.storage.locks import in_turn
from heft.storage.reading import is_dir, is_file

_HUB_ID = re.compile(r"([A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?", re.ASCII)
_FILES = ("heft.json", *(f"{folder}{name}" for folder in ("", "*/") for name in (CONFIG, WEIGHTS)))


def hub_id(given: str) -> tuple[str, str | None] | None:
    """Repository and revision of `ORG/NAME` or `ORG/NAME@REVISION`; None for any other text."""
    found = _HUB_ID.fullmatch(given)
    return None if found is None else (found[1], found[2])


def is_pinned(given: str) -> bool:
    """Whether a text names an adapter on the Hub with its revision, which no path here does."""
    found = hub_id(given)
    return found is not None and found[1] is not None and not is_dir(Path(given))


def downloaded(repository: str, revision: str | None) -> Path:
    """A folder with the adapter files that a repository has at a revision: those of heft, or PEFT's two.

    A branch is asked for anew at each call, since it goes on.

    Raises:
        HeftError: it is not there, or cannot be reached and is not in the cache.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    where = f" (there is no folder {repository} in {Path.cwd()} either)"
    snapshot = asked(
        lambda: _snapshot(snapshot_download, repository, revision, where),
        f"adapter {repository}",
        f"connect, or give a folder{where}",
    )
    target = _copies() / repository.replace("/", "--") / snapshot.name
    names = sorted({path.relative_to(snapshot) for pattern in _FILES for path in snapshot.glob(pattern)})
    if not _has_all(target, names):  # none, or those that were in the Hub's cache then
        with in_turn(target):
            if not _has_all(target, names):
                shutil.rmtree(target, ignore_errors=True)
                _copy(snapshot, names, target)
    return target


def name_of(folder: Path) -> str | None:
    """The repository's name, without its owner's, of a folder that `downloaded` gave; None for any other."""
    above = folder.resolve().parents
    return above[0].name.partition("--")[2] if len(above) > 1 and above[1] == _copies().resolve() else None


def _copies() -> Path:
    return cache_dir() / "hub"


def _has_all(target: Path, names: Sequence[Path]) -> bool:
    return all(is_file(target / name) for name in names)


def _snapshot(download, repository: str, revision: str | None, where: str) -> Path:
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(download(repository, revision=revision, allow_patterns=list(_FILES)))
    except LocalEntryNotFoundError as error:
        if error.__cause__ is not None and not isinstance(error.__cause__, OfflineModeIsEnabled):
            raise
        raise HeftError(
            f"adapter {repository} is not in the Hub's cache, and the Hub cannot be reached{where}: connect, or give a"
            " folder"
        ) from error


def _copy(snapshot: Path, names: Sequence[Path], target: Path) -> None:
    """Copy these files of a snapshot, which are links within the Hub's cache of that repository."""
    for name in names:
        require_inside(snapshot.parents[1], snapshot / name)
    with atomic_folder(target) as partial:
        for name in names:
            (partial / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(snapshot / name, partial / name)
