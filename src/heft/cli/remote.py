"""What `--url` of several commands has in common."""

from collections.abc import Sequence
from pathlib import Path

from heft.errors import HeftError


def require_url(url: str | None, name: str | None, harness: str | None = None) -> None:
    """Require that options of a server go together.

    Raises:
        HeftError: they do not, or the URL is none of HTTP.
    """
    if name is not None and url is None:
        raise HeftError("--served-model-name goes with --url")
    if url is not None and not url.startswith(("http://", "https://")):
        raise HeftError(f"--url is {url!r}; expected one such as http://127.0.0.1:8000")
    if url is not None and harness is not None:
        raise HeftError("--url does not go with --harness, which needs the model here")


def served_name(directory: Path | None, stages: Sequence[str], base: str) -> str:
    """What `heft serve` calls a run, or a base model, where no name is given.

    Raises:
        HeftError: stages are asked for by themselves, which no server has.
    """
    if directory is None or list(stages) == ["base"]:
        return base
    from heft.adapters.places import own_name

    if stages:
        raise HeftError(
            "a server has the base, all stages of a run, and the stages up to one: leave out --stages, and name the"
            f" model, such as --served-model-name {own_name(directory)}:{stages[0]}"
        )
    return own_name(directory)
